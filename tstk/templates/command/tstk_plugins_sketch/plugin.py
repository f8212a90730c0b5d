"""Entries of this plugin. Keep it to literals: this module is imported whenever entries are listed."""

from tstk import Entry, hookimpl


@hookimpl
def tstk_entries():
    """Yield the entries of this plugin."""
    yield Entry(
        "command",
        "sketch",
        "tstk_plugins_sketch.command:command",
        "Count the parameters of a run",
        interface_version=1,
    )
