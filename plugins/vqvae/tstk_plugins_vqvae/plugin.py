"""What this plugin offers by name."""

from collections.abc import Iterator
from functools import partial

from tstk.plugins.hooks import hookimpl
from tstk.plugins.registry import Entry

_HERE = "tstk_plugins_vqvae"
_entry = partial(Entry, interface_version=1)
_TOTEM = "TOTEM, arXiv:2402.16412"

EXCUSES = {
    "loss:code-soft:splits_what_it_was_given": "a learned placeholder stands where the future will be",
    "loss:code-gumbel:splits_what_it_was_given": "a learned placeholder stands where the future will be",
}
"""What the parts need not do, for `tstk plugins check`."""


@hookimpl
def tstk_entries() -> Iterator[Entry]:
    """A tokenizer, ways of forecasting with its codes, and the configs that put them to use."""
    yield _entry(
        "tokenizer",
        "vqvae",
        f"{_HERE}.tokenizer:VQVAE",
        "Convolutions and a codebook: discrete tokens",
        provides=frozenset({"vocab", "step", "ordered"}),
        paper=_TOTEM,
    )
    for name, target, summary in (
        ("code-rollout", "rollout:CodeRollout", "Next code; forecasts code after code, with samples and a cache"),
        ("code-soft", "soft:CodeSoft", "A forecast of mixtures of codes, decoded; differentiable"),
        ("code-gumbel", "soft:CodeGumbel", "A forecast of single codes, drawn and straight-through"),
    ):
        yield _entry("loss", name, f"{_HERE}.{target}", summary)
    yield _entry(
        "head",
        "code-forecast",
        f"{_HERE}.direct:CodeForecast",
        "All tokens to the horizon at once, mean and deviation apart",
        paper=_TOTEM,
    )
    for name, summary in (
        ("tokenizer", "Stage 1: learn codes by reconstruction"),
        ("pretrain", "Stage 2: predict the next code; use with --from"),
        ("published", "Stage 2 as published, tokenizer learning too; use with --from"),
        ("published-tokenizer", "Stage 1 as published: a codebook that learns by gradient, no normalisation"),
        ("forecast-direct", "Stage 3: all tokens to the horizon at once; use with --from"),
        ("forecast-rollout", "Stage 3: code after code; use with --from and --decoder"),
        ("forecast-soft", "Stage 3: mixtures of codes; use with --from and --decoder"),
        ("forecast-gumbel", "Stage 3: single codes, straight-through; use with --from and --decoder"),
    ):
        path = f"{_HERE}:configs/{name.replace('-', '_')}.toml"
        yield _entry("config", f"vqvae/{name}", path, summary, paper=_TOTEM)
    yield _entry(
        "recipe", "vqvae-forecast", f"{_HERE}:recipes/vqvae_forecast.toml", "All stages, to a forecast", paper=_TOTEM
    )
