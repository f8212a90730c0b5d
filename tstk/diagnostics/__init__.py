"""Diagnostics of the installation and of plugins."""
