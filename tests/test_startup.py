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
