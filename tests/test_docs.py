"""Every example of the documentation is run, page by page, in a temporary folder."""

import os
import re
import shlex
from itertools import pairwise
from pathlib import Path
from shutil import copytree

import pytest
import torch

from tests.support.checkpoints import make_timemae
from tests.support.hub_server import use_hub
from tstk.config.recipe import read_recipe
from tstk.data.datasets import WindowDataset

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "docs" / "plugin-guide.md"  # which has a test of its own, as it installs something
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("plugins/*/README.md"))]
PAGES.remove(GUIDE)
YOUR_DATA = ROOT / "tests" / "your_data"
"""The files of docs/your-data.md."""
BLOCK = re.compile(r"^```(console|python|text)\n(.*?)^```", re.MULTILINE | re.DOTALL)
ARCHIVE = Path(os.environ.get("TSTK_DATA") or ROOT.parent / "shared" / "data")


def examples(page):
    """(language, text): whole blocks of Python and of output, and single commands of console blocks."""
    for language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language != "console":
            yield language, text
            continue
        for line in text.splitlines():
            if line.startswith("$ "):
                yield language, line[2:].split("  #")[0].strip() + "  # refused" * line.endswith("# refused")


def shorten(command):
    """Return the command, with two steps and small components if it trains."""
    words = shlex.split(command, comments=True)[1:]
    if words[0] == "train" and not {"--help", "--dry-run", "--print-config"} & set(words):
        words += ["--steps", "2", "--batch-size", "8", "--quiet"]
        if {"bert", "transformer"} & set(words) and "--horizon" in words:
            words += ["--encoder.dim", "8", "--encoder.depth", "1", "--encoder.heads", "2"]
    if words[0] == "tune":
        words += ["--steps", "2", "--batch-size", "8", "--trials", "2", "--threads", "1"]
    if words[0] == "forecast":
        words = [min(word, "20", key=int) if last == "--samples" else word for last, word in pairwise(["", *words])]
    if words[0] == "bench":
        small = "--steps 2 --encoder.dim 8 --encoder.depth 1 --encoder.heads 2"
        words += ["--common", f"{small} --threads 1 --encoder transformer"]
    if words[0] == "run":
        words += [word for stage in read_recipe(words[1]) for word in ("--set", f"{stage.name}.steps=2")]
    return words


@pytest.fixture
def few_windows(monkeypatch):
    """Thin the windows of tables to some forty per split."""
    whole = WindowDataset.__init__

    def init_with_larger_stride(self, table, context, horizon, stride=1, **origin):
        count = table.shape[1] - context - horizon + 1
        whole(self, table, context, horizon, max(stride, count // 40) if horizon else stride, **origin)

    monkeypatch.setattr(WindowDataset, "__init__", init_with_larger_stride)


@pytest.fixture
def hub(monkeypatch, tmp_path_factory):
    with use_hub(monkeypatch, tmp_path_factory.mktemp("cache")) as hub:
        yield hub


@pytest.mark.slow
@pytest.mark.usefixtures("few_windows")
@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_examples_of_a_page_work(page, tmp_path, monkeypatch, request):
    from click.testing import CliRunner

    from tstk.cli import cli

    monkeypatch.chdir(tmp_path)
    if (ARCHIVE / "ucr").is_dir():
        monkeypatch.setenv("TSTK_DATA", str(ARCHIVE))
    blocks, absent, namespace = list(examples(page)), set(), {"__name__": "example"}
    if page.name == "hub.md":
        request.getfixturevalue("hub")
    if page.name == "import.md":
        for name in ("pretrain_model.pkl", "model.pkl"):
            torch.save(make_timemae()[1], name)
    if page.name == "your-data.md":
        copytree(YOUR_DATA, tmp_path, dirs_exist_ok=True)
    output = ""
    for language, text in blocks:
        if language == "text":
            missing = [line for line in text.splitlines() if " ".join(line.split()) not in " ".join(output.split())]
            assert page.name != "your-data.md" or not missing, f"{page.name}: not in the output: {missing}\n{output}"
        elif language == "python":
            exec(compile(text, str(page), "exec"), namespace)
        elif text.startswith("tstk "):
            words = text.split()
            # a file that the page itself made is there; everything else is a set of the archive
            data = re.search(r"--data (\S+)", text)
            needs_archive = data and data[1] not in ("har-demo", "synthetic") and not Path(data[1]).exists()
            if absent & set(words) or (needs_archive and not (ARCHIVE / "ucr").is_dir()):
                # what builds on it is not run either
                absent |= {words[i + 1] for i, word in enumerate(words) if word == "--out"}
                continue
            result = CliRunner().invoke(cli, shorten(text), catch_exceptions=False)
            output = result.output
            is_refused = text.endswith("# refused")
            assert (result.exit_code == 0) != is_refused, f"{page.name}: {text}\n{result.output}"
        else:
            assert text.split()[0] in ("make", "pip", "pytest", "python"), f"{page.name}: who runs {text!r}?"
    if page.name == "README.md":
        assert blocks, "a README without an example"


def test_every_page_is_in_the_navigation_of_the_site_and_warnings_are_not_silenced():
    """By --quiet, mkdocs neither prints nor counts them, so that --strict has no effect."""
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    files = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "docs" / "notebooks").glob("*.ipynb")]  # which become pages
    pages = sorted(path.relative_to(ROOT / "docs").with_suffix(".md").as_posix() for path in files)
    assert sorted(re.findall(r"[\w/-]+\.md", navigation)) == pages
    (line,) = re.findall(r".*mkdocs build.*", (ROOT / "Makefile").read_text())
    assert "quiet" not in line
    assert "-q" not in line


def test_the_readme_names_only_make_targets_that_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"^\$ make ([a-z]+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert named <= targets, named - targets
    assert {"demo", "test"} <= named


def test_pictures_of_the_pages_are_there_and_small():
    pictures = [
        (page.parent / source)
        for page in PAGES
        for source in re.findall(r"!\[[^\]]+\]\(([\w/.-]+)\)", page.read_text(encoding="utf-8"))
    ]
    assert len(pictures) >= 7
    assert [str(path) for path in pictures if not path.is_file()] == []
    assert [str(path) for path in pictures if path.stat().st_size > 60_000] == []
