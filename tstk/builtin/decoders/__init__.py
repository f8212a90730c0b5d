"""The decoders of the core, one file each."""
