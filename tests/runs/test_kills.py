"""Runs of every kind that are killed at random moments and continued end with the bytes of runs that are not.

`make kills KILLS=55 SEED=1` kills more often, and at other moments.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tstk

DRIVER = Path(__file__).parents[1] / "support" / "kill_commands.py"
KINDS = (
    *("classification", "calibrated", "regression", "multilabel", "forecast-head", "forecast-masked", "masked"),
    *("vqvae", "vqshape", "recipe", "bench"),
)
LEFTOVERS = re.compile(r"(bench|score)\.\w+\.[0-9a-f]{8}\.part")
"""Of writes of a killed bench, which has no lock and therefore removes none."""
KILLS, SEED = (int(os.environ.get(name, default)) for name, default in (("KILLS", "11"), ("SEED", "1")))


def kill_and_repeat(kind, folder, kills, seed):
    """Run the command of a kind in another process with and without kills; return the folders of those with."""
    path = [str(Path(tstk.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, DRIVER, kind, folder, str(kills), str(seed)]
    process = subprocess.run(command, env=env, capture_output=True, text=True)
    log = max(folder.glob("*.log"), key=os.path.getmtime).read_text()[-2000:]
    assert process.returncode == 0, process.stderr + log
    assert process.stdout.endswith(f"killed {kills} times\n")
    return [path for path in sorted(folder.glob("rough-*")) if path.is_dir()]


def read_files(folder):
    """Return path -> content of the files of runs: bytes of weights, values of JSON files without times."""
    names = ("config.json", "metrics.jsonl", "result.json", "score.json", "bench.json", "model.safetensors")
    return {
        str(path.relative_to(folder)): path.read_bytes()
        if path.suffix == ".safetensors"
        else [strip(json.loads(text), folder) for text in split_json(path)]
        if path.name in names
        else None
        for path in folder.rglob("*")
        if path.is_file() and not LEFTOVERS.search(str(path))
    }


def split_json(path):
    text = path.read_text()
    return text.splitlines() if path.suffix == ".jsonl" else [text]


def strip(value, folder):
    """Return a JSON value without times and hashes, and with another name of the folder."""
    if isinstance(value, dict):
        return {k: strip(v, folder) for k, v in value.items() if "second" not in k and "sha256" not in k}
    if isinstance(value, list):
        return [strip(v, folder) for v in value]
    return value.replace(folder.name, "OUT") if isinstance(value, str) else value


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_killed_and_repeated_ends_as_what_is_not(kind, tmp_path):
    if kind in ("vqvae", "vqshape"):
        pytest.importorskip(f"tstk_plugins_{kind}")
    kills = KILLS // len(KINDS) + (KINDS.index(kind) < KILLS % len(KINDS))
    if not kills:
        pytest.skip(f"KILLS={KILLS} leaves none for this kind")
    want = None
    for folder in kill_and_repeat(kind, tmp_path, kills, SEED):
        want = want or read_files(tmp_path / "calm")
        assert any(name.endswith("model.safetensors") for name in want)
        found = read_files(folder)
        assert found.keys() == want.keys()
        assert [name for name in want if found[name] != want[name]] == []
    print(f"{kind}: killed {kills} times")
