"""Run directories for the fuzzer: how they are made, and functions that load one and check what was loaded."""

import json
from pathlib import Path

import torch

import tstk
from tstk.config.records import RunConfig, RunResult, read_history, write_record
from tstk.core.types import Series
from tstk.runs.checkpoint import rebuild_for_resume
from tstk.training.resume_store import ResumeStore

EXPECTED = []
"""What the undamaged run loads to; the fuzzer loads it first in each of its processes."""


def load_finished(folder):
    """Load a finished run, and check that it is the undamaged one to the bit; metrics.jsonl may be missing."""
    history = read_history(folder) if (folder / "metrics.jsonl").is_file() else EXPECTED[0][1]
    compare((RunResult.read(folder).to_dict(), history, predict(folder)))


def load_unfinished(folder):
    """Load the training state of an unfinished run, and check that it is the undamaged one to the bit.

    A run without a state starts again.
    """
    RunConfig.read(folder)
    if (snapshot := ResumeStore(folder).read()) is not None:
        compare((snapshot.state, snapshot.history))


def load_foreign(folder):
    """Load a run whose hashes are right whatever its files say, as a stranger can make it."""
    for path in folder.rglob("*.json"):
        write_hash(path)
    RunResult.read(folder)
    read_history(folder)
    predict(folder)
    rebuild_for_resume(folder)


def write_hash(path):
    """Give a record the hash of what it holds, and a result that of no metrics."""
    try:
        content = json.loads(path.read_bytes())
        write_record(path, {key: value for key, value in content.items() if key not in ("sha256", "metrics_sha256")})
    except (ValueError, AttributeError, RecursionError):
        pass


def predict(folder):
    pipeline = tstk.load(folder)
    x = torch.linspace(-1, 1, pipeline.spec.channels * pipeline.spec.length).view(1, pipeline.spec.channels, -1)
    return pipeline.predict_batch(Series(x))


def compare(loaded):
    if not EXPECTED:
        EXPECTED.append(loaded)
    assert_equal(loaded, EXPECTED[0])


def assert_equal(actual, expected):
    """Check that nested values with tensors are equal to the bit; further keys of a dictionary are never read."""
    assert type(actual) is type(expected)
    if isinstance(expected, torch.Tensor):
        assert torch.equal(actual, expected)
    elif isinstance(expected, dict):
        for key, value in expected.items():
            assert_equal(actual[key], value)
    elif isinstance(expected, list | tuple):
        assert len(actual) == len(expected)
        for values in zip(actual, expected, strict=True):
            assert_equal(*values)
    else:
        assert actual == expected


def read_folder(folder):
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
