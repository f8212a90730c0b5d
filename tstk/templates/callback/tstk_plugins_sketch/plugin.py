"""Entries of this plugin. Keep it to literals: this module is imported whenever entries are listed."""

from tstk import Entry, hookimpl


@hookimpl
def tstk_entries():
    """Yield the entries of this plugin."""
    yield Entry(
        "callback",
        "sketch",
        "tstk_plugins_sketch.callback:Sketch",
        "Log the norm of the weights",
        interface_version=1,
    )
