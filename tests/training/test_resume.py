"""A run that was interrupted ends as if it had not been, and what is damaged is refused in a line."""

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import tstk
from tstk.config.resolve import resolve
from tstk.config.run_directory import DiskFull, alone
from tstk.errors import CheckpointError, DataError, OptionError
from tstk.training.interrupt import Stopped, asked_to_stop
from tstk.training.resume_store import Last
from tstk.training.runs import resume
from tstk.training.runs import train as train_run

ENCODER = {"use": "transformer", "dim": 16, "depth": 1, "heads": 2, "dropout": 0.1}
DRIVER = Path(__file__).parents[1] / "made_up" / "interrupted.py"


def killed(kind, folder, kills, threads, seed=0):
    """Train two runs in a process of their own, one of them killed so many times; how often it was."""
    root = str(Path(tstk.__file__).parent.parent)
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    words = [sys.executable, DRIVER, kind, folder, *map(str, (kills, threads, seed))]
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    told = subprocess.run(words, env=env, capture_output=True, text=True)
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "kills", "threads"),
    [("all", 10, 1), ("classifier", 5, 2), ("contrastive", 4, 2), ("codes", 5, 2)],
    ids=str,
)
def test_a_run_that_is_killed_again_and_again_ends_as_one_that_is_not_bit_for_bit(tmp_path, kind, kills, threads):
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    assert killed(kind, tmp_path, kills, threads) > 0
    assert (rough / "model.safetensors").read_bytes() == (calm / "model.safetensors").read_bytes()
    assert rows(rough) == rows(calm)
    assert result(rough) == result(calm)
    names = {"config.json", "metrics.jsonl", "model.safetensors", "result.json"}
    assert {path.name for path in rough.iterdir()} == {path.name for path in calm.iterdir()} == names
    assert not any(".teacher." in name for name in load_file(rough / "model.safetensors"))


# ------------------------------------------------------------------ what is saved is whole


@pytest.fixture
def stopped(npz, tmp_path):
    """A run that was asked to stop in the middle of its second epoch."""
    return interrupted(npz, tmp_path / "run", step=5)


def interrupted(data, out, step, **train):
    """Train until a step and stop there as if asked; the run directory."""

    class Asks:
        def begin(self, *_):
            pass

        def step(self, at, *_):
            if at == step:
                os.kill(os.getpid(), signal.SIGINT)

        def epoch(self, *_):
            pass

    table = {"encoder": ENCODER, "head": "linear", "data": data}
    config = resolve(("test", {**table, "train": {"epochs": 4, "batch_size": 8, "device": "cpu", **train}}))
    with pytest.raises(Stopped):
        train_run(config, out, watcher=Asks())
    return out


def refused(run, says, kind=CheckpointError):
    with pytest.raises(kind) as caught:
        resume(run)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def state(run):
    return json.loads((run / "last" / "state.json").read_text())


def tensors(run):
    return run / "last" / state(run)["tensors"]


def changed(run, **facts):
    (run / "last" / "state.json").write_text(json.dumps(state(run) | facts))


def test_python_resumes_by_name(stopped):
    assert tstk.resume(stopped)["run"] == str(stopped)


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with asked_to_stop() as asked:
            os.kill(os.getpid(), signal.SIGTERM)
            assert asked() == 0
            os.kill(os.getpid(), signal.SIGINT)
            assert asked() == signal.SIGINT
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_what_training_goes_on_from_is_json_and_safetensors_and_goes_when_it_is_finished(stopped):
    assert {path.suffix for path in (stopped / "last").iterdir()} == {".json", ".safetensors"}
    kinds = {name.partition(".")[0] for name in load_file(tensors(stopped))}
    assert kinds == {"pipeline", "average", "best", "optimizer", "generator"}
    assert (state(stopped)["epoch"], state(stopped)["at"]) == (2, 2)
    told = resume(stopped)
    assert told["selected"]["of"] == 4
    assert not (stopped / "last").exists()
    refused(stopped, "this run is finished; start another with its parts: tstk train --from")


@pytest.mark.parametrize("keep", [0, 100, -100])
def test_tensors_that_are_truncated_are_refused(stopped, keep):
    path = tensors(stopped)
    path.write_bytes(path.read_bytes()[:keep])
    refused(stopped, f"{path} is truncated")
    refused(stopped, f"remove {stopped / 'last'} to start this run again")


def test_a_state_that_points_to_nothing_is_refused(stopped):
    tensors(stopped).unlink()
    refused(stopped, "which is not there; remove")
    changed(stopped, tensors="../../elsewhere.safetensors")
    refused(stopped, "which is not there; remove")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": "x", "tensors": 3}'])
def test_a_state_that_is_damaged_is_refused(stopped, text):
    (stopped / "last" / "state.json").write_text(text)
    refused(stopped, "state.json is damaged")


@pytest.mark.parametrize(
    "facts", [{"judge": 3}, {"step": None}, {"epoch": "x"}, {"ledger": {"sums": 1}}, {"seconds": []}], ids=str
)
def test_numbers_that_cannot_be_are_refused(stopped, facts):
    changed(stopped, **facts)
    refused(stopped, "state.json is damaged")


def test_metrics_that_are_no_json_are_refused(stopped):
    path = stopped / "metrics.jsonl"
    path.write_bytes(b"?" + path.read_bytes()[1:])
    refused(stopped, "metrics.jsonl is damaged")


def test_a_state_of_a_later_version_is_refused(stopped):
    changed(stopped, format=2, versions={"tstk": "9.1"})
    refused(stopped, "was written by tstk 9.1")


def test_options_that_were_changed_since_are_refused(stopped):
    path = stopped / "config.json"
    path.write_text(path.read_text().replace('"lr": 0.001', '"lr": 0.1'))
    refused(stopped, "config.json has changed since")


def test_tensors_of_another_training_are_refused(stopped):
    path = tensors(stopped)
    found = load_file(path)
    name = next(k for k in found if k.startswith("optimizer.") and k.endswith("exp_avg") and found[k].ndim == 2)
    save_file({**found, name: found[name][:1].clone()}, path)
    refused(stopped, "does not fit its config.json")
    save_file({k: v for k, v in found.items() if k != "average.encoder.table"}, path)
    refused(stopped, "does not fit its config.json")
    save_file(found, path)
    changed(stopped, processes=2)
    refused(stopped, "continue with --devices 2", OptionError)


def test_data_that_changed_since_are_refused(npz, tmp_path):
    data = tmp_path / "mine.npz"
    shutil.copy(npz, data)
    run = interrupted(str(data), tmp_path / "run", step=5)
    arrays = dict(np.load(data))
    np.savez(data, **arrays | {"X_train": arrays["X_train"] * 2})
    refused(run, "the data have changed", DataError)
    np.savez(data, **arrays | {name: arrays[name][..., :18] for name in ("X_train", "X_test")})
    refused(run, "has changed since this run was started: length was 20 and is 18", DataError)


def test_metrics_that_were_lost_are_refused_and_rows_that_came_later_are_cut_off(stopped):
    path = stopped / "metrics.jsonl"
    kept = path.read_bytes()
    path.write_bytes(kept[:-5])
    refused(stopped, "metrics.jsonl is shorter than")
    path.write_bytes(kept + b'{"epoch": 2, "half a ro')
    resume(stopped)
    assert [row["epoch"] for row in rows(stopped)] == [1, 2, 3, 4]


def test_a_run_that_never_saved_anything_starts_again_from_its_first_step(npz, tmp_path, stopped):
    calm = tmp_path / "calm"
    train_run(resolve(("test", json.loads((stopped / "config.json").read_text())["given"])), calm)
    shutil.rmtree(stopped / "last")
    said = []
    resume(stopped, say=said.append)
    assert any("starts again" in line for line in said)
    assert rows(stopped) == rows(calm)
    assert (stopped / "model.safetensors").read_bytes() == (calm / "model.safetensors").read_bytes()


def test_saving_takes_no_more_than_its_share_of_the_time(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("tstk.training.resume_store.time.perf_counter", lambda: now[0])
    (tmp_path / "config.json").write_text("{}")
    last = Last(tmp_path)
    monkeypatch.setattr("tstk.training.resume_store.write_tensors", lambda *_: now.__setitem__(0, now[0] + 3))
    assert not last.due(10**9)
    now[0] += 10_000
    assert last.due(10**9)
    last.save({}, {"step": 1})
    now[0] += 149
    assert not last.due(0)
    now[0] += 2
    assert last.due(0)


def test_other_versions_are_told(stopped):
    path = stopped / "config.json"
    path.write_text(path.read_text().replace(f'"torch": "{torch.__version__}"', '"torch": "1.0"'))
    changed(stopped, config=hashlib.sha256(path.read_bytes()).hexdigest())
    said = []
    resume(stopped, say=said.append)
    assert any("torch was 1.0" in line and "last digit" in line for line in said)


# ------------------------------------------------------------------ a full disk


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Full:
    """A file that takes ten bytes more."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, data):
        self.file.write(data[:10])
        self.file.flush()
        full()


def test_a_run_that_somebody_trains_already_is_left_to_them(npz, tmp_path):
    run = interrupted(npz, tmp_path / "run", step=5)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with alone(run):
        refused(run, "another process trains this run")
    assert {path: path.read_bytes() for path in before} == before
    resume(run)
    assert len(rows(run)) == 4


@pytest.mark.parametrize("where", ["step-", "state.json", "metrics.jsonl"])
def test_a_disk_that_is_full_loses_nothing_and_is_told_in_a_line(npz, tmp_path, monkeypatch, where):
    run = interrupted(npz, tmp_path / "run", step=5)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    honest = Path.open
    with monkeypatch.context() as patch:
        patch.setattr(Last, "SHARE", 0 if where == "metrics.jsonl" else 1e9)
        if where == "step-":
            patch.setattr("tstk.runs.checkpoint.save_file", full)
        elif where == "state.json":
            patch.setattr("tstk.config.run_directory.Path.write_bytes", full)
        else:
            patch.setattr(Path, "open", lambda *a, **k: Full(honest(*a)) if a[1:] == ("ab",) else honest(*a, **k))
        refused(run, f"has no room for {where}", DiskFull)
    assert {path: path.read_bytes() for path in before} == before
    assert not list(run.rglob("*.part"))
    resume(run)
    assert len(rows(run)) == 4


@pytest.mark.slow
def test_a_file_system_with_too_little_room_is_told_with_the_bytes(npz, tmp_path):
    code = (
        "import resource, signal, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000));"
        "from tstk.training.resume_store import Last; Last.SHARE = 0;"  # however slow, nothing is saved before the end
        "from tstk.cli import cli; cli(sys.argv[1:], prog_name='tstk')"
    )
    words = ["train", "--data", npz, "--encoder", "transformer", "--epochs", "2", "--device", "cpu", "--out", "run"]
    told = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert told.returncode == 2, told.stderr
    fault = [line for line in told.stderr.splitlines() if line.startswith("Error: ")]
    assert len(fault) == 1
    assert "run has no room for model.safetensors of " in fault[0]
    assert not (tmp_path / "run").exists()
