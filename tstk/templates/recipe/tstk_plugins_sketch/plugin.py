"""Entries of this plugin. Keep it to literals: this module is imported whenever entries are listed."""

from tstk import Entry, hookimpl


@hookimpl
def tstk_entries():
    """Yield the entries of this plugin."""
    yield Entry(
        "recipe",
        "sketch",
        "tstk_plugins_sketch:recipes/sketch.toml",
        "Pretrain by masking, then classify",
        interface_version=1,
    )
