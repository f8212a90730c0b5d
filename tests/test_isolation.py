"""Broken plugins, as real packages, do not affect other plugins."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAD = "from tstk import Entry, hookimpl\n\n@hookimpl\ndef tstk_entries():\n    yield "
FINE = HEAD + "Entry('encoder', 'good', 'bad_plugin.part:Good', 'Works')\n"
PART = "from tstk import Encoder\n\nclass Good(Encoder):\n    '''Fine.'''\n"


def entry(kind="encoder", name="good", target="bad_plugin.part:Good", more=""):
    return HEAD + f"Entry({kind!r}, {name!r}, {target!r}, 'Something'{more})\n"


BROKEN = {
    "import error": ("from tstk import no_such_thing\n" + FINE, PART, "", "broken", "ImportError: cannot import name"),
    "syntax error": ("def tstk_entries(:\n", PART, "", "broken", "SyntaxError: "),
    "missing dependency": (FINE, PART, "Requires-Dist: nobody-has-this>=2\n", "has faults", "needs nobody-has-this>=2"),
    "missing module": ("import nobody_has_this\n" + FINE, PART, "", "broken", "No module named 'nobody_has_this'"),
    "wrong interface version": (
        entry(more=", interface_version=2"),
        PART,
        "",
        "broken",
        "needs interface version 2, and this tstk has 1",
    ),
    "clash with the core": (entry("tokenizer", "patch"), PART, "", "has faults", "is also defined by tstk"),
    "clash of commands": (entry("command", "train"), PART, "", "has faults", "use 'bad-plugin/train'"),
    "points at no module": (
        entry(target="bad_plugin.gone:Good"),
        PART,
        "",
        "has faults",
        "no module 'bad_plugin.gone'",
    ),
    "points at no class": (entry(target="bad_plugin.part:Gone"), PART, "", "has faults", "part.py has no 'Gone'"),
    "points at no file": (entry("config", "c", "bad_plugin:c.toml"), PART, "", "has faults", "does not exist"),
    "its part is no Python": (FINE, "class Good(:\n", "", "has faults", "line 1: invalid syntax"),
    "exit on import": ("raise SystemExit(3)\n", PART, "", "broken", "SystemExit: 3"),
    "another exit on import": ("raise BaseException('boom')\n", PART, "", "broken", "BaseException: boom"),
    "slow import": ("import time\ntime.sleep(0.6)\n" + FINE, PART, "", "slow", " s to import"),
    "talks on import": ("print('hello')\n" + FINE, PART, "", "works", ""),
}
UNRELATED = (
    ("--help",),
    ("train", "--tokenizer", "patch", "--encoder", "bert", "--print-config"),
    ("show", "encoder", "bert"),
    ("list", "heads", "--json"),
)


def package(folder, light, part, metadata=""):
    (folder / "bad_plugin").mkdir(parents=True)
    (folder / "bad_plugin" / "__init__.py").write_text("")
    (folder / "bad_plugin" / "plugin.py").write_text(light)
    (folder / "bad_plugin" / "part.py").write_text(part)
    info = folder / "bad_plugin-0.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.4\nName: bad-plugin\nVersion: 0.3\nLicense-Expression: MIT\n{metadata}"
    )
    (info / "entry_points.txt").write_text("[tstk]\nbad = bad_plugin.plugin\n")
    return folder


SAY = """
import json, sys
from click.testing import CliRunner
from tstk.cli import cli
said = []
for words in json.loads(sys.argv[1]):
    result = CliRunner().invoke(cli, words, prog_name="tstk")
    said.append([result.exit_code, result.stdout, result.stderr])
print(json.dumps(said), file=sys.__stdout__)
"""


def run_cli(commands, folder=None, **variables):
    """Run commands in a new process; return exit code, stdout and stderr of each."""
    path = os.pathsep.join([*([str(folder)] if folder else []), str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", SAY, json.dumps(commands)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "TERMINAL_WIDTH": "200", **variables},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def usual():
    return run_cli(UNRELATED)


@pytest.mark.slow
@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_plugin_changes_nothing_else_and_is_listed_with_its_cause(kind, usual, tmp_path):
    light, part, metadata, state, cause = BROKEN[kind]
    folder = package(tmp_path, light, part, metadata)
    *others, listed, table = run_cli([*UNRELATED, ("plugins", "list", "--json"), ("plugins", "list")], folder)
    for before, after in zip(usual, others, strict=True):
        assert after[0] == before[0] == 0
        assert after[1] == before[1]
        assert before[2] == ""
        assert len(after[2].splitlines()) <= (1 if kind == "talks on import" else 0)
    row = next(r for r in json.loads(listed[1]) if r["plugin"] == "bad-plugin")
    assert (row["version"], row["licence"]) == ("0.3", "MIT")
    assert any(cause in line for line in (*row["faults"], *row["burdens"])) or not cause
    assert table[0] == 0
    assert state in next(line for line in table[1].splitlines() if "bad-plugin" in line)
    assert cause in table[2]


@pytest.mark.slow
def test_a_failed_plugin_is_mentioned_only_where_it_is_the_reason(tmp_path):
    folder = package(tmp_path, BROKEN["import error"][0], PART)
    code, _, error = run_cli([("show", "encoder", "good")], folder)[0]
    assert code == 2
    assert "failed to load: bad-plugin (ImportError" in error
    folder = package(tmp_path / "lost", entry(target="bad_plugin.gone:Good"), PART)
    code, _, error = run_cli([("train", "--encoder", "good", "--dry-run")], folder)[0]
    assert code == 2
    assert error.startswith("Error: there is no module 'bad_plugin.gone'")


@pytest.mark.slow
@pytest.mark.parametrize(("chosen", "seen"), [("none", False), ("bad", True), ("bad-plugin", True), ("timae", False)])
def test_a_variable_chooses_plugins(chosen, seen, tmp_path):
    folder = package(tmp_path, FINE, PART)
    (_, listed, _), (_, table, _) = run_cli([("list", "encoders"), ("plugins", "list")], folder, TSTK_PLUGINS=chosen)
    assert ("good" in listed) == ("bad-plugin" in table) == seen
    assert "transformer" in listed


def test_strict_shows_the_traceback(tmp_path):
    folder = package(tmp_path, BROKEN["import error"][0], PART)
    path = os.pathsep.join([str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "tstk", "list"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "TSTK_STRICT": "1"},
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "no_such_thing" in done.stderr
