"""The core's encoders, one file each."""
