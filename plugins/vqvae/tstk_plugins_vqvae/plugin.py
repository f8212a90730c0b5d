"""Registry entries of this plugin."""

from collections.abc import Iterator
from functools import partial

from tstk.plugins.hooks import Entry, hookimpl

_HERE = "tstk_plugins_vqvae"
_entry = partial(Entry, interface_version=1)
_TOTEM = "TOTEM, arXiv:2402.16412"

EXPECTED_FAILED_CHECKS = {
    "loss:code-soft:splits_valid_tokens": "a learned placeholder replaces the tokens of the future",
    "loss:code-gumbel:splits_valid_tokens": "a learned placeholder replaces the tokens of the future",
}
"""Checks of `tstk plugins check` that these components fail by design, and why."""


@hookimpl
def tstk_entries() -> Iterator[Entry]:
    """Yield a tokenizer, losses and a head to forecast with its codes, and configs that use them."""
    yield _entry(
        "tokenizer",
        "vqvae",
        f"{_HERE}.tokenizer:VQVAE",
        "Convolutions and a codebook: discrete tokens",
        provides=frozenset({"vocab_size", "stride", "ordered"}),
        paper=_TOTEM,
    )
    for name, target, summary in (
        ("code-rollout", "rollout:CodeRollout", "Next-code prediction; forecasts autoregressively, with sample paths"),
        ("code-soft", "soft:CodeSoft", "Forecast all codes at once as mixtures of codes; differentiable"),
        ("code-gumbel", "soft:CodeGumbel", "Forecast all codes at once by straight-through Gumbel-softmax"),
    ):
        yield _entry("loss", name, f"{_HERE}.{target}", summary)
    yield _entry(
        "head",
        "code-forecast",
        f"{_HERE}.forecast_head:CodeForecast",
        "All tokens to the horizon at once, with a separate MLP for mean and scale",
        paper=_TOTEM,
    )
    yield _entry("command", "totem", f"{_HERE}.commands:command", "Write codes as files that TOTEM's forecaster reads")
    for name, summary in (
        ("tokenizer", "Stage 1: learn codes by reconstruction"),
        ("pretrain", "Stage 2: predict the next code; use with --init-from"),
        ("published", "Stage 2 as published, the tokenizer is trained too; use with --tokenizer RUN"),
        ("published-tokenizer", "Stage 1 as published: a codebook trained by gradient, no instance normalization"),
        ("totem-tokenizer", "Stage 1 as in TOTEM: series of 96 samples, each normalized by itself"),
        ("forecast-direct", "Stage 3: all tokens to the horizon at once; use with --init-from"),
        ("forecast-rollout", "Stage 3: autoregressive forecasts; use with --init-from and --decoder"),
        ("forecast-soft", "Stage 3: mixtures of codes; use with --init-from and --decoder"),
        ("forecast-gumbel", "Stage 3: straight-through Gumbel-softmax; use with --init-from and --decoder"),
    ):
        path = f"{_HERE}:configs/{name.replace('-', '_')}.toml"
        yield _entry("config", f"vqvae/{name}", path, summary, paper=_TOTEM)
    for name, target, summary in (
        ("totem", "TOTEMImporter", "State dicts of TOTEM's VQ-VAE"),
        ("time-series-tokenizer", "TimeSeriesTokenizerImporter", "State dicts of Time-Series-Tokenizer's VQ-VAE"),
    ):
        yield _entry("importer", name, f"{_HERE}.importer:{target}", summary, paper=_TOTEM)
    yield _entry("recipe", "vqvae-forecast", f"{_HERE}:recipes/vqvae_forecast.toml", "All three stages", paper=_TOTEM)
