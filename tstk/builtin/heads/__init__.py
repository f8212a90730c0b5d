"""The heads of the core, one file each."""
