"""What this plugin offers by name."""

from collections.abc import Iterator
from functools import partial

from tstk.plugins.hooks import hookimpl
from tstk.plugins.registry import Entry

_HERE = "tstk_plugins_cwtmae"
_entry = partial(Entry, interface_version=1)
_PAPER = "CWT-MAE-RoPE, github.com/Dryilv/Wearable-Foundation-Model"


@hookimpl
def tstk_entries() -> Iterator[Entry]:
    """Wavelet images as tokens, the loss that asks for them, and settings as configs."""
    yield _entry(
        "tokenizer",
        "cwt",
        f"{_HERE}.tokenizer:CWT",
        "Patches of a wavelet image of the series and its differences",
        provides=frozenset({"target", "step", "ordered"}),
        paper=_PAPER,
    )
    yield _entry(
        "loss",
        "spectrum+time",
        f"{_HERE}.loss:SpectrumTime",
        "Hidden patches of a wavelet image, and the series itself",
        paper=_PAPER,
    )
    for name, summary in (
        ("pretrain", "For short series on a CPU: odd wavelets on a log scale, whole columns hidden"),
        ("published", "The original's 95.6 million parameters, kernel, mask and schedule, for 3000 samples"),
        ("tiny", "The original's parts at the smallest size: 347,434 parameters for 500 samples"),
        ("finetune-cot", "Reasoning tokens, everything learns; with --from RUN"),
        ("finetune-mlp", "A residual MLP, everything learns; with --from RUN"),
        ("untrained", "The parts of pretrain without their weights, to compare with; before a finetune config"),
    ):
        yield _entry("config", f"cwtmae/{name}", f"{_HERE}:configs/{name}.toml", summary, paper=_PAPER)
    yield _entry("recipe", "cwtmae", f"{_HERE}:recipes/cwtmae.toml", "Pretrain, fine-tune both heads", paper=_PAPER)
