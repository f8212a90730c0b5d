"""The losses of the core, one file each."""
