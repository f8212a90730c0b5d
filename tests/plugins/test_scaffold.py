"""A plugin written by `tstk plugins new` works unchanged: it is found, shown, checked and trained."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tstk.errors import OptionError
from tstk.plugins.hooks import KINDS
from tstk.plugins.scaffold import TEMPLATES, add_to_plugin, write_plugin

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
    for kind in KINDS:
        write_plugin(f"fresh-{kind}", kind, tmp_path / kind)
        folders.append(write_metadata(tmp_path / kind))
        text = "\n".join(p.read_text() for p in folders[-1].rglob("*") if p.is_file())
        assert not [word for word in ("sketch", "Sketch", "KIND", "TRY") if word in text]
    done = fresh(folders, "plugins", "check", *(f"fresh-{kind}" for kind in KINDS))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "failed" not in done.stdout
    assert done.stdout.count("checks: ") == len(KINDS)


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


def test_there_is_a_template_for_every_kind():
    assert {path.name for path in TEMPLATES.iterdir() if path.is_dir()} == {"all", *KINDS}
    assert len(list(TEMPLATES.rglob("plugin.py"))) == 1  # its entries come from one table


def test_what_is_there_is_never_overwritten(tmp_path):
    folder = tmp_path / "waves"
    folder.mkdir()
    write_plugin("waves", "head", folder)
    with pytest.raises(OptionError, match=r"already exists.*--into"):
        write_plugin("waves", "head", folder)
    add_to_plugin("foam", "head", folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(OptionError, match=r"foam_head\.py already exists"):
        add_to_plugin("foam", "head", folder)
    with pytest.raises(OptionError, match=r"configs/waves\.toml already exists"):
        add_to_plugin("waves", "config", folder)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_plugin_that_grew_by_every_kind_passes_the_kit(tmp_path):
    folder = tmp_path / "waves"
    write_plugin("waves", "tokenizer", folder)
    (folder / "tests" / "test_contract.py").unlink()
    module = folder / "tstk_plugins_waves" / "plugin.py"
    comment = "\n\n# The author's own words.\nSMALL_OPTIONS = {}\n"
    module.write_text(module.read_text() + comment)
    for kind in KINDS:
        written = add_to_plugin(f"grown-{kind}", kind, folder)
        assert module in written
    assert module.read_text().endswith(comment)
    assert (folder / "tests" / "test_contract.py").read_text().count("tstk-plugins-waves") == 2
    done = fresh([write_metadata(folder)], "plugins", "check", "waves", "--json")
    rows = json.loads(done.stdout)
    assert done.returncode == 0, [row for row in rows if row["state"] == "failed"]
    subjects = {row["check"].rpartition(":")[0] for row in rows if row["state"] == "passed"}
    names = {f"{kind}:{'nearest_code/' if kind == 'kernel' else ''}grown-{kind}" for kind in KINDS}
    assert names | {"tokenizer:waves", "config:waves"} <= subjects


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "is not the folder of a plugin: .*pyproject.toml"),
        ({"pyproject.toml": "[project"}, "is not the folder of a plugin: .*pyproject.toml: "),
        ({"pyproject.toml": "[project]\nname = 'a'\n"}, "has no 'entry-points'"),
        ({"plugin/plugin.py": None}, "the module under .project.entry-points.tstk. is not in"),
        ({"plugin/plugin.py": "entries = []\n"}, "ends with `yield Entry.*add this entry by hand: yield Entry. .head"),
        ({"plugin/plugin.py": "def tstk_entries():\n    return []\n"}, "add this entry by hand"),
        ({"plugin/plugin.py": "def tstk_entries(:\n"}, "add this entry by hand"),
    ],
)
def test_a_plugin_that_cannot_be_extended_is_refused_and_left_as_it_is(files, message, tmp_path):
    project = "[project]\nname = 'mine'\n[project.entry-points.tstk]\nmine = 'plugin.plugin'\n"
    for name, text in {**({"pyproject.toml": project} if files else {}), **files}.items():
        if text is not None:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OptionError, match=message):
        add_to_plugin("foam", "head", tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_entry_is_added_with_the_indentation_of_the_hook_and_keeps_what_follows(tmp_path):
    project = "[project]\nname = 'mine'\n[project.entry-points.tstk]\nmine = 'mine.plugin'\n"
    (tmp_path / "src" / "mine").mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text(project)
    module = tmp_path / "src" / "mine" / "plugin.py"
    module.write_text("def tstk_entries():\n  yield Entry('head', 'a', 'mine.a:A', 'A')\n\n\nLAST = 1\n")
    add_to_plugin("foam", "decoder", tmp_path)
    lines = module.read_text().splitlines()
    assert lines[1:4] == ["  yield Entry('head', 'a', 'mine.a:A', 'A')", "  yield Entry(", '      "decoder",']
    assert lines[5] == '      "mine.foam_decoder:Foam",'
    assert lines[-3:] == ["", "", "LAST = 1"]
    assert (tmp_path / "src" / "mine" / "foam_decoder.py").is_file()
