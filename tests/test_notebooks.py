"""The notebooks run from the first cell to the last, and what they show is what they print now."""

import base64
import importlib.util
import re
from itertools import groupby
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
nbformat = pytest.importorskip("nbformat", reason="the notebooks are run with nbclient, of the extra test")


def import_script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def generate():
    return import_script("generate")


def texts(notebook):
    """The printed lines of each cell, without numbers, whose last digits differ between processors.

    What a cell prints may reach the notebook in several pieces.
    """
    for cell in notebook.cells:
        for name, outputs in groupby(cell.get("outputs", []), lambda o: o.get("name", o.output_type)):
            pieces = (o.get("text") or o.get("data", {}).get("text/plain", "") for o in outputs)
            yield cell.id, name, re.sub(r"[\s\d.+-]+", " ", "".join(pieces))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_runs_and_prints_what_it_shows(generate, path):
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    ours = {f"tstk_plugins_{folder.name}" for folder in (ROOT / "plugins").iterdir() if folder.is_dir()}
    if absent := sorted(name for name in ours if importlib.util.find_spec(name) is None):
        pytest.skip(f"not installed here: {', '.join(absent)}")
    shown, now = (nbformat.reads(text, as_version=4) for text in (path.read_text("utf-8"), generate.run_notebook(path)))
    assert list(texts(now)) == list(texts(shown)), "run python docs/generate.py notebooks"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_is_small_and_names_no_machine_and_no_error(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert outputs, "run python docs/generate.py notebooks"
    assert {o.output_type for o in outputs} <= {"stream", "display_data", "execute_result"}
    assert [o.text for o in outputs if o.get("name") == "stderr"] == []
    pictures = [base64.b64decode(o.data["image/png"]) for o in outputs if "image/png" in o.get("data", {})]
    assert all(len(picture) < 60_000 for picture in pictures)
    assert not re.search(r"/(home|root|tmp|work|Users|usr)/|ipykernel_", path.read_text("utf-8"))
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    first = notebook.cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")


def test_the_links_of_the_notebooks_lead_somewhere():
    for path in NOTEBOOKS:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[\w-]*)?\)", path.read_text("utf-8")):
            assert (path.parent / link).exists(), (path.name, link)


def test_figures_are_those_of_the_recorded_results_and_of_the_notebooks():
    figures = import_script("figures")
    assert set(figures.FIGURES) == {path.name for path in figures.FOLDER.iterdir()}
    for name in figures.FIGURES:
        assert (figures.FOLDER / name).stat().st_size < 60_000
    for name, cell in figures.NOTEBOOK_FIGURES.items():
        picture = (figures.FOLDER / f"{name}.png").read_bytes()
        assert picture == figures.extract_figure(*cell), f"{name}.png: run python docs/figures.py {name}"
    accuracies = figures.read_accuracies()
    assert len(accuracies) == 13
    assert accuracies["ArrowHead"]["bert + cot"] == pytest.approx(0.802, abs=5e-4)  # of the table in docs/results.md
    assert accuracies["GunPoint"]["1-NN"] == pytest.approx(0.913, abs=5e-4)
    drawn = (figures.FOLDER / "accuracies.svg").read_text("utf-8")
    assert all(f">{name}<" in drawn for name in [*accuracies, *figures.METHODS.values()])
