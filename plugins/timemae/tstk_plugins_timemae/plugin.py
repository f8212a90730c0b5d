"""What this plugin offers by name."""

from collections.abc import Iterator
from functools import partial

from tstk.plugins.hooks import hookimpl
from tstk.plugins.registry import Entry

_HERE = "tstk_plugins_timemae"
_entry = partial(Entry, interface_version=1)
_PAPER = "TimeMAE, arXiv:2303.00320"


@hookimpl
def tstk_entries() -> Iterator[Entry]:
    """The paper's loss, encoder and decoder, and its settings as configs."""
    yield _entry(
        "loss",
        "timemae",
        f"{_HERE}.loss:TimeMAE",
        "Codewords of hidden tokens, and their representation by a momentum teacher",
        paper=_PAPER,
    )
    yield _entry(
        "encoder",
        "timemae",
        f"{_HERE}.encoder:TimeMAEEncoder",
        "Post-norm blocks that start closed; or BERT's layers transplanted into them",
        paper=_PAPER,
    )
    yield _entry(
        "decoder",
        "timemae",
        f"{_HERE}.decoder:Decoupled",
        "Cross-attention from mask tokens, with the published sizes and initial weights",
        paper=_PAPER,
    )
    for name, summary in (
        ("pretrain", "The paper's settings for HAR: window 8, width 64, 8 layers, 192 codes, 60% hidden"),
        ("published", "As pretrain, with the published code's mask, teacher and optimizer settings"),
        ("bert", "As pretrain, in the shape of a small BERT (width 256), whose layers fit in"),
        ("finetune", "A linear head, everything learns; with --from RUN"),
        ("probe", "A linear head on frozen features; with --from RUN"),
    ):
        yield _entry("config", f"timemae/{name}", f"{_HERE}:configs/{name}.toml", summary, paper=_PAPER)
    yield _entry("recipe", "timemae", f"{_HERE}:recipes/timemae.toml", "Pretrain, probe, fine-tune", paper=_PAPER)
