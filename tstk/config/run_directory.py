"""Run directories: finding them, and writing files atomically.

    model.safetensors   the best weights by validation, with the mean and deviation of the data
    config.json         resolved options with qualified names, Spec, class names, versions, hardware
    metrics.jsonl       a line per epoch
    result.json         scores, baselines, parameters, seconds, the command; exists once the run is finished
    last/               the training state of an unfinished run; see `tstk/training/resume_store.py`

Nothing here imports torch. `tstk/config/records.py` reads and writes config.json and result.json,
`tstk/runs/checkpoint.py` the weights.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tstk.errors import CheckpointError
from tstk.plugins.registry import get_registry, is_same_component

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
RESULT_FILE = "result.json"
METRICS_FILE = "metrics.jsonl"
_DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DiskFullError(CheckpointError):
    """The disk is full; files that were written before are intact."""


def resolve_run_dir(run: str | Path) -> Path:
    """Return the directory of a run: a path, or the name of a run in the package, such as pretrained/small."""
    path = Path(run)
    if not (path / CONFIG_FILE).is_file() and str(path) in list_shipped_runs():
        return Path(__file__).parents[1] / path
    return path


def list_shipped_runs() -> list[str]:
    """Return the names of the runs that come with the package."""
    package = Path(__file__).parents[1]
    return sorted(path.parent.relative_to(package).as_posix() for path in package.glob(f"pretrained/*/{CONFIG_FILE}"))


def is_run_dir(slot: str, name_or_path: str) -> bool:
    """Return whether the value of a slot is a run directory; the name of a component takes precedence."""
    if any(is_same_component(name_or_path, name) for name in get_registry().list_names(slot)):
        return False
    return (resolve_run_dir(name_or_path) / CONFIG_FILE).is_file() or (
        os.sep in name_or_path and Path(name_or_path).is_dir()
    )


@contextmanager
def atomic_write(path: Path, size: int) -> Iterator[Path]:
    """Yield a temporary path; on success, flush the file written there to disk and rename it to `path`.

    Args:
        path: of the file
        size: its size in bytes, for the message

    Raises:
        DiskFullError: the old file is unchanged
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        with disk_full_guard(path, size):
            yield part
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.replace(path)
            if os.name == "posix":  # the rename is durable only once the directory is flushed
                directory = os.open(path.parent, os.O_RDONLY)
                os.fsync(directory)
                os.close(directory)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def disk_full_guard(path: Path, size: int) -> Iterator[None]:
    """Turn errors of a full disk into one line.

    Args:
        path: of the file that is written
        size: its size in bytes, for the message

    Raises:
        DiskFullError: names the folder, the bytes needed and the bytes free
    """
    try:
        yield
    except Exception as e:
        # safetensors raises its own error, whose text quotes the system's
        number = e.errno if isinstance(e, OSError) else int((re.findall(r"os error (\d+)", str(e)) or [0])[-1])
        if number not in _DISK_FULL_ERRNOS:
            raise
        free = shutil.disk_usage(path.parent).free
        raise DiskFullError(
            f"{path.parent} has no room for {path.name} of {size:,} bytes ({os.strerror(number)}; {free:,} bytes are "
            "free); files saved before are intact. Free some space there"
        ) from None


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically."""
    with atomic_write(path, len(data)) as part:
        part.write_bytes(data)


def append_line(path: Path, line: str) -> None:
    """Append a line to a file, completely or not at all.

    Raises:
        DiskFullError: the file is unchanged
    """
    size = path.stat().st_size if path.exists() else 0
    with disk_full_guard(path, size + len(line.encode())):
        try:
            with path.open("ab") as file:
                file.write(line.encode())
        except OSError:
            if path.exists():
                os.truncate(path, size)
            raise


def write_text(path: Path, text: str) -> None:
    """Write text atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def is_unfinished(run_dir: Path) -> bool:
    """Return whether a run was started in this directory and has no result yet."""
    return (run_dir / CONFIG_FILE).is_file() and not (run_dir / RESULT_FILE).is_file()


@contextmanager
def run_lock(run_dir: Path) -> Iterator[None]:
    """Hold an exclusive lock on a run directory; the system releases it if the process dies.

    Raises:
        CheckpointError: another process on this machine holds it
    """
    try:
        from fcntl import LOCK_EX, LOCK_NB, flock
    except ImportError:  # Windows
        yield
        return
    directory = os.open(run_dir, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system may have no locks
            try:
                flock(directory, LOCK_EX | LOCK_NB)
            except BlockingIOError:
                raise CheckpointError(
                    f"{run_dir}: another process is training this run; wait for it or stop it"
                ) from None
        yield
    finally:
        os.close(directory)
