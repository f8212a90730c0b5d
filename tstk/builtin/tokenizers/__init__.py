"""The tokenizers of the core, one file each."""
