"""Entries of this plugin. Keep it to literals: this module is imported whenever entries are listed."""

from tstk import Entry, hookimpl


@hookimpl
def tstk_entries():
    """Yield the entries of this plugin."""
    yield Entry(
        "config",
        "sketch",
        "tstk_plugins_sketch:configs/sketch.toml",
        "Patches, a small transformer and a linear head",
        interface_version=1,
    )
