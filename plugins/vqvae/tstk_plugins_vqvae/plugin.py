"""What this plugin offers by name."""

from collections.abc import Iterator

from tstk.hooks import hookimpl
from tstk.registry import Entry

_HERE = "tstk_plugins_vqvae"
_TOTEM = "TOTEM, arXiv:2402.16412"


@hookimpl
def tstk_entries() -> Iterator[Entry]:
    """A tokenizer, and the configs that put it to use."""
    yield Entry(
        "tokenizer",
        "vqvae",
        f"{_HERE}.tokenizer:VQVAE",
        "Convolutions and a codebook: discrete tokens",
        provides=frozenset({"vocab", "step", "ordered"}),
        paper=_TOTEM,
    )
    for name, summary in (
        ("tokenizer", "Stage 1: learn codes by reconstruction"),
        ("pretrain", "Stage 2: predict the next code; use with --from"),
    ):
        yield Entry("config", f"vqvae/{name}", f"{_HERE}:configs/{name.replace('-', '_')}.toml", summary, paper=_TOTEM)
