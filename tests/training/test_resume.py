"""An interrupted run ends as an uninterrupted one, and damaged files are refused in one line."""

import errno
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import tstk
from tests.support.grids import slow_after
from tstk.config.records import read_record, write_record
from tstk.config.resolve import resolve_config
from tstk.config.run_directory import run_lock
from tstk.errors import CheckpointError, DataError, FileError, OptionError
from tstk.runs.checkpoint import write_tensors
from tstk.training import runs
from tstk.training.callbacks import Callback
from tstk.training.interrupt import TrainingInterrupted, defer_signals
from tstk.training.resume_store import ResumeStore
from tstk.training.runs import resume_run

ENCODER = {"use": "transformer", "dim": 16, "depth": 1, "heads": 2, "dropout": 0.1}
DRIVER = Path(__file__).parents[1] / "support" / "train_with_kills.py"


def train_and_kill(kind, folder, kills, threads, seed=0):
    """Train two runs in another process, one of them killed up to `kills` times; return how often it was killed."""
    root = str(Path(tstk.__file__).parent.parent)
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, DRIVER, kind, folder, *map(str, (kills, threads, seed))]
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    process = subprocess.run(command, env=env, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return int(process.stdout)


def rows(run):
    """Return the rows of metrics.jsonl without times."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if "second" not in k} for row in lines]


def result(run):
    """Return result.json without times."""
    values = json.loads((run / "result.json").read_text())
    return {k: v for k, v in values.items() if "seconds" not in k and "sha256" not in k}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "kills", "threads"),
    [("all", 10, 1), ("classifier", 5, 2), ("contrastive", 4, 2), ("codes", 5, 2), ("lora", 5, 1)],
    ids=str,
)
def test_a_run_that_is_killed_again_and_again_ends_as_one_that_is_not_bit_for_bit(tmp_path, kind, kills, threads):
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    assert train_and_kill(kind, tmp_path, kills, threads) > 0
    assert (rough / "model.safetensors").read_bytes() == (calm / "model.safetensors").read_bytes()
    assert rows(rough) == rows(calm)
    assert result(rough) == result(calm)
    names = {"config.json", "metrics.jsonl", "model.safetensors", "result.json"}
    assert {path.name for path in rough.iterdir()} == {path.name for path in calm.iterdir()} == names
    assert not any(".teacher." in name for name in load_file(rough / "model.safetensors"))


# ------------------------------------------------------------------ the saved state is complete


@pytest.fixture
def stopped_run(npz, tmp_path):
    """A run that a signal stopped in the middle of its second epoch."""
    return train_and_interrupt(npz, tmp_path / "run", step=5)


def train_and_interrupt(data, out, step, **train):
    """Train, send SIGINT at a step, and return the run directory."""

    class InterruptAtStep(Callback):
        def on_step_end(self, state, step_outputs):
            if state.step == step:
                os.kill(os.getpid(), signal.SIGINT)

    tables = {"encoder": ENCODER, "head": "linear", "data": data}
    config = resolve_config(("test", {**tables, "train": {"epochs": 4, "batch_size": 8, "device": "cpu", **train}}))
    with pytest.raises(TrainingInterrupted):
        runs.train(config, out, callbacks=[InterruptAtStep()])
    return out


def assert_refused(run, message, error=CheckpointError):
    with pytest.raises(error) as caught:
        resume_run(run)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def state(run):
    return read_record(run / "last" / "state.json")


def tensors(run):
    return run / "last" / state(run)["tensors"]


def edit_state(run, **facts):
    write_record(run / "last" / "state.json", state(run) | facts)


def edit_config(run, **facts):
    """Change config.json, and the state that was saved under it."""
    write_record(run / "config.json", read_record(run / "config.json") | facts)
    edit_state(run, config=hashlib.sha256((run / "config.json").read_bytes()).hexdigest())


def test_python_resumes_by_name(stopped_run):
    assert tstk.resume(stopped_run).run_dir == stopped_run


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with defer_signals() as get_pending_signal:
            os.kill(os.getpid(), signal.SIGTERM)
            assert get_pending_signal() == 0
            os.kill(os.getpid(), signal.SIGINT)
            assert get_pending_signal() == signal.SIGINT
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.slow
def test_what_training_goes_on_from_is_json_and_safetensors_and_goes_when_it_is_finished(stopped_run):
    assert {path.suffix for path in (stopped_run / "last").iterdir()} == {".json", ".safetensors"}
    kinds = {name.partition("/")[0] for name in load_file(tensors(stopped_run))}
    assert kinds == {"pipeline", "callbacks", "best_weights", "optimizer", "rng"}
    assert (state(stopped_run)["epoch"], state(stopped_run)["step_in_epoch"]) == (2, 2)
    resumed = resume_run(stopped_run)
    assert resumed.selected.num_epochs == 4
    assert not (stopped_run / "last").exists()
    assert_refused(stopped_run, "this run is finished; start another from its weights: tstk train --init-from")


@pytest.mark.slow
@pytest.mark.parametrize("keep", [0, 100, -100])
def test_tensors_that_are_truncated_are_refused(stopped_run, keep):
    path = tensors(stopped_run)
    path.write_bytes(path.read_bytes()[:keep])
    assert_refused(stopped_run, f"{path} is truncated")
    assert_refused(stopped_run, f"remove {stopped_run / 'last'} to start this run again")


def test_a_state_that_points_to_nothing_is_refused(stopped_run):
    tensors(stopped_run).unlink()
    assert_refused(stopped_run, "which does not exist; remove")
    edit_state(stopped_run, tensors="../../elsewhere.safetensors")
    assert_refused(stopped_run, "which does not exist; remove")


@pytest.mark.slow
@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": "x", "tensors": 3}'])
def test_a_state_that_is_damaged_is_refused(stopped_run, text):
    (stopped_run / "last" / "state.json").write_text(text)
    assert_refused(stopped_run, "state.json was not written by tstk" if '"format"' in text else "state.json is damaged")


@pytest.mark.slow
@pytest.mark.parametrize(
    "facts",
    [{"callbacks": 3}, {"step": None}, {"epoch": "x"}, {"metric_tracker": {"sums": 1}}, {"seconds": []}],
    ids=str,
)
def test_numbers_that_cannot_be_are_refused(stopped_run, facts):
    edit_state(stopped_run, **facts)
    assert_refused(stopped_run, "state.json is damaged")


def test_metrics_that_are_no_json_are_refused(stopped_run):
    path = stopped_run / "metrics.jsonl"
    path.write_bytes(b"?" + path.read_bytes()[1:])
    assert_refused(stopped_run, "metrics.jsonl is damaged")


def test_a_state_of_a_later_version_is_refused(stopped_run):
    edit_state(stopped_run, format=2, versions={"tstk": "9.1"})
    assert_refused(stopped_run, "was written by tstk 9.1")


def test_options_that_were_changed_since_are_refused(stopped_run):
    path = stopped_run / "config.json"
    text = path.read_text()
    path.write_text(text.replace('"lr": 0.001', '"lr": 0.1'))
    assert_refused(stopped_run, "config.json is damaged or was changed by hand: it does not match its SHA-256")
    config = json.loads(text)
    config["given"]["train"]["lr"] = "many"
    write_record(path, {k: v for k, v in config.items() if k != "sha256"})
    assert_refused(stopped_run, "config.json has changed since")


@pytest.mark.slow
def test_tensors_of_another_training_are_refused(stopped_run):
    path = tensors(stopped_run)
    saved = load_file(path)
    name = next(k for k in saved if k.startswith("optimizer/") and k.endswith("exp_avg") and saved[k].ndim == 2)
    write_tensors(path, {**saved, name: saved[name][:1].clone()})
    assert_refused(stopped_run, "its tensors do not match their SHA-256")
    edit_state(stopped_run, tensors_sha256=None)
    assert_refused(stopped_run, "does not fit its config.json")
    write_tensors(path, {k: v for k, v in saved.items() if k != "callbacks/ema/averages/encoder.table"})
    assert_refused(stopped_run, "does not fit its config.json")
    write_tensors(path, saved)
    edit_state(stopped_run, world_size=2)
    assert_refused(stopped_run, "continue with --devices 2", OptionError)


@pytest.mark.slow
def test_data_that_changed_since_are_refused(npz, tmp_path):
    data = tmp_path / "mine.npz"
    shutil.copy(npz, data)
    run = train_and_interrupt(str(data), tmp_path / "run", step=5)
    arrays = dict(np.load(data))
    np.savez(data, **arrays | {"X_train": np.nextafter(arrays["X_train"], 0)})
    assert_refused(run, f"these are not the data that {run} was trained on: now {data}", DataError)
    edit_config(run, data_files=[])  # as of a run that recorded none
    np.savez(data, **arrays | {"X_train": arrays["X_train"] * 2})
    assert_refused(run, "the data have changed", DataError)
    np.savez(data, **arrays | {name: arrays[name][..., :18] for name in ("X_train", "X_test")})
    assert_refused(run, "has changed since this run was started: length was 20 and is 18", DataError)


@pytest.mark.slow
def test_data_that_moved_are_found_by_name_when_a_run_is_resumed(npz, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    data = shutil.copy(npz, tmp_path / "mine.npz")
    run = train_and_interrupt(str(data), tmp_path / "run", step=5)
    shutil.move(data, tmp_path / "elsewhere" / "mine.npz")
    monkeypatch.chdir(tmp_path / "elsewhere")
    notes = []
    resume_run(run, print_fn=notes.append)
    assert any(f"{data} is gone" in line and "elsewhere/mine.npz" in line for line in notes)
    assert len(rows(run)) == 4


@pytest.mark.parametrize("name", slow_after(1, ["step", "state.json", "metrics.jsonl"]))
def test_a_changed_bit_of_what_training_goes_on_from_is_refused(stopped_run, name):
    path = {"step": tensors(stopped_run), "metrics.jsonl": stopped_run / name}.get(name, stopped_run / "last" / name)
    whole = path.read_bytes()
    digit = max(i for i, byte in enumerate(whole) if chr(byte).isdigit())
    offset = len(whole) - 3 if name == "step" else whole.rindex(b"0.") + 3 if name == "metrics.jsonl" else digit
    path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 1]) + whole[offset + 1 :])
    assert_refused(stopped_run, str(path))
    assert_refused(stopped_run, "SHA-256")
    assert_refused(stopped_run, f"remove {stopped_run / 'last'} to start this run again")


@pytest.mark.slow
def test_metrics_that_were_lost_are_refused_and_rows_that_came_later_are_cut_off(stopped_run):
    path = stopped_run / "metrics.jsonl"
    kept = path.read_bytes()
    path.write_bytes(kept[:-5])
    assert_refused(stopped_run, "metrics.jsonl is shorter than")
    path.write_bytes(kept + b'{"epoch": 2, "half a ro')
    resume_run(stopped_run)
    assert [row["epoch"] for row in rows(stopped_run)] == [1, 2, 3, 4]


@pytest.mark.slow
def test_a_run_that_never_saved_anything_starts_again_from_its_first_step(npz, tmp_path, stopped_run):
    calm = tmp_path / "calm"
    runs.train(resolve_config(("test", json.loads((stopped_run / "config.json").read_text())["given"])), calm)
    shutil.rmtree(stopped_run / "last")
    notes = []
    resume_run(stopped_run, print_fn=notes.append)
    assert any("starts again" in line for line in notes)
    assert rows(stopped_run) == rows(calm)
    assert (stopped_run / "model.safetensors").read_bytes() == (calm / "model.safetensors").read_bytes()


def test_saving_takes_no_more_than_its_share_of_the_time(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("tstk.training.resume_store.time.perf_counter", lambda: now[0])
    (tmp_path / "config.json").write_text("{}")
    resume_store = ResumeStore(tmp_path)
    monkeypatch.setattr("tstk.training.resume_store.write_tensors", lambda *_: now.__setitem__(0, now[0] + 3))
    assert not resume_store.is_due(10**9)
    now[0] += 10_000
    assert resume_store.is_due(10**9)
    resume_store.save({"step": 1})
    now[0] += 149
    assert not resume_store.is_due(0)
    now[0] += 2
    assert resume_store.is_due(0)


def test_a_kill_while_a_step_is_saved_again_leaves_its_first_state(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    resume_store = ResumeStore(tmp_path)
    resume_store.save({"step": 1, "weights": torch.zeros(3)})
    monkeypatch.setattr("tstk.training.resume_store.write_record", raise_disk_full)
    with pytest.raises(OSError, match="No space"):
        resume_store.save({"step": 1, "weights": torch.ones(3)})
    assert torch.equal(ResumeStore(tmp_path).read().state["weights"], torch.zeros(3))


@pytest.mark.slow
def test_other_versions_are_reported(stopped_run):
    edit_config(stopped_run, versions=read_record(stopped_run / "config.json")["versions"] | {"torch": "1.0"})
    notes = []
    resume_run(stopped_run, print_fn=notes.append)
    assert any("torch was 1.0" in line and "last digit" in line for line in notes)


# ------------------------------------------------------------------ a full disk


def raise_disk_full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class FullFile:
    """A file on a disk with ten bytes left."""

    def __init__(self, file):
        self.file, self.fileno = file, file.fileno

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, data):
        self.file.write(data[:10])
        self.file.flush()
        raise_disk_full()


def fill_disk_for(name, original_open):
    def open_file(path, *args, **kwargs):
        file = original_open(path, *args, **kwargs)
        return FullFile(file) if Path(path).name.startswith(name) and args in (("ab",), ("x+b",)) else file

    return open_file


@pytest.mark.slow
def test_a_run_that_another_process_trains_is_refused(npz, tmp_path):
    run = train_and_interrupt(npz, tmp_path / "run", step=5)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with run_lock(run):
        assert_refused(run, "another process is training this run")
    assert {path: path.read_bytes() for path in before} == before
    resume_run(run)
    assert len(rows(run)) == 4


@pytest.mark.slow
def test_a_run_that_another_process_finishes_before_the_lock_is_taken_is_not_trained_again(
    stopped_run, tmp_path, monkeypatch
):
    def finish_and_lock(run_dir):
        monkeypatch.setattr(runs, "run_lock", run_lock)
        resume_run(run_dir)
        return run_lock(run_dir)

    monkeypatch.setattr(runs, "run_lock", finish_and_lock)
    assert_refused(stopped_run, "this run is finished")
    assert len(rows(stopped_run)) == 4
    before = {path: path.read_bytes() for path in stopped_run.iterdir()}
    with pytest.raises(OptionError, match="already exists"):
        runs.train(resolve_config(("test", {"data": "har-demo"})), stopped_run)
    assert {path: path.read_bytes() for path in stopped_run.iterdir()} == before


@pytest.mark.parametrize("name", ["metrics.jsonl", "last"])
def test_a_run_of_a_stranger_cannot_have_files_changed_that_its_links_point_to(stopped_run, tmp_path, name):
    victim = tmp_path / "victim"
    (stopped_run / name).rename(victim)
    os.symlink(victim, stopped_run / name)
    if name == "metrics.jsonl":
        shutil.rmtree(stopped_run / "last")  # metrics of a run without a state are emptied
    before = {path: path.read_bytes() for path in (victim, *victim.glob("*")) if path.is_file()}
    assert_refused(stopped_run, f"{stopped_run / name} is a symbolic link")
    assert {path: path.read_bytes() for path in (victim, *victim.glob("*")) if path.is_file()} == before


@pytest.mark.slow
def test_a_state_that_a_kill_left_in_a_finished_run_is_removed_when_the_run_is_resumed(stopped_run):
    shutil.copytree(stopped_run / "last", stopped_run / "copy")
    resume_run(stopped_run)
    (stopped_run / "copy").rename(stopped_run / "last")
    assert_refused(stopped_run, "this run is finished")
    assert not (stopped_run / "last").exists()


@pytest.mark.slow
def test_a_file_of_the_user_beside_the_state_outlives_the_training(stopped_run):
    (stopped_run / "last" / "notes.txt").write_text("mine")
    resume_run(stopped_run)
    assert [path.name for path in (stopped_run / "last").iterdir()] == ["notes.txt"]


TSTK = [sys.executable, "-c", "import sys; from tstk.cli import cli; cli(sys.argv[1:], prog_name='tstk')"]


def run_at_once(number, folder, *args):
    """Start a number of `tstk` processes with the same words, and return their exit codes and stderr."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([*TSTK, *map(str, args)], cwd=folder, env=env, stderr=subprocess.PIPE, text=True)
        for _ in range(number)
    ]
    errors = [process.communicate()[1] for process in processes]
    return [process.returncode for process in processes], errors


@pytest.mark.slow
def test_of_processes_that_resume_or_create_one_run_at_once_one_does(stopped_run, npz, tmp_path):
    few = ["--data", npz, "--encoder", "transformer", "--steps", 4, "--device", "cpu"]
    for run, args in (
        (stopped_run, ["train", "--resume", stopped_run]),
        (tmp_path / "new", ["train", *few, "--out", "new"]),
    ):
        codes, errors = run_at_once(2, tmp_path, *args)
        assert sorted(codes) == [0, 2], errors
        refusals = [error.splitlines()[-1] for code, error in zip(codes, errors, strict=True) if code]
        reasons = "another process is training|is finished|already exists|holds an unfinished run"
        assert all(re.search(reasons, line) for line in refusals), refusals
        epochs = [row["epoch"] for row in rows(run)]
        assert epochs == list(range(1, len(epochs) + 1))
        assert result(run)


@pytest.mark.slow
def test_trainings_that_start_at_once_without_a_name_get_a_directory_each(npz, tmp_path):
    codes, errors = run_at_once(4, tmp_path, "train", "--data", npz, "--steps", 4, "--device", "cpu")
    assert codes == [0] * 4, errors
    assert len(list(tmp_path.glob("runs/*/result.json"))) == 4


@pytest.mark.slow
@pytest.mark.parametrize("where", ["step-", "state.json", "metrics.jsonl"])
def test_a_full_disk_loses_nothing_and_is_reported_in_one_line(npz, tmp_path, monkeypatch, where):
    run = train_and_interrupt(npz, tmp_path / "run", step=5)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr(ResumeStore, "MAX_TIME_FRACTION", 0 if where == "metrics.jsonl" else 1e9)
        if where == "step-":
            patch.setattr("tstk.runs.checkpoint.save_file", raise_disk_full)
        elif where == "state.json":
            patch.setattr(Path, "open", fill_disk_for(where, Path.open))
        else:
            patch.setattr("tstk.files.open", fill_disk_for(where, open), raising=False)
        assert_refused(run, f"has no room for {where}", FileError)
    assert {path: path.read_bytes() for path in before} == before
    assert not list(run.rglob("*.part"))
    resume_run(run)
    assert len(rows(run)) == 4


@pytest.mark.slow
def test_too_little_disk_space_is_reported_in_bytes(npz, tmp_path):
    code = (
        "import resource, signal, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000));"
        "from tstk.training.resume_store import ResumeStore; ResumeStore.MAX_TIME_FRACTION = 0;"  # no early save
        "from tstk.cli import cli; cli(sys.argv[1:], prog_name='tstk')"
    )
    args = ["train", "--data", npz, "--encoder", "transformer", "--epochs", "2", "--device", "cpu", "--out", "run"]
    process = subprocess.run(
        [sys.executable, "-c", code, *args], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert process.returncode == 2, process.stderr
    errors = [line for line in process.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert "run has no room for model.safetensors of " in errors[0]
    assert not (tmp_path / "run").exists()
