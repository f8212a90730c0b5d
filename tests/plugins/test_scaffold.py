"""A plugin written by `tstk plugins new` works unchanged: it is found, shown, checked and trained."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tstk.errors import OptionError
from tstk.plugins.scaffold import TEMPLATE_KINDS, write_plugin

ROOT = Path(__file__).parents[2]


def write_metadata(folder):
    """Write the metadata of an editable install, which declare the entry point."""
    module = next(folder.glob("tstk_plugins_*")).name
    info = folder / f"{module}-0.1.0.dist-info"
    info.mkdir()
    name = module.replace("_", "-")
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(f"[tstk]\n{name.removeprefix('tstk-plugins-')} = {module}.plugin\n")
    return folder


def fresh(folders, *words, **variables):
    """Run `tstk` in a new process that sees these folders."""
    path = os.pathsep.join([*map(str, folders), str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", "tstk", *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "TERMINAL_WIDTH": "200", **variables},
    )


@pytest.mark.slow
def test_a_new_plugin_of_each_kind_passes_the_kit_unchanged(tmp_path):
    folders = []
    for kind in TEMPLATE_KINDS:
        write_plugin(f"fresh-{kind}", kind, tmp_path / kind)
        folders.append(write_metadata(tmp_path / kind))
        text = "\n".join(p.read_text() for p in folders[-1].rglob("*") if p.is_file())
        assert not [word for word in ("sketch", "Sketch", "KIND", "TRY") if word in text]
    done = fresh(folders, "plugins", "check", *(f"fresh-{kind}" for kind in TEMPLATE_KINDS))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "failed" not in done.stdout
    assert done.stdout.count("checks: ") == len(TEMPLATE_KINDS)


@pytest.mark.slow
def test_a_new_plugin_is_listed_and_trains_and_its_config_too(tmp_path):
    folder = tmp_path / "fresh-air"
    write_plugin("fresh-air", "tokenizer", folder)
    seen = [write_metadata(folder)]
    names = [e["name"] for e in json.loads(fresh(seen, "list", "tokenizers", "--json").stdout)]
    assert "fresh-air" in names
    assert "--tokenizer.window" in fresh(seen, "train", "--tokenizer", "fresh-air", "--help").stdout
    few = ["--steps", 2, "--batch-size", 8, "--encoder.dim", 16, "--encoder.depth", 1, "--encoder.heads", 2]
    done = fresh(seen, "train", "--config", "fresh-air", "--out", tmp_path / "run", *few, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["task"] == "pretraining"


def test_the_files_are_those_that_a_package_needs(tmp_path):
    files = {str(p.relative_to(tmp_path / "a")) for p in write_plugin("waves", "head", tmp_path / "a")}
    assert files == {
        "pyproject.toml",
        "README.md",
        ".github/workflows/tests.yml",
        "tests/test_contract.py",
        "tstk_plugins_waves/__init__.py",
        "tstk_plugins_waves/plugin.py",
        "tstk_plugins_waves/head.py",
        "tstk_plugins_waves/configs/waves.toml",
    }


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("Fresh_Air", "head", "such as 'fresh-air'"),
        ("9", "head", "expected lower case with hyphens"),
        ("waves", "haed", "Did you mean 'head'"),
        ("cot", "head", "tstk already has a head 'cot'"),
    ],
)
def test_a_name_or_kind_that_cannot_be_is_refused(name, kind, message, tmp_path):
    with pytest.raises(OptionError, match=message):
        write_plugin(name, kind, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_what_is_there_is_never_overwritten(tmp_path):
    with pytest.raises(OptionError, match="already exists"):
        write_plugin("waves", "head", tmp_path)
