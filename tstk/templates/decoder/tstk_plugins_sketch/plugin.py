"""What this plugin offers by name. Literals only: this module is imported whenever names are listed."""

from tstk import Entry, hookimpl


@hookimpl
def tstk_entries():
    """One entry per thing that has a name."""
    yield Entry(
        "decoder",
        "sketch",
        "tstk_plugins_sketch.decoder:Sketch",
        "A small network for each token alone",
        interface_version=1,
    )
    yield Entry("config", "sketch", "tstk_plugins_sketch:configs/sketch.toml", "Where to start", interface_version=1)
