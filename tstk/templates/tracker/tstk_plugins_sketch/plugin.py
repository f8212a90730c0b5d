"""Entries of this plugin. Keep it to literals: this module is imported whenever entries are listed."""

from tstk import Entry, hookimpl


@hookimpl
def tstk_entries():
    """Yield the entries of this plugin."""
    yield Entry(
        "tracker",
        "sketch",
        "tstk_plugins_sketch.tracker:create_tracker",
        "Append metrics to a file of text",
        interface_version=1,
    )
