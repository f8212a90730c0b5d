"""Training in several processes equals training in one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import tstk

pytestmark = pytest.mark.slow

TRAIN = ["-m", "tstk", "train", "--tokenizer.dim", "8", "--encoder", "transformer", "--encoder.dim", "16"]
TRAIN += ["--encoder.depth", "1", "--encoder.heads", "2", "--encoder.dropout", "0", "--head", "linear", "--epochs", "3"]
TRAIN += ["--batch-size", "8", "--device", "cpu", "--threads", "1", "--select-by", "last"]


def start_python(args, folder):
    """Start Python with arguments and return the process."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(tstk.__file__)))
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *map(str, args)], cwd=folder, env=environment, **pipes)


def run_python(args, folder, until=None, signum=signal.SIGTERM):
    """Run Python and return its exit code and output; send a signal once the file `until` exists."""
    process = start_python(args, folder)
    try:
        while until is not None and not until.exists() and process.poll() is None:
            time.sleep(0.05)
        if until is not None:
            process.send_signal(signum)
        out, err = process.communicate(timeout=600)
    finally:
        process.kill()
        process.wait()
    return process.returncode, out, err


SCRIPT = Path(__file__).parents[1] / "support" / "train_pipelines.py"
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture(scope="module")
def alone(npz, csv, tmp_path_factory):
    """Train five pipelines in one process, in double precision; return the folder of their weights."""
    folder = tmp_path_factory.mktemp("alone")
    code, _, err = run_python([SCRIPT, npz, csv, folder], folder)
    assert code == 0, err
    return folder


@pytest.mark.parametrize("how", ["whole", "sharded"])
def test_two_processes_equal_one_with_the_doubled_batch_to_rounding(npz, csv, alone, tmp_path, how):
    code, _, err = run_python([*TORCHRUN, SCRIPT, npz, csv, tmp_path, how], tmp_path)
    assert code == 0, err
    for case in ("cross-entropy", "masked", "forecast", "codebook", "lora"):
        expected, actual = (load_file(folder / f"{case}.safetensors") for folder in (alone, tmp_path))
        assert expected.keys() == actual.keys()
        for name, value in expected.items():
            torch.testing.assert_close(actual[name], value, rtol=0, atol=1e-6)
        expected_run, actual_run = (json.loads((folder / f"{case}.json").read_text()) for folder in (alone, tmp_path))
        assert actual_run["weights"] == ("DTensor" if how == "sharded" else "Parameter")
        for row, other in zip(expected_run["history"], actual_run["history"], strict=True):
            assert other["train"] == pytest.approx(row["train"], abs=1e-6)
            assert other["val"] == pytest.approx(row["val"], abs=1e-6)
    if how == "whole" and sys.platform == "linux":
        threads = [json.loads((tmp_path / f"threads-{rank}.json").read_text()) for rank in (0, 1)]
        assert not [name for names in threads for name in names if "gloo" in name], threads


def test_no_process_imports_the_program_from_the_current_folder(npz, tmp_path):
    (tmp_path / "tstk").mkdir()
    (tmp_path / "tstk" / "__init__.py").write_text("raise SystemExit('imported from the current folder')")
    words = [*TRAIN, "--data", npz, "--devices", "2", "--out", "run"]
    code, _, err = run_python(["-P", *words], tmp_path)
    assert code == 0, err
    assert (tmp_path / "run" / "result.json").is_file()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1], ids=["SIGTERM", "SIGUSR1"])
def test_an_interrupted_run_on_several_devices_can_be_resumed(npz, tmp_path, signum):
    args = [*TRAIN, "--data", npz, "--steps", "600", "--validate-every", "60", "--devices", "2", "--out", "run"]
    args[args.index("--epochs") : args.index("--epochs") + 2] = []
    code, _, err = run_python(args, tmp_path, until=tmp_path / "run" / "last" / "state.json", signum=signum)
    assert code == 128 + signum, err
    assert err.count("continue with: tstk train --resume run") == 1
    code, out, err = run_python(["-m", "tstk", "train", "--resume", "run", "--devices", "2", "--json"], tmp_path)
    assert code == 0, err
    assert json.loads(out)["selected"]["of"] == 10
    epochs = [json.loads(line)["epoch"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert epochs == list(range(1, 11))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals a process when its parent dies")
def test_processes_stop_and_save_when_the_one_that_started_them_is_killed(npz, tmp_path):
    args = [*TRAIN, "--data", npz, "--steps", "5000", "--devices", "2", "--out", "run"]
    args[args.index("--epochs") : args.index("--epochs") + 2] = []
    process = start_python(args, tmp_path)
    try:
        while not (tmp_path / "run" / "last" / "state.json").exists() and process.poll() is None:
            time.sleep(0.05)
        process.kill()
        _, err = process.communicate(timeout=600)  # ends when none of them holds its pipes any more
    finally:
        process.kill()
    assert "continue with: tstk train --resume run" in err


def test_more_devices_than_there_are_is_refused(monkeypatch):
    from tstk.errors import OptionError
    from tstk.training.launcher import launch_processes

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(OptionError, match=r"--devices 4: torch sees 1 GPU\(s\) here"):
        launch_processes(4, [], use_cpu=False)


def test_an_error_in_several_processes_is_printed_once(npz, tmp_path):
    code, _, err = run_python([*TRAIN, "--devices", "2", "--data", npz, "--batch-size", "7", "--out", "run"], tmp_path)
    assert code == 2
    assert err.count("Error: ") == 1
    assert "expected a multiple of 2" in err


def test_of_two_processes_started_by_torchrun_one_writes_and_prints(npz, tmp_path):
    code, out, err = run_python([*TORCHRUN, *TRAIN, "--data", npz, "--out", "two"], tmp_path)
    assert code == 0, err
    assert [path.name for path in tmp_path.iterdir()] == ["two"]
    assert out.count("parameters") == 1
    assert err.count("note: validation") == 1


def test_a_batch_size_that_the_processes_do_not_divide_is_refused(npz, tmp_path):
    from tstk.data.load import load_data
    from tstk.errors import OptionError
    from tstk.training.config import TrainConfig
    from tstk.training.loader import BatchLoader

    part = load_data(npz).train
    with pytest.raises(OptionError, match="multiple of 3, the number of processes"):
        BatchLoader(part, TrainConfig(batch_size=8), (1, 3))
    epochs_by_rank = [
        list(BatchLoader(part, TrainConfig(batch_size=6), (i, 3)).iterate_epoch(1, torch.device("cpu")))
        for i in range(3)
    ]
    keys = [key for steps in epochs_by_rank for group in steps for series in group for key in series.sample_id.tolist()]
    assert len(keys) == len(set(keys)) == len(part) - len(part) % 3
