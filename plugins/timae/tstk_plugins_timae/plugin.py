"""What this plugin offers by name."""

from collections.abc import Iterator
from functools import partial

from tstk.plugins.hooks import hookimpl
from tstk.plugins.registry import Entry

_HERE = "tstk_plugins_timae"
_entry = partial(Entry, interface_version=1)
_TIMAE = "Ti-MAE, arXiv:2301.08871"


@hookimpl
def tstk_entries() -> Iterator[Entry]:
    """A tokenizer, an encoder, a loss, and the configs that put them to use."""
    yield _entry(
        "tokenizer",
        "point",
        f"{_HERE}.point:Point",
        "A convolution over samples, one token each",
        provides=frozenset({"target", "step", "ordered"}),
        paper=_TIMAE,
    )
    yield _entry(
        "encoder",
        "mamba2",
        f"{_HERE}.mamba2:Mamba2",
        "Mamba-2 layers, linear in the number of tokens",
        provides=frozenset({"causal", "prefix"}),
        paper="Mamba-2, arXiv:2405.21060",
    )
    yield _entry(
        "loss",
        "masked-latent",
        f"{_HERE}.masked_latent:MaskedLatent",
        "Encode all tokens, then hide some from the decoder",
    )
    for name, summary in (
        ("pretrain", "Hide three quarters of the samples, ask for them"),
        ("finetune", "A classifier on a pretrained Ti-MAE; use with --from"),
        ("forecast", "Forecasting by hiding the future, without a head"),
        ("forecast-head", "A linear forecast on a frozen pretrained Ti-MAE; use with --from"),
        ("mamba", "Pretraining with a Mamba-2 encoder that does not see hidden samples"),
        ("mamba-published", "The same as published: hidden after the encoder"),
        ("cross", "Pretraining with a decoder that attends to seen samples only (CrossMAE)"),
    ):
        path = f"{_HERE}:configs/{name.replace('-', '_')}.toml"
        yield _entry("config", f"timae/{name}", path, summary, paper=_TIMAE)
    yield _entry("recipe", "timae", f"{_HERE}:recipes/timae.toml", "Pretrain, fine-tune a classifier", paper=_TIMAE)
