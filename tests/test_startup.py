"""Imports of a new interpreter: nothing heavy for help, list and show; no compiler and no scikit-learn for training."""

import json
import os
import subprocess
import sys

import pytest

HELP = """
import sys
import click
from tstk.cli import cli
from tstk.plugins.registry import get_registry

def walk(command, *words):
    yield [*words, "--help"]
    for name, one in getattr(command, "commands", {}).items():
        yield from walk(one, *words, name)

entries = get_registry().list_entries("command")
pages = [words for e in entries for words in walk(get_registry().load(e), e.qualified_name)]
for words in pages:
    cli.main(words, prog_name="tstk", standalone_mode=False)
print(len(pages), sorted({"torch", "numpy", "sklearn", "transformers", "accelerate"} & sys.modules.keys()))
"""
CHECK = """
import sys
from tstk.cli import cli
cli.main({words!r}, prog_name="tstk", standalone_mode=False)
print("heavy:", sorted({{"torch", "numpy", "sklearn", "transformers", "accelerate"}} & sys.modules.keys()))
"""
WORK = """
import json, sys
import torch
before = set(sys.modules)
from tstk.cli import cli
for words in {commands!r}:
    cli.main(words, prog_name="tstk", standalone_mode=False)
print(json.dumps([m for m in {heavy!r} if m in sys.modules and m not in before]))
"""
REHEARSE = """
import json, sys
import torch
before = set(sys.modules)
from tstk.runs.build import validate_on_meta
from tstk.config.resolve import resolve_config
from tstk.errors import TstkError
from tstk.plugins.registry import get_registry
fine = set()
for kind, partner in (("tokenizer", "linear"), ("encoder", "linear"), ("head", ""), ("decoder", "")):
    for entry in get_registry().list_entries(kind):
        for more in ({{}}, {{"pipeline": {{"channels": "independent"}}}}):
            if entry.name != "hf":  # which is transformers itself
                partners = {{"head": {{"use": partner}}}} if partner else {{}}
                try:
                    tables = {{kind: {{"use": entry.qualified_name}}, **partners, **more}}
                    validate_on_meta(resolve_config(("test", tables)))
                    fine.add(kind)
                except TstkError:
                    pass
print(json.dumps([sorted(fine), [m for m in {heavy!r} if m in sys.modules and m not in before]]))
"""
HEAVY = ("torch._dynamo", "torch._inductor", "sympy", "sklearn", "scipy", "matplotlib", "transformers")


def fresh(code, folder=None):
    """Return the last line that a new interpreter prints."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, env=variables)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        "--help",
        "train --encoder bert --head cot --help",
        "train --encoder bert --print-config",
        "list",
        "list encoders --json",
        "show encoder bert",
        "plugins list",
        "config list",
        "data list",
        "run --help",
        "completion bash",
    ],
)
def test_a_command_that_computes_nothing_imports_nothing_heavy(words):
    assert fresh(CHECK.format(words=words.split())) == "heavy: []"


@pytest.mark.slow
def test_the_help_of_every_command_imports_nothing_heavy():
    count, heavy = fresh(HELP).split(" ", 1)
    assert int(count) > 15
    assert heavy == "[]"


@pytest.mark.slow
def test_to_train_score_predict_and_embed_takes_neither_the_compiler_nor_scikit_learn(tmp_path):
    commands = [
        "train --encoder bert --encoder.depth 1 --head cot --steps 2 --device cpu --out run",
        "train --loss masked --steps 2 --device cpu --out pretrained",
        "train --init-from pretrained --head linear --steps 2 --device cpu --out tuned",
        "train --encoder bert --encoder.depth 1 --head cot --dry-run",
        "eval run",
        "predict run --out predictions.csv",
        "embed run --out embeddings.npz",
    ]
    done = fresh(WORK.format(commands=[words.split() for words in commands], heavy=HEAVY), tmp_path)
    assert json.loads(done) == []
    assert (tmp_path / "embeddings.npz").is_file()


@pytest.mark.slow
def test_parts_are_checked_against_each_other_without_the_compiler():
    kinds, heavy = json.loads(fresh(REHEARSE.format(heavy=HEAVY)))
    assert kinds == ["decoder", "encoder", "head", "tokenizer"]
    assert heavy == []


def test_the_module_is_the_console_script():
    result = subprocess.run([sys.executable, "-m", "tstk", "trian"], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "Error: No command is called 'trian'. Did you mean 'train'?\n"


@pytest.mark.parametrize(
    ("environment", "spins"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
)
def test_waiting_threads_sleep_soon_unless_the_user_says_otherwise(monkeypatch, environment, spins):
    from tstk.cli import shorten_openmp_spin

    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # remembers what was there, for after the test
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    shorten_openmp_spin()
    assert os.environ.get("GOMP_SPINCOUNT") == spins


@pytest.mark.slow
def test_ten_more_plugins_cost_their_light_modules_and_nothing_else(tmp_path):
    light = "from tstk import Entry, hookimpl\n\n@hookimpl\ndef tstk_entries():\n"
    for name in (f"dummy{i}" for i in range(10)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
        (tmp_path / name / "part.py").write_text("import torch\n")
        yields = [f"    yield Entry('encoder', '{name}-{j}', '{name}.part:Part', 'A part')\n" for j in range(5)]
        (tmp_path / name / "plugin.py").write_text(light + "".join(yields))
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[tstk]\n{name} = {name}.plugin\n")
    code = """
import sys
from tstk.cli import cli
cli.main(["--help"], prog_name="tstk", standalone_mode=False)
from tstk.plugins.registry import get_registry
print(sum(p.dist.startswith("dummy") for p in get_registry().plugins), end=" ")
print(*sorted(m for m in sys.modules if m == "torch" or not m.startswith("dummy") or m.count(".") != 1))
"""
    listings = []
    for path in ([], [str(tmp_path)]):
        variables = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([*path, *filter(None, [os.environ.get("PYTHONPATH")])]),
        }
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=variables)
        assert done.returncode == 0, done.stderr
        count, *modules = done.stdout.splitlines()[-1].split()
        listings.append((count, set(modules)))
    (none, before), (ten, after) = listings
    assert (none, ten) == ("0", "10")
    assert after - before == {f"dummy{i}" for i in range(10)}
    assert "torch" not in after
