"""What this plugin offers by name."""

from collections.abc import Iterator
from functools import partial

from tstk.plugins.hooks import hookimpl
from tstk.plugins.registry import Entry

_HERE = "tstk_plugins_vqshape"
_entry = partial(Entry, interface_version=1)
_PAPER = "VQShape, arXiv:2411.01006"

EXCUSES = {
    "tokenizer:vqshape:has_codes": "a token is a code and where, how long and how strong it is; a code alone is less",
    "loss:distill:loads": "wants a teacher's run",
    "loss:consistent:loads": "wants data with texts",
    "config:vqshape/teacher:resolves": "wants data with texts",
    "config:vqshape/student:resolves": "wants a teacher's run",
}


@hookimpl
def tstk_entries() -> Iterator[Entry]:
    """The paper's tokenizer and decoder, and its settings as configs."""
    yield _entry(
        "tokenizer",
        "vqshape",
        f"{_HERE}.tokenizer:VQShape",
        "Shapes with a start, a length, a mean and a scale",
        provides=frozenset({"vocab"}),
        paper=_PAPER,
    )
    yield _entry(
        "decoder",
        "vqshape",
        f"{_HERE}.decoder:ShapesToSeries",
        "Attention without positions over tokens that know where they are",
        paper=_PAPER,
    )
    yield _entry(
        "head", "histogram", f"{_HERE}.histogram:Histogram", "One matrix over how often each code occurs", paper=_PAPER
    )
    yield _entry(
        "loss",
        "distill",
        f"{_HERE}.distill:Distill",
        "Reconstruction, and the shapes that a teacher sees who reads a text",
    )
    yield _entry(
        "loss",
        "consistent",
        f"{_HERE}.distill:Consistent",
        "Reconstruction, and the same shapes with a text and without",
    )
    for name, target, summary in (
        ("explain", "commands:explain", "Draw a series with its shapes and their say"),
        ("text", "commands:text", "Give each series a text, for --extra"),
        ("text-made", "commands:made", "Write a set of series with telling notes"),
        ("text-controls", "commands:controls", "Train with and without texts, and compare"),
    ):
        yield _entry("command", name, f"{_HERE}.{target}", summary)
    for name, summary in (
        ("pretrain", "The paper's settings with width 256 and 512 codes"),
        ("512-512", "The paper's settings with width 512 and 512 codes"),
        ("512-128", "The paper's settings with width 512 and 128 codes"),
        ("512-64", "The paper's settings with width 512 and 64 codes"),
        ("512-32", "The paper's settings with width 512 and 32 codes"),
        ("small", "Settings of our own for one core: width 64, 64 codes, some minutes"),
        ("teacher", "As small, guided by a text; with --extra text=FILE"),
        ("student", "As small, taught by a guided teacher; with --from, --decoder and --loss.teacher RUN"),
        ("tokens", "A linear classifier of all tokens, the tokenizer frozen; with --from RUN"),
        ("histogram", "A linear classifier of how often each code occurs, the tokenizer frozen; with --from RUN"),
        ("finetune", "A linear classifier of all tokens, everything learns; with --from RUN"),
    ):
        path = f"{_HERE}:configs/{name.replace('-', '_')}.toml"
        yield _entry("config", f"vqshape/{name}", path, summary, paper=_PAPER)
    yield _entry(
        "recipe", "vqshape", f"{_HERE}:recipes/vqshape.toml", "Learn shapes, classify by them two ways", paper=_PAPER
    )
