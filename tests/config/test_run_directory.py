"""Run directories are created and locked by one process at a time, and only what training wrote is removed."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tstk.config import run_directory
from tstk.config.run_directory import STATE_FILES, create_run_dir, remove_own_files, run_lock
from tstk.errors import CheckpointError, OptionError

RACE = Path(__file__).parents[1] / "support" / "race_for_run_dirs.py"


def write_run(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")


def list_files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def fail_in_run_dir(out, *names):
    """Create a run directory, write files in it, and fail."""
    with suppress(ZeroDivisionError), create_run_dir(out, "name") as run_dir:
        write_run(run_dir, *names)
        raise ZeroDivisionError


UNSAVED = ("config.json", "metrics.jsonl", "last/step-3-0123abcd.safetensors")


def test_a_run_that_fails_before_anything_is_saved_leaves_nothing(tmp_path):
    fail_in_run_dir(tmp_path / "new" / "er" / "run", *UNSAVED)
    assert list_files(tmp_path) == []


def test_a_run_that_fails_before_anything_is_saved_leaves_what_it_did_not_write(tmp_path):
    fail_in_run_dir(tmp_path / "new" / "run", *UNSAVED, "notes.txt", "last/copy/step-1-0123abcd.safetensors")
    assert list_files(tmp_path / "new" / "run") == [
        "last",
        "last/copy",
        "last/copy/step-1-0123abcd.safetensors",
        "notes.txt",
    ]


def test_a_folder_that_existed_stays_when_a_run_in_it_fails(tmp_path):
    (tmp_path / "mine").mkdir()
    fail_in_run_dir(tmp_path / "mine", *UNSAVED)
    assert list_files(tmp_path) == ["mine"]


@pytest.mark.parametrize("name", ["model.safetensors", "last/state.json"])
def test_a_run_that_fails_after_something_was_saved_stays_whole(tmp_path, name):
    fail_in_run_dir(tmp_path / "run", *UNSAVED, name)
    assert list_files(tmp_path / "run") == sorted([*UNSAVED, "last", name])


@pytest.mark.parametrize("names", [("config.json", "result.json"), ("config.json",), ("notes.txt",), ("result.json",)])
def test_what_another_process_wrote_before_the_lock_was_taken_is_refused_and_stays(tmp_path, monkeypatch, names):
    create = run_directory._create_folders

    def be_overtaken(folder):
        created = create(folder)
        write_run(folder, *names)
        return created

    monkeypatch.setattr(run_directory, "_create_folders", be_overtaken)
    with pytest.raises(OptionError, match=r"holds|already exists"):
        fail_in_run_dir(tmp_path / "run")
    assert list_files(tmp_path / "run") == sorted(names)


def test_a_directory_that_was_replaced_before_it_was_locked_is_refused(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    (tmp_path / "run").mkdir()
    lock = fcntl.flock

    def replace_and_lock(*args):
        (tmp_path / "run").rename(tmp_path / "old")
        (tmp_path / "run").mkdir()
        lock(*args)

    monkeypatch.setattr(fcntl, "flock", replace_and_lock)
    with pytest.raises(CheckpointError, match="another process has just removed it"), run_lock(tmp_path / "run"):
        pass


def test_only_files_that_training_names_are_removed_and_links_are_not_followed(tmp_path):
    user_folder, folder = tmp_path / "mine", tmp_path / "last"
    own = ["state.json", "state.json.0123abcd.part/state.json", "step-1-0123abcd.safetensors"]
    own += ["step-12-0123abcd.safetensors.89abcdef.part/step-12-0123abcd.safetensors"]
    others = [
        "state.json.bak",
        "step-1-0123abcd.safetensors.old",
        "best-step-1.safetensors",
        "step-.safetensors",
        "a.part",
    ]
    write_run(user_folder, "step-1-0123abcd.safetensors")
    write_run(folder, *own, *others, "step-5-0123abcd.safetensors/inner")
    os.symlink(user_folder / "step-1-0123abcd.safetensors", folder / "step-7-0123abcd.safetensors")
    remove_own_files(folder, STATE_FILES, keep=[folder / "step-1-0123abcd.safetensors"])
    kept = [
        *others,
        "step-1-0123abcd.safetensors",
        "step-5-0123abcd.safetensors",
        "step-5-0123abcd.safetensors/inner",
        "step-7-0123abcd.safetensors",
    ]
    assert list_files(folder) == sorted(kept)
    os.symlink(user_folder, tmp_path / "link")
    remove_own_files(tmp_path / "link", STATE_FILES)
    assert list_files(user_folder) == ["step-1-0123abcd.safetensors"]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes are forked")
def test_processes_that_race_for_run_directories_never_share_one_and_never_lose_a_finished_run(tmp_path):
    process = subprocess.run([sys.executable, RACE, tmp_path, "0"], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    counts = json.loads(process.stdout)
    assert counts["faults"] == []
    assert counts["numbered"] == counts["names"] == 4 * 50
    assert min(counts[outcome] for outcome in ("finished", "failed", "refused", "killed")) > 0
