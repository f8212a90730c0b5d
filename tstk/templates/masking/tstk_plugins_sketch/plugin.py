"""Entries of this plugin. Keep it to literals: this module is imported whenever entries are listed."""

from tstk import Entry, hookimpl


@hookimpl
def tstk_entries():
    """Yield the entries of this plugin."""
    yield Entry(
        "masking",
        "sketch",
        "tstk_plugins_sketch.masking:mask_earliest",
        "The earliest tokens",
        interface_version=1,
    )
