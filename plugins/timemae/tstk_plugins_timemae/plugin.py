"""Registry entries of this plugin."""

from collections.abc import Iterator
from functools import partial

from tstk.plugins.hooks import Entry, hookimpl

_HERE = "tstk_plugins_timemae"
_entry = partial(Entry, interface_version=1)
_PAPER = "TimeMAE, arXiv:2303.00320"


@hookimpl
def tstk_entries() -> Iterator[Entry]:
    """Yield the paper's loss, encoder and decoder, and its settings as configs."""
    yield _entry(
        "loss",
        "timemae",
        f"{_HERE}.loss:TimeMAE",
        "Codewords of masked tokens, and their representation by a momentum teacher",
        paper=_PAPER,
    )
    yield _entry(
        "encoder",
        "timemae",
        f"{_HERE}.encoder:TimeMAEEncoder",
        "Post-norm blocks whose residual branches start near 0; or the layers of a BERT",
        paper=_PAPER,
    )
    yield _entry(
        "decoder",
        "timemae",
        f"{_HERE}.decoder:TimeMAEDecoder",
        "Cross-attention from mask tokens, with the published sizes and initial weights",
        paper=_PAPER,
    )
    for name, summary in (
        ("pretrain", "Pretraining on HAR: window 8, width 128, 8 layers, 192 codes, 60% masked"),
        ("published", "As pretrain, with the published width, mask, teacher and optimizer settings"),
        ("bert", "As pretrain, with the sizes of a small BERT (width 256), to start from its layers"),
        ("finetune", "A linear head, all weights trained; with --init-from RUN"),
        ("probe", "A linear head on frozen features; with --init-from RUN"),
    ):
        yield _entry("config", f"timemae/{name}", f"{_HERE}:configs/{name}.toml", summary, paper=_PAPER)
    yield _entry(
        "importer", "timemae", f"{_HERE}.importer:TimeMAEImporter", "State dicts of the published program", paper=_PAPER
    )
    yield _entry("recipe", "timemae", f"{_HERE}:recipes/timemae.toml", "Pretrain, probe, fine-tune", paper=_PAPER)
