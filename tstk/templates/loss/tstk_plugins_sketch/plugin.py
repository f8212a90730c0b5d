"""What this plugin offers by name. Literals only: this module is imported whenever names are listed."""

from tstk import Entry, hookimpl


@hookimpl
def tstk_entries():
    """One entry per thing that has a name."""
    yield Entry(
        "loss",
        "sketch",
        "tstk_plugins_sketch.loss:Sketch",
        "Hide tokens, ask for their samples, forgive outliers",
        interface_version=1,
    )
    yield Entry("config", "sketch", "tstk_plugins_sketch:configs/sketch.toml", "Where to start", interface_version=1)
