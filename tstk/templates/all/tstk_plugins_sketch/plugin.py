"""Entries of this plugin. Keep it to literals: this module is imported whenever entries are listed."""

from tstk import Entry, hookimpl


@hookimpl
def tstk_entries():
    """Yield the entries of this plugin."""
