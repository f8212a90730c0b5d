"""Entries of this plugin. Keep it to literals: this module is imported whenever entries are listed."""

from tstk import Entry, hookimpl


@hookimpl
def tstk_entries():
    """Yield the entries of this plugin."""
    yield Entry(
        "task",
        "sketch",
        "tstk_plugins_sketch.task:Sketch",
        "Positive numbers, such as counts, on a logarithmic scale",
        interface_version=1,
    )
