"""Several processes train what one would."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

import tstk

TRAIN = ["-m", "tstk", "train", "--tokenizer.dim", "8", "--encoder", "transformer", "--encoder.dim", "16"]
TRAIN += ["--encoder.depth", "1", "--encoder.heads", "2", "--encoder.dropout", "0", "--head", "linear", "--epochs", "3"]
TRAIN += ["--batch-size", "8", "--device", "cpu", "--threads", "1", "--select", "last"]


def start(words, folder):
    """Run Python with these words and wait; what it said."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(tstk.__file__)))
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, *words], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        out, err = process.communicate(timeout=180)
    finally:
        process.kill()
        process.wait()
    return process.returncode, out, err


@pytest.fixture(scope="module")
def runs(npz, tmp_path_factory):
    """The same training in one process and in two; the folder, and what two said."""
    folder = tmp_path_factory.mktemp("several")
    code, _, err = start([*TRAIN, "--data", npz, "--out", "one"], folder)
    assert code == 0, err
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    code, out, err = start([*several, *TRAIN, "--data", npz, "--out", "two"], folder)
    assert code == 0, err
    return folder, out


def test_two_processes_arrive_where_one_does(runs):
    one, two = (load_file(runs[0] / name / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, value in one.items():
        if name.endswith("key.bias"):
            continue  # attention does not depend on it, so its gradient is rounding
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-4)


def test_one_of_two_processes_writes_and_talks(runs):
    folder, out = runs
    assert sorted(path.name for path in folder.iterdir()) == ["one", "two"]
    assert out.count("parameters") == 1


def test_a_batch_that_cannot_be_dealt_out_is_refused(npz, tmp_path):
    from tstk.data.load import load
    from tstk.engine import Batches
    from tstk.errors import OptionError

    part = load(npz).train
    with pytest.raises(OptionError, match="multiple of 3, the number of processes"):
        Batches(part, 8, 1, 0, share=(1, 3))
    mine = [list(Batches(part, 6, 1, 0, share=(i, 3)).epoch(1, torch.device("cpu"))) for i in range(3)]
    keys = [key for steps in mine for group in steps for series in group for key in series.key.tolist()]
    assert len(keys) == len(set(keys)) == len(part) - len(part) % 3
