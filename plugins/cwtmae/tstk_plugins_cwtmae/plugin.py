"""Registry entries of this plugin."""

from collections.abc import Iterator
from functools import partial

from tstk.plugins.hooks import Entry, hookimpl

_HERE = "tstk_plugins_cwtmae"
_entry = partial(Entry, interface_version=1)
_PAPER = "CWT-MAE-RoPE, github.com/Dryilv/Wearable-Foundation-Model"


@hookimpl
def tstk_entries() -> Iterator[Entry]:
    """Yield a tokenizer of wavelet images, a loss that reconstructs them, report sections and configs."""
    yield _entry(
        "tokenizer",
        "cwt",
        f"{_HERE}.tokenizer:CWT",
        "Patches of a wavelet image of the series and its differences",
        provides=frozenset({"target_dim", "stride", "ordered"}),
        paper=_PAPER,
    )
    yield _entry(
        "loss",
        "spectrum+time",
        f"{_HERE}.loss:SpectrumTime",
        "Reconstruct masked patches of a wavelet image, and the series",
        paper=_PAPER,
    )
    for name, renderer, summary in (
        ("wavelet-images", "render_wavelet_images", "Some series and the three views of their wavelet images"),
        ("masked-patches", "render_masked_patches", "Some images, their visible patches and their reconstructions"),
    ):
        yield _entry("report", name, f"{_HERE}.figures:{renderer}", summary, paper=_PAPER)
    for name, summary in (
        ("pretrain", "For short series on a CPU: odd wavelets on a log scale, whole columns masked"),
        ("published", "The original's 95.6 million parameters, kernel, mask and schedule, for 3000 samples"),
        ("tiny", "The original's components at the smallest size: 347,434 parameters for 500 samples"),
        ("finetune-published", "The original's reasoning tokens and schedule; with --init-from RUN of published"),
        ("finetune-cot", "Reasoning tokens, all weights trained; with --init-from RUN"),
        ("finetune-mlp", "A residual MLP, all weights trained; with --init-from RUN"),
        ("untrained", "The components of pretrain with random weights, as a baseline; before a finetune config"),
    ):
        yield _entry("config", f"cwtmae/{name}", f"{_HERE}:configs/{name}.toml", summary, paper=_PAPER)
    yield _entry("importer", "cwtmae", f"{_HERE}.importer:CWTMAEImporter", "State dicts of the original", paper=_PAPER)
    yield _entry("recipe", "cwtmae", f"{_HERE}:recipes/cwtmae.toml", "Pretrain, fine-tune both heads", paper=_PAPER)
