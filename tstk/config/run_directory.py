"""Run directories: finding and locking them.

    model.safetensors   the best weights by validation, with the mean and deviation of the data
    config.json         resolved options with qualified names, Spec, class names, versions, hardware
    metrics.jsonl       a line per epoch
    result.json         scores, baselines, parameters, seconds, the command; exists once the run is finished
    last/               the training state of an unfinished run; see `tstk/training/resume_store.py`

Nothing here imports torch. `tstk/config/records.py` reads and writes config.json and result.json,
`tstk/runs/checkpoint.py` the weights, all through `tstk/files.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tstk.errors import CheckpointError
from tstk.plugins.registry import get_registry, is_same_component

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
RESULT_FILE = "result.json"


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
