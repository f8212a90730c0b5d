"""Entries of this plugin. Keep it to literals: this module is imported whenever entries are listed."""

from tstk import Entry, hookimpl


@hookimpl
def tstk_entries():
    """Yield the entries of this plugin."""
    yield Entry(
        "kernel",
        "nearest_code/sketch",
        "tstk_plugins_sketch.kernel:backend",
        "Codes in blocks of 1,024 vectors",
        interface_version=1,
    )
