"""Entries of this plugin. Keep it to literals: this module is imported whenever entries are listed."""

from tstk import Entry, hookimpl


@hookimpl
def tstk_entries():
    """Yield the entries of this plugin."""
    yield Entry(
        "tokenizer",
        "sketch",
        "tstk_plugins_sketch.tokenizer:Sketch",
        "Linear projection of windows of samples",
        provides={"target_dim", "stride", "ordered"},
        interface_version=1,
    )
    yield Entry("config", "sketch", "tstk_plugins_sketch:configs/sketch.toml", "Example config", interface_version=1)
