"""Registry entries of this plugin."""

from collections.abc import Iterator
from functools import partial

from tstk.plugins.hooks import Entry, hookimpl

_HERE = "tstk_plugins_vqshape"
_entry = partial(Entry, interface_version=1)
_PAPER = "VQShape, arXiv:2411.01006"

EXPECTED_FAILED_CHECKS = {
    "tokenizer:vqshape:has_valid_codes": "a token is a code with start, length, mean and scale, not a code only",
    "loss:distill:is_of_its_slot": "needs the run of a teacher",
    "loss:consistent:is_of_its_slot": "needs data with texts",
    "config:vqshape/teacher:is_resolvable": "needs data with texts",
    "config:vqshape/student:is_resolvable": "needs the run of a teacher",
}


@hookimpl
def tstk_entries() -> Iterator[Entry]:
    """Yield the paper's tokenizer and decoder, a head, losses and commands for texts, and configs."""
    yield _entry(
        "tokenizer",
        "vqshape",
        f"{_HERE}.tokenizer:VQShape",
        "Shapes, each with a code, start, length, mean and scale",
        provides=frozenset({"vocab_size"}),
        paper=_PAPER,
    )
    yield _entry(
        "decoder",
        "vqshape",
        f"{_HERE}.decoder:ShapesToSeries",
        "A Transformer without position embeddings, over tokens that contain their positions",
        paper=_PAPER,
    )
    yield _entry(
        "head", "histogram", f"{_HERE}.histogram:Histogram", "A linear layer over the counts of codes", paper=_PAPER
    )
    yield _entry(
        "loss",
        "distill",
        f"{_HERE}.distill:Distill",
        "Reconstruction, and distillation of shapes from a teacher with a text",
    )
    yield _entry(
        "loss",
        "consistent",
        f"{_HERE}.distill:Consistent",
        "Reconstruction, and consistency of shapes with and without a text",
    )
    yield _entry(
        "probe",
        "adam",
        f"{_HERE}.adam_probe:AdamProbe",
        "A linear layer with input dropout, trained by Adam in 24 settings",
        paper=_PAPER,
    )
    yield _entry("report", "shapes", f"{_HERE}.explain:render_shapes", "Some series with their shapes")
    for name, target, summary in (
        ("explain", "commands:explain_command", "Draw a series with the attribution of its shapes"),
        ("text", "commands:text_command", "Write texts for the series of a data set, for --conditioning"),
        ("text-synthetic", "commands:text_synthetic_command", "Write a synthetic data set with texts"),
        ("text-ablation", "commands:text_ablation_command", "Train with and without texts, and compare"),
    ):
        yield _entry("command", name, f"{_HERE}.{target}", summary)
    for name, summary in (
        ("pretrain", "The paper's settings with width 256 and 512 codes"),
        ("512-512", "The paper's settings with width 512 and 512 codes"),
        ("512-128", "The paper's settings with width 512 and 128 codes"),
        ("512-64", "The paper's settings with width 512 and 64 codes"),
        ("512-32", "The paper's settings with width 512 and 32 codes"),
        ("small", "A small size for one CPU core: width 64, 64 codes, some minutes"),
        ("teacher", "As small, guided by a text; with --conditioning text=FILE"),
        ("student", "As small, distilled from a guided teacher; with --init-from, --decoder and --loss.teacher RUN"),
        ("tokens", "A linear classifier of all tokens, the tokenizer frozen; with --init-from RUN"),
        ("histogram", "A linear classifier of the counts of codes, the tokenizer frozen; with --init-from RUN"),
        ("finetune", "A linear classifier of all tokens, all weights trained; with --init-from RUN"),
    ):
        path = f"{_HERE}:configs/{name.replace('-', '_')}.toml"
        yield _entry("config", f"vqshape/{name}", path, summary, paper=_PAPER)
    yield _entry(
        "importer", "vqshape", f"{_HERE}.importer:VQShapeImporter", "Lightning checkpoints, as released", paper=_PAPER
    )
    yield _entry(
        "recipe", "vqshape", f"{_HERE}:recipes/vqshape.toml", "Pretrain, then classify in two ways", paper=_PAPER
    )
