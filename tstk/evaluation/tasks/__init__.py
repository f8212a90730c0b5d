"""The tasks of the core, one file each."""
