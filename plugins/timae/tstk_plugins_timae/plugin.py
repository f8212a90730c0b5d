"""Registry entries of this plugin."""

from collections.abc import Iterator
from functools import partial

from tstk.plugins.hooks import Entry, hookimpl

_HERE = "tstk_plugins_timae"
_entry = partial(Entry, interface_version=1)
_TIMAE = "Ti-MAE, arXiv:2301.08871"


@hookimpl
def tstk_entries() -> Iterator[Entry]:
    """Yield a tokenizer, an encoder, a loss, and configs that use them."""
    yield _entry(
        "tokenizer",
        "point",
        f"{_HERE}.point:Point",
        "A convolution over samples, one token per sample",
        provides=frozenset({"target_dim", "stride", "ordered"}),
        paper=_TIMAE,
    )
    yield _entry(
        "encoder",
        "mamba2",
        f"{_HERE}.mamba2:Mamba2",
        "Mamba-2 layers, linear in the number of tokens",
        provides=frozenset({"causal", "num_prefix_tokens"}),
        paper="Mamba-2, arXiv:2405.21060",
    )
    yield _entry(
        "loss",
        "masked-latent",
        f"{_HERE}.masked_latent:MaskedLatent",
        "Encode all tokens, then mask some of them for the decoder",
    )
    for name, summary in (
        ("pretrain", "Masked autoencoding: mask three quarters of the samples and reconstruct them"),
        ("published", "Pretraining as in the published code, without its faults: one mask, one-cycle schedule"),
        ("finetune", "A classifier on a pretrained Ti-MAE; use with --init-from"),
        ("forecast", "Forecasting by masking the future, without a head"),
        ("forecast-head", "A linear forecast on a frozen pretrained Ti-MAE; use with --init-from"),
        ("mamba", "Pretraining with a Mamba-2 encoder that receives visible samples only"),
        ("mamba-published", "As mamba, with samples masked after the encoder, as published"),
        ("cross", "Pretraining with a decoder that attends to visible samples only (CrossMAE)"),
    ):
        path = f"{_HERE}:configs/{name.replace('-', '_')}.toml"
        yield _entry("config", f"timae/{name}", path, summary, paper=_TIMAE)
    yield _entry(
        "importer",
        "timae",
        f"{_HERE}.importer:TiMAEImporter",
        "Ti-MAE Lightning; refused, with the reason",
        paper=_TIMAE,
    )
    yield _entry("recipe", "timae", f"{_HERE}:recipes/timae.toml", "Pretrain, fine-tune a classifier", paper=_TIMAE)
