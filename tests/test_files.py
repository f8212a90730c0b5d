"""Files are written whole or not at all, links are not followed, and refusals of the system are one line."""

import ast
import errno
import json
import os
import re
import resource
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

import tstk
from tstk import files
from tstk.config.records import RunConfig
from tstk.data import load_data
from tstk.errors import FileError, TstkError
from tstk.files import (
    append_line,
    atomic_folder,
    atomic_write,
    check_new_file,
    check_new_folder,
    lock,
    remove_leftovers,
    truncate_file,
    write_bytes,
)
from tstk.files.lock import file_lock
from tstk.nn.pretrained import load_bert_weights, read_bert_config
from tstk.runs.checkpoint import read_tensors, write_tensors
from tstk.training.resume_store import ResumeStore

ROOT = Path(__file__).parents[1]
DATA_SUFFIXES = (".npz", ".csv", ".ts", ".parquet", ".pt", ".npy", ".edf", ".hea")


@pytest.fixture
def set_umask():
    before = os.umask(0)
    yield os.umask
    os.umask(before)


@pytest.fixture
def restricted():
    """A folder in which permissions bind this process, also if the tests run as root."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        if os.geteuid():
            yield Path(folder)
        else:
            os.seteuid(65534)
            try:
                yield Path(folder)
            finally:
                os.seteuid(0)


@pytest.fixture
def readers_imported(tmp_path):
    """What reading a file imports when it is first done; another user may not be able to read Python's own modules."""
    for suffix in DATA_SUFFIXES:
        (path := tmp_path / f"x{suffix}").touch()
        with suppress(TstkError):
            load_data(str(path))


def refuse(function, *args, **kwargs):
    with pytest.raises(FileError) as caught:
        function(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    assert ";" in message, "a remedy follows the reason"
    return message


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


# ------------------------------------------------------------------ whole or not at all


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_concurrent_and_killed_writers_lose_and_mix_nothing(tmp_path, seed):
    script = ROOT / "tests" / "support" / "write_concurrently.py"
    done = subprocess.run([sys.executable, script, tmp_path, str(seed)], capture_output=True, text=True, check=True)
    counts = json.loads(done.stdout)
    assert (counts["written"], counts["failed"], counts["mixed"]) == (360, 0, 0), counts
    assert counts["kills"] >= 10
    assert counts["reads"] > 100
    assert counts["leftovers"] <= counts["kills"]
    assert counts["final"] == "whole"
    assert counts["after removal"] == ["target.bin"]


@pytest.mark.slow
def test_of_many_that_create_a_file_at_once_one_succeeds(tmp_path):
    path, ready = tmp_path / "out.csv", tmp_path / "ready"
    code = (
        "import sys, time; from pathlib import Path; from tstk.files import write_text\n"
        "while not Path(sys.argv[2]).exists(): time.sleep(0.001)\n"
        "write_text(Path(sys.argv[1]), sys.argv[3] * 100_000, replace=False)"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, path, ready, str(i)], stderr=subprocess.PIPE, text=True)
        for i in range(6)
    ]
    ready.touch()
    errors = [process.communicate()[1] for process in processes]
    winner = [i for i, error in enumerate(errors) if not error]
    assert len(winner) == 1
    assert all("File exists; choose another name, or replace it with --force" in e for e in errors if e)
    assert path.read_text() == str(winner[0]) * 100_000
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.csv", "ready"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "a.json").write_text("old")
    with pytest.raises(TypeError):
        files.write_json(tmp_path / "a.json", {"new": object()})
    with suppress(KeyboardInterrupt), atomic_write(tmp_path / "a.json") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    with suppress(KeyboardInterrupt), atomic_folder(tmp_path / "folder") as folder:
        (folder / "half").touch()
        raise KeyboardInterrupt
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.json", "old")]


def test_a_resumed_run_removes_what_a_killed_process_left_and_nothing_else(tmp_path):
    names = [
        "model.safetensors.0123abcd.part",
        "report.html.0123abcd.part",
        "last/step-1-89abcdef.safetensors.0123abcd.part",
    ]
    for name in names:
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / ".tmpAb12Cd").touch()  # of safetensors
    assert ResumeStore(tmp_path).read() is None
    assert [(tmp_path / name).exists() for name in names] == [False, True, False]


def test_leftovers_of_other_files_are_not_removed(tmp_path):
    kept = ["a.bin", "a.bin.part", "b.bin.0123abcd.part", "a.bin.0123abcd.part.txt", "a.bin.0123abcg.part"]
    for name in [*kept, "a.bin.0123abcd.part"]:
        (tmp_path / name).mkdir()
    remove_leftovers(tmp_path, "a.bin")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


# ------------------------------------------------------------------ links, existing files, modes


def test_planted_links_are_never_written_through(tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "out.csv.part").symlink_to(victim)
    (tmp_path / "out.csv").symlink_to(victim)
    assert "already exists" in refuse(check_new_file, tmp_path / "out.csv")
    assert "File exists" in refuse(write_bytes, tmp_path / "out.csv", b"new", replace=False)
    write_bytes(tmp_path / "out.csv", b"new")
    assert not (tmp_path / "out.csv").is_symlink()
    assert (tmp_path / "out.csv").read_text() == "new"
    (tmp_path / "metrics.jsonl").symlink_to(victim)
    assert "links are not followed" in refuse(append_line, tmp_path / "metrics.jsonl", "{}\n")
    assert "links are not followed" in refuse(truncate_file, tmp_path / "metrics.jsonl", 0)
    monkeypatch.setattr("secrets.token_hex", lambda _: "01234567")
    (tmp_path / "out.csv.01234567.part").symlink_to(victim)
    refuse(write_bytes, tmp_path / "out.csv", b"newer")
    refuse(write_tensors, tmp_path / "out.csv", {"a": torch.zeros(2)})
    assert (tmp_path / "out.csv.01234567.part").is_symlink()
    assert victim.read_text() == "precious"


def test_an_existing_file_is_replaced_only_if_that_is_asked_for(tmp_path, monkeypatch):
    path = tmp_path / "out.csv"
    path.write_text("mine")
    assert "replace it with --force, or choose another name" in refuse(check_new_file, path)
    refuse(write_bytes, path, b"new", replace=False)

    def refuse_links(*_):
        raise OSError(errno.EOPNOTSUPP, "a file system without hard links")

    monkeypatch.setattr("os.link", refuse_links)
    refuse(write_bytes, path, b"new", replace=False)
    assert path.read_text() == "mine"
    write_bytes(tmp_path / "other.csv", b"new", replace=False)
    check_new_file(path, force=True)
    write_bytes(path, b"new")
    assert path.read_text() == (tmp_path / "other.csv").read_text() == "new"


def test_a_folder_is_created_or_an_empty_one_filled_but_none_is_replaced(tmp_path, monkeypatch):
    for folder in (tmp_path / "new", tmp_path / "empty", tmp_path / "full"):
        if folder.name != "new":
            folder.mkdir()
        if folder.name == "full":
            (folder / "mine").touch()
            assert "already exists" in refuse(check_new_folder, folder)
            with pytest.raises(FileError, match="not empty"), atomic_folder(folder) as part:
                (part / "a").touch()
            assert [path.name for path in folder.iterdir()] == ["mine"]
        else:
            check_new_folder(folder)
            with atomic_folder(folder) as part:
                (part / "a").touch()
            assert [path.name for path in folder.iterdir()] == ["a"]
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    assert "already exists" in refuse(check_new_folder, tmp_path / "link")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert "is the current folder" in refuse(check_new_folder, Path("."))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "full", "here", "link", "new"]


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_modes_follow_the_umask(tmp_path, set_umask, mask):
    set_umask(mask)
    write_bytes(tmp_path / "bytes", b"")
    write_tensors(tmp_path / "weights", {"a": torch.zeros(3)})
    append_line(tmp_path / "lines", "{}\n")
    with atomic_folder(tmp_path / "folder") as folder:
        write_bytes(folder / "inner", b"")
    assert {mode(path) for path in tmp_path.rglob("*") if path.is_file()} == {0o666 & ~mask}
    assert mode(tmp_path / "folder") == 0o777 & ~mask


def test_the_longest_names_can_be_written(tmp_path):
    for name in ("x" * 251 + ".csv", "ü" * 125 + ".csv"):
        write_bytes(tmp_path / name, b"1")
        assert (tmp_path / name).read_bytes() == b"1"
    assert "choose a shorter name" in refuse(write_bytes, tmp_path / ("x" * 256), b"1")


# ------------------------------------------------------------------ what the system refuses


def test_missing_permissions_are_not_told_as_damage(readers_imported, restricted):
    locked = restricted / "locked"
    locked.mkdir()
    for name in ("model.safetensors", "config.json", *(f"x{suffix}" for suffix in DATA_SUFFIXES)):
        (locked / name).touch()
        (locked / name).chmod(0o000)
    for function, args in (
        (read_tensors, (locked / "model.safetensors", "train again")),
        (RunConfig.read, (locked,)),
        (read_bert_config, (str(locked),)),
        (load_bert_weights, (str(locked),)),
        *((load_data, (str(locked / f"x{suffix}"),)) for suffix in DATA_SUFFIXES),
    ):
        assert "Permission denied; change the permissions" in refuse(function, *args)
    locked.chmod(0o555)
    for function, args in (
        (check_new_file, (locked / "a.csv",)),
        (check_new_folder, (locked / "a",)),
        (write_bytes, (locked / "a.csv", b"1")),
        (append_line, (locked / "a.csv", "1")),
        (write_tensors, (locked / "a.csv", {"a": torch.zeros(3)})),
    ):
        assert refuse(function, *args).startswith(f"{args[0]}: not written: Permission denied; change the permissions")
    locked.chmod(0o755)
    assert len(list(locked.iterdir())) == 10


def test_a_full_disk_is_reported_in_bytes_and_loses_nothing(tmp_path):
    before = dict.fromkeys(("bytes", "weights", "lines"), b"x" * 500)
    for name, content in before.items():
        (tmp_path / name).write_bytes(content)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        messages = [
            refuse(write_bytes, tmp_path / "bytes", b"1" * 2000),
            refuse(write_tensors, tmp_path / "weights", {"a": torch.zeros(500)}),
            refuse(append_line, tmp_path / "lines", "1" * 1500),
        ]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    for name, message in zip(before, messages, strict=True):
        assert f"{tmp_path} has no room for {name} of 2,000 bytes" in message
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_places_that_cannot_be_files_are_named_before_any_work(tmp_path):
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    assert "is a folder; expected a file" in refuse(check_new_file, tmp_path, force=True)
    assert "pipe; expected a file" in refuse(check_new_file, tmp_path / "pipe", force=True)
    assert "no does not exist; create it first" in refuse(check_new_file, tmp_path / "no" / "a.csv")
    assert "no does not exist; create it first" in refuse(check_new_folder, tmp_path / "no" / "a")
    assert "file does not exist" in refuse(check_new_file, tmp_path / "file" / "a.csv")
    assert "choose another" in refuse(write_bytes, tmp_path / "file" / "a.csv", b"")
    assert "it is a folder; name a file" in refuse(append_line, tmp_path, "1")


@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ESTALE])
def test_any_refusal_of_the_system_is_one_line(tmp_path, monkeypatch, number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files, "_fsync", fail)
    message = refuse(write_bytes, tmp_path / "a.csv", b"1")
    assert os.strerror(number) in message
    assert "a.csv" in message
    assert not list(tmp_path.iterdir())


def test_errors_about_other_files_are_not_told_as_those_of_the_output(tmp_path):
    with pytest.raises(FileNotFoundError, match="input"), atomic_write(tmp_path / "out" / "a.csv"):
        (tmp_path / "input").read_bytes()


# ------------------------------------------------------------------ locks


def test_those_who_hold_a_lock_hold_it_alone_and_leave_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "POLL_SECONDS", 0.0005)
    (tmp_path / "count").write_text("0")

    def count():
        for _ in range(20):
            with file_lock(tmp_path / "a.lock"):
                before = int((tmp_path / "count").read_text())
                time.sleep(0)
                (tmp_path / "count").write_text(str(before + 1))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "count").read_text() == "80"
    assert [path.name for path in tmp_path.iterdir()] == ["count"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes are forked")
def test_a_lock_whose_holder_was_killed_is_free(tmp_path):
    hears, tells = os.pipe()
    child = os.fork()
    if not child:
        with file_lock(tmp_path / "a.lock"):
            os.write(tells, b".")
            time.sleep(600)
    os.read(hears, 1)
    waited = []

    def kill_holder():
        if not waited:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        waited.append(1)

    with file_lock(tmp_path / "a.lock", kill_holder):
        assert waited == [1]
    assert list(tmp_path.iterdir()) == []


def test_a_link_in_place_of_a_lock_is_not_followed(tmp_path):
    (tmp_path / "a.lock").symlink_to(tmp_path / "other")
    with pytest.raises(FileError, match="a symbolic link"), file_lock(tmp_path / "a.lock"):
        pass
    assert not (tmp_path / "other").exists()


# ------------------------------------------------------------------ every writer


WRITERS_OF_THEIR_OWN = {
    "data/convert.py": "members of an atomic folder",
    "data/download.py": "resumable downloads",
    "testing/entries.py": "input of a check, in a temporary folder",
}


def test_every_module_writes_through_the_file_layer():
    packages = [Path(tstk.__file__).parent, *ROOT.glob("plugins/*/tstk_plugins_*")]
    direct = set()
    for package in packages:
        for path in package.rglob("*.py"):
            name = path.relative_to(package).as_posix()
            if name == "files/__init__.py" or "templates" in path.parts:
                continue
            source = path.read_text(encoding="utf-8")
            if not re.search(r"\b(write_text|write_bytes|to_csv|tofile|open)\(", source):
                continue
            for call in (n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Call)):
                is_method = isinstance(call.func, ast.Attribute)
                called = call.func.attr if is_method else getattr(call.func, "id", "")
                modes = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
                if (is_method and called in ("write_text", "write_bytes", "to_csv", "tofile")) or (
                    called == "open" and any(set(m) <= set("wxabt+") and set(m) & set("wxa") for m in modes)
                ):
                    direct.add(name)
    assert direct == set(WRITERS_OF_THEIR_OWN)
