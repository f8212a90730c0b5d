"""The generated pages are up to date; `make docs` generates them."""

import importlib.util
import random
import re
from pathlib import Path

import pytest

from tstk.plugins.hooks import SLOTS
from tstk.plugins.registry import get_registry

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if absent := module.list_own_distributions() - {p.dist for p in get_registry().plugins if not p.error}:
        pytest.skip(f"not installed here: {', '.join(sorted(absent))}")
    return module


@pytest.mark.slow
@pytest.mark.parametrize("name", ["python", "components", "commands"])
def test_a_reference_page_is_current(generate, name):
    page = ROOT / "docs" / "reference" / f"{name}.md"
    assert page.read_text(encoding="utf-8") == getattr(generate, f"render_{name}")(), "run make docs"


def test_the_type_stub_of_the_python_interface_is_current(generate):
    stub = (ROOT / "tstk" / "api.pyi").read_text(encoding="utf-8")
    assert stub == generate.render_stub(), "run python docs/generate.py api.pyi"


def cells():
    """(tokenizer, encoder, loss, slot, answer, mark) of every cell of the page of mixes."""
    tokenizer, encoders = "", []
    for line in (ROOT / "docs" / "mixes.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("## tokenizer "):
            tokenizer = line.split()[-1]
        elif line.startswith("| loss |"):
            encoders = [cell.strip() for cell in line.split("|")[4:-1]]
        elif tokenizer and line.startswith("| "):
            loss, _, answer, *marks = (cell.strip() for cell in line.split("|")[1:-1])
            slot, name = ("loss", loss) if answer == "none" else answer.split()
            yield from ((tokenizer, e, loss, slot, name, mark) for e, mark in zip(encoders, marks, strict=True))


def test_the_page_of_mixes_has_every_component_and_no_failure(generate):
    rows = list(cells())
    seen = {("tokenizer", c[0]) for c in rows} | {("encoder", c[1]) for c in rows} | {("loss", c[2]) for c in rows}
    seen |= {(c[3], c[4]) for c in rows}
    ours = {
        (e.kind, e.name)
        for slot in SLOTS
        for e in get_registry().list_entries(slot)
        if e.dist in generate.list_own_distributions()
    }
    assert seen == ours, "run make docs"
    assert all(re.fullmatch(r"✓|\*\*[a-z]+\*\*", c[5]) for c in rows)
    assert len([c for c in rows if c[5] == "✓"]) > 100


@pytest.mark.slow
def test_mixes_drawn_from_the_page_do_what_it_says(generate):
    from tstk.testing.mixes import try_mix

    for tokenizer, encoder, loss, slot, answer, mark in random.Random(1).sample(list(cells()), 12):
        names = {"tokenizer": tokenizer, "encoder": encoder, "loss": loss, slot: answer}
        mix = try_mix({kind: get_registry().find(kind, name) for kind, name in names.items()})
        assert mix.state == ("trained" if mark == "✓" else "refused"), f"{mix}: {mix.state}, {mix.reason}"


def test_mixes_name_the_task_of_their_loss_and_head():
    from tstk.testing.mixes import list_tasks

    tasks = set()
    for line in (ROOT / "docs" / "mixes.md").read_text(encoding="utf-8").splitlines():
        if re.match(r"\| (?!loss \|)[\w+-]+ \| ", line):
            loss, task, answer = (cell.strip() for cell in line.split("|")[1:4])
            names = {"loss": loss} | ({} if answer == "none" else dict([answer.split()]))
            parts = {slot: get_registry().find(slot, name) for slot, name in names.items()}
            assert task == (", ".join(list_tasks(parts)) or "pretraining"), line
            tasks.add(task)
    single = {"classification", "multilabel", "regression", "forecasting", "pretraining", "segmentation"}
    assert {name for task in tasks for name in task.split(", ")} == single


def exports():
    """(encoder, head, cell) of the table of core encoders and heads."""
    heads = []
    for line in (ROOT / "docs" / "export.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if line.startswith("| encoder |"):
            heads = cells[1:]
        elif heads and line.startswith("| "):
            yield from ((cells[0], head, cell) for head, cell in zip(heads, cells[1:], strict=True))
        elif heads and not line:
            return


def test_the_page_of_exports_has_every_encoder_and_head_of_the_core_and_every_tokenizer(generate):
    core = {
        slot: {e.name for e in get_registry().list_entries(slot) if e.dist == "tstk"} for slot in ("encoder", "head")
    }
    assert {(e, h) for e, h, _ in exports()} == {(e, h) for e in core["encoder"] for h in core["head"]}, "run make docs"
    page = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    assert all(f"| {e.name} | transformer | linear |" in page for e in get_registry().list_entries("tokenizer"))
    assert float(re.search(r"largest answer, is (\S+);", page)[1]) < 1e-5


@pytest.mark.slow
def test_exports_drawn_from_the_page_do_what_it_says(generate):
    from tstk.testing.exports import try_export

    pytest.importorskip("onnxruntime", reason="pip install 'tstk-core[onnx]'")
    for encoder, head, cell in random.Random(2).sample(list(exports()), 2):
        trial = try_export({"encoder": encoder, "head": head})
        assert cell.rstrip("\\*") == (trial.lengths or "refused"), trial
        assert not trial.onnx_error
        assert trial.max_error < 1e-5
