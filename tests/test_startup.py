"""Help, lists and configs never import torch; measured in a fresh interpreter."""

import os
import subprocess
import sys

import pytest

CHECK = """
import sys
from tstk.cli import cli
cli.main({words!r}, prog_name="tstk", standalone_mode=False)
print("heavy:", sorted({{"torch", "numpy", "sklearn", "transformers", "accelerate"}} & sys.modules.keys()))
"""


@pytest.mark.parametrize(
    "words",
    [
        "--help",
        "train --help",
        "train --encoder bert --head cot --help",
        "train --encoder bert --print-config",
        "predict --help",
        "list",
        "show encoder bert",
        "plugins list",
        "config list",
    ],
)
def test_a_command_that_computes_nothing_imports_nothing_heavy(words):
    result = subprocess.run([sys.executable, "-c", CHECK.format(words=words.split())], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("heavy: []\n")


def test_the_module_is_the_console_script():
    result = subprocess.run([sys.executable, "-m", "tstk", "trian"], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "Error: No command is called 'trian'. Did you mean 'train'?\n"


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
)
def test_waiting_threads_sleep_soon_unless_the_user_says_otherwise(monkeypatch, given, spins):
    from tstk.cli import share_cores

    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # remembers what was there, for after the test
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    share_cores()
    assert os.environ.get("GOMP_SPINCOUNT") == spins


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
from tstk.registry import registry
print(sum(p.dist.startswith("dummy") for p in registry().plugins), end=" ")
print(*sorted(m for m in sys.modules if m == "torch" or not m.startswith("dummy") or m.count(".") != 1))
"""
    said = []
    for path in ([], [str(tmp_path)]):
        variables = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([*path, *filter(None, [os.environ.get("PYTHONPATH")])]),
        }
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=variables)
        assert done.returncode == 0, done.stderr
        count, *modules = done.stdout.splitlines()[-1].split()
        said.append((count, set(modules)))
    (none, before), (ten, after) = said
    assert (none, ten) == ("0", "10")
    assert after - before == {f"dummy{i}" for i in range(10)}
    assert "torch" not in after
