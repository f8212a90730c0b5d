"""Configs, recipes and run directories: flags and files to a validated config. Nothing here imports torch."""
