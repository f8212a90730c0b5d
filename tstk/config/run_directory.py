"""The readable side of a run directory: whether a path is one, its config.json, files written whole or not at all.

    model.safetensors   the best weights by validation, with the data's scaling
    config.json         resolved options with qualified names, Spec, class names, versions, hardware
    metrics.jsonl       a line per epoch
    result.json         scores, baselines, parameters, seconds, the command; it is there when the run is finished
    last/               what an unfinished run goes on from; see `tstk/training/resume_store.py`

Nothing here imports torch; `tstk/runs/checkpoint.py` has the weights.
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
from tstk.plugins.distribution import CORE
from tstk.plugins.registry import registry, same

FORMAT = 1
WEIGHTS = "model.safetensors"
RESULT = "result.json"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DiskFull(CheckpointError):
    """There is no room to write a file; what was written before is whole."""


def run_folder(run: str | Path) -> Path:
    """Return the directory of a run: a path, or the name of one of the package, such as pretrained/small."""
    path = Path(run)
    if not (path / "config.json").is_file() and str(path) in shipped_runs():
        return Path(__file__).parents[1] / path
    return path


def shipped_runs() -> list[str]:
    """Return the names of the runs that come with the package."""
    here = Path(__file__).parents[1]
    return sorted(path.parent.relative_to(here).as_posix() for path in here.glob("pretrained/*/config.json"))


def is_run(slot: str, use: str) -> bool:
    """Whether a slot was given a run directory rather than a component: a component's name always wins."""
    if any(same(use, name) for name in registry().names(slot)):
        return False
    return (run_folder(use) / "config.json").is_file() or (os.sep in use and Path(use).is_dir())


@contextmanager
def replacing(path: Path, size: int) -> Iterator[Path]:
    """A place to write a whole file or nothing: what is there when all went well is on the disk and takes `path`.

    Args:
        path: of the file
        size: bytes that it will have, for the message

    Raises:
        DiskFull: what was there is still there
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        with room(path, size):
            yield part
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.replace(path)
            if os.name == "posix":  # the new name is on the disk only when the folder is
                settled = os.open(path.parent, os.O_RDONLY)
                os.fsync(settled)
                os.close(settled)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def room(path: Path, size: int) -> Iterator[None]:
    """Inside, a disk that is full is told in one line.

    Raises:
        DiskFull: names the folder, what is needed and what there is
    """
    try:
        yield
    except Exception as e:
        # safetensors has an error of its own, which quotes that of the system
        number = e.errno if isinstance(e, OSError) else int((re.findall(r"os error (\d+)", str(e)) or [0])[-1])
        if number not in _FULL:
            raise
        free = shutil.disk_usage(path.parent).free
        raise DiskFull(
            f"{path.parent} has no room for {path.name} of {size:,} bytes ({os.strerror(number)}; {free:,} bytes are "
            "free); what was saved before is whole. Make room there"
        ) from None


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file or nothing: a reader never sees half of it."""
    with replacing(path, len(data)) as part:
        part.write_bytes(data)


def append(path: Path, line: str) -> None:
    """Add a line to a file, whole or not at all.

    Raises:
        DiskFull: the file is as it was
    """
    size = path.stat().st_size if path.exists() else 0
    with room(path, size + len(line.encode())):
        try:
            with path.open("ab") as file:
                file.write(line.encode())
        except OSError:
            if path.exists():
                os.truncate(path, size)
            raise


def write_text(path: Path, text: str) -> None:
    """Write text, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_config(folder: str | Path) -> dict[str, Any]:
    """config.json of a run.

    Raises:
        CheckpointError: there is none, it is damaged, or it is not ours
    """
    path = run_folder(folder) / "config.json"
    if not path.is_file():
        raise CheckpointError(
            f"{folder} is not a run directory: it has no config.json. The package has: {', '.join(shipped_runs())}"
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as e:
        raise CheckpointError(f"{path} is damaged: {e}; train the run again, or fetch it again") from None
    if not isinstance(found, dict) or not isinstance(found.get("format"), int):
        raise CheckpointError(f"{path} was not written by tstk")
    if found["format"] > FORMAT:
        said = found.get("versions")
        wrote = said.get("tstk", "a later version") if isinstance(said, dict) else "a later version"
        raise CheckpointError(
            f"{folder} was written by tstk {wrote}, in a format this version does not know: "
            f"pip install --upgrade {CORE}"
        )
    tables: Any = found.get("config")
    found.setdefault("hardware", {})
    whole = all(isinstance(found.get(name), dict) for name in ("config", "spec", "versions", "hardware", "data"))
    if not whole or not all(isinstance(t, dict) and isinstance(t.get("use", ""), str) for t in tables.values()):
        raise CheckpointError(f"{path} was not written by tstk, or was changed by hand; train the run again")
    return found


def is_unfinished(folder: Path) -> bool:
    """Whether a run was started here that has no result yet."""
    return (folder / "config.json").is_file() and not (folder / RESULT).is_file()


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Nobody else on this machine trains in a run directory meanwhile; a process that dies lets go of it.

    Raises:
        CheckpointError: somebody does already
    """
    try:
        from fcntl import LOCK_EX, LOCK_NB, flock
    except ImportError:  # Windows
        yield
        return
    place = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system may have no locks
            try:
                flock(place, LOCK_EX | LOCK_NB)
            except BlockingIOError:
                raise CheckpointError(f"{folder}: another process trains this run; wait for it, or stop it") from None
        yield
    finally:
        os.close(place)
