"""Entries of this plugin. Keep it to literals: this module is imported whenever entries are listed."""

from tstk import Entry, hookimpl


@hookimpl
def tstk_entries():
    """Yield the entries of this plugin."""
    yield Entry(
        "head",
        "sketch",
        "tstk_plugins_sketch.head:Sketch",
        "Linear layer over mean and maximum of the tokens",
        interface_version=1,
    )
    yield Entry("config", "sketch", "tstk_plugins_sketch:configs/sketch.toml", "Example config", interface_version=1)
