"""What this plugin offers by name. Literals only: this module is imported whenever names are listed."""

from tstk import Entry, hookimpl


@hookimpl
def tstk_entries():
    """One entry per thing that has a name."""
    yield Entry(
        "tokenizer",
        "sketch",
        "tstk_plugins_sketch.tokenizer:Sketch",
        "Windows of samples through one matrix",
        provides={"target", "step", "ordered"},
        interface_version=1,
    )
    yield Entry("config", "sketch", "tstk_plugins_sketch:configs/sketch.toml", "Where to start", interface_version=1)
