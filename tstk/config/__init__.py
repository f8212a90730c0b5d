"""From flags and files to a checked configuration; run directories and recipes. Nothing here imports torch."""
