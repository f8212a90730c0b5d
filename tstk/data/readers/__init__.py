"""A file each for the formats that data come in."""
