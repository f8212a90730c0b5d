"""What this plugin offers by name. Literals only: this module is imported whenever names are listed."""

from tstk import Entry, hookimpl


@hookimpl
def tstk_entries():
    """One entry per thing that has a name."""
    yield Entry(
        "data",
        "sketch",
        "tstk_plugins_sketch.data:read",
        "Text files: one series a line, its label first",
        provides={".sketch"},
        interface_version=1,
    )
