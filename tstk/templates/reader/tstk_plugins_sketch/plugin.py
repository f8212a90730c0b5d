"""Entries of this plugin. Keep it to literals: this module is imported whenever entries are listed."""

from tstk import Entry, hookimpl


@hookimpl
def tstk_entries():
    """Yield the entries of this plugin."""
    yield Entry(
        "reader",
        "sketch",
        "tstk_plugins_sketch.reader:read",
        "Text files: one series a line, its label first",
        provides={".sketch"},
        interface_version=1,
    )
