"""A run that was interrupted ends as if it had not been, and what is damaged is refused in a line."""

import json
import os
import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file

import tstk

DRIVER = Path(__file__).parent / "made_up" / "interrupted.py"


def killed(data, folder, kills, seed=0):
    """Train two runs in a process of their own, one of them killed so many times; how often it was."""
    root = str(Path(tstk.__file__).parent.parent)
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    words = [sys.executable, DRIVER, data, folder, str(kills), str(seed)]
    told = subprocess.run(
        words,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert told.returncode == 0, told.stderr
    return int(told.stdout)


def rows(run):
    """metrics.jsonl without times."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if "second" not in k} for row in found]


def result(run):
    """result.json without times."""
    found = json.loads((run / "result.json").read_text())
    return {k: v for k, v in found.items() if "seconds" not in k}


def test_a_run_that_is_killed_twenty_times_ends_as_one_that_is_not_bit_for_bit(npz, tmp_path):
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    assert killed(npz, tmp_path, 20) == 20
    assert (rough / "model.safetensors").read_bytes() == (calm / "model.safetensors").read_bytes()
    assert rows(rough) == rows(calm)
    assert result(rough) == result(calm)
    names = {"config.json", "metrics.jsonl", "model.safetensors", "result.json"}
    assert {path.name for path in rough.iterdir()} == {path.name for path in calm.iterdir()} == names
    assert not any(".teacher." in name for name in load_file(rough / "model.safetensors"))
