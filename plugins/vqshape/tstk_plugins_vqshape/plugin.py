"""What this plugin offers by name."""

from collections.abc import Iterator

from tstk.hooks import hookimpl
from tstk.registry import Entry

_HERE = "tstk_plugins_vqshape"
_PAPER = "VQShape, arXiv:2411.01006"


@hookimpl
def tstk_entries() -> Iterator[Entry]:
    """The paper's tokenizer and decoder, and its settings as configs."""
    yield Entry(
        "tokenizer",
        "vqshape",
        f"{_HERE}.tokenizer:VQShape",
        "Shapes with a start, a length, a mean and a scale",
        provides=frozenset({"vocab"}),
        paper=_PAPER,
    )
    yield Entry(
        "decoder",
        "vqshape",
        f"{_HERE}.decoder:ShapesToSeries",
        "Attention without positions over tokens that know where they are",
        paper=_PAPER,
    )
    for name, summary in (
        ("small", "A size for one core, of our own: width 64, 64 codes"),
    ):
        yield Entry("config", f"vqshape/{name}", f"{_HERE}:configs/{name.replace('-', '_')}.toml", summary, paper=_PAPER)
