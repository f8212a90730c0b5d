"""Run directories: finding, creating and locking them.

    model.safetensors   the best weights by validation, with the mean and deviation of the data
    config.json         resolved options with qualified names, Spec, class names, versions, hardware
    metrics.jsonl       a line per epoch
    result.json         scores, baselines, parameters, seconds, the command; exists once the run is finished
    last/               the training state of an unfinished run; see `tstk/training/resume_store.py`
    data.parquet        the data frame that was given to fit; also train_data, val_data and test_data
    tensorboard/ wandb/ what trackers logged, if --trackers names them

Nothing here imports torch. `tstk/config/records.py` reads and writes config.json and result.json,
`tstk/runs/checkpoint.py` the weights, all through `tstk/files/`.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from shlex import quote

from tstk.config.hub import fetch_hub_run, is_hub_run
from tstk.errors import CheckpointError, OptionError
from tstk.plugins.registry import get_registry, is_same_component

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
RESULT_FILE = "result.json"
METRICS_FILE = "metrics.jsonl"
PUBLIC_FILES = (CONFIG_FILE, WEIGHTS_FILE, RESULT_FILE, METRICS_FILE)
"""Files of a finished run, which are shared on the hub."""
STATE_FOLDER = "last"
STATE_FILE = "state.json"
STATE_FILES = re.compile(r"(state\.json|step-\d+-[0-9a-f]{8}\.safetensors)(\.[0-9a-f]{8}\.part)?")
"""Names of the files in `last/`, and of what an interrupted write of them leaves."""
TRACKER_FOLDERS = ("tensorboard", "wandb")
"""Folders of a run in which trackers write. A failed run leaves them, and a new run may be created beside them."""
_RUN_FILES = re.compile("|".join([*map(re.escape, PUBLIC_FILES), r"(train_|val_|test_)?data\.parquet"]))
_PARTIAL_FILES = re.compile(r"config\.json\.[0-9a-f]{8}\.part|(train_|val_|test_)?data\.parquet(\.[0-9a-f]{8}\.part)?")
"""All that a training leaves that is killed before it has written config.json."""


def resolve_run_dir(run: str | Path) -> Path:
    """Return the directory of a run: a path, a run in the package (pretrained/small), or on the hub (hf://owner/name).

    Raises:
        CheckpointError: a run on the hub is not there, or cannot be reached
    """
    path = Path(run)
    if is_hub_run(run):
        return fetch_hub_run(run, PUBLIC_FILES)
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


def has_saved_state(run_dir: Path) -> bool:
    """Return whether a training has saved weights, or a state that can be resumed."""
    return (run_dir / WEIGHTS_FILE).is_file() or (run_dir / STATE_FOLDER / STATE_FILE).is_file()


@contextmanager
def run_lock(run_dir: Path) -> Iterator[None]:
    """Hold an exclusive lock on a run directory; the system releases it if the process dies.

    What was read before the lock was taken may have changed, so read it again.

    Raises:
        CheckpointError: another process on this machine holds it, or has removed the directory
    """
    try:
        from fcntl import LOCK_EX, LOCK_NB, flock
    except ImportError:  # Windows
        yield
        return
    removed = f"{run_dir} does not exist, or another process has just removed it; try again"
    try:
        directory = os.open(run_dir, os.O_RDONLY)
    except FileNotFoundError:
        raise CheckpointError(removed) from None
    try:
        with suppress(OSError):  # a file system may have no locks
            try:
                flock(directory, LOCK_EX | LOCK_NB)
            except BlockingIOError:
                raise CheckpointError(
                    f"{run_dir}: another process is training this run; wait for it or stop it"
                ) from None
        if not (run_dir.exists() and os.path.samestat(os.fstat(directory), run_dir.stat())):
            raise CheckpointError(removed)
        yield
    finally:
        os.close(directory)


@contextmanager
def create_run_dir(out: str | Path | None, name: str) -> Iterator[Path]:
    """Create a run directory and hold its lock; if the block fails before anything is saved, remove what was written.

    Args:
        out: the directory, which must not exist or be empty; None creates a new one under `runs/`
        name: of the new directory under `runs/`; a number is appended if it is taken

    Raises:
        OptionError: see `check_new_run_dir`
        CheckpointError: another process is training in this directory
    """
    if out is None:
        for run_dir in suggest_run_dirs(name):
            created = _create_folders(run_dir)
            if run_dir in created:  # else another process has just taken this name
                break
    else:
        run_dir = check_new_run_dir(out)
        created = _create_folders(run_dir)
    with run_lock(run_dir):
        check_new_run_dir(run_dir)  # again, since another process may have trained here before this one had the lock
        try:
            yield run_dir
        except BaseException:
            if not has_saved_state(run_dir):
                remove_own_files(run_dir / STATE_FOLDER, STATE_FILES)
                remove_own_files(run_dir, _RUN_FILES)
                with suppress(OSError):  # there are other files, or another run was created in the same folder
                    for folder in (run_dir / STATE_FOLDER, *created):
                        if folder.is_dir():
                            folder.rmdir()
            raise


def suggest_run_dirs(name: str) -> Iterator[Path]:
    """Yield the paths `runs/NAME`, `runs/NAME-2`, ... that do not exist."""
    candidates = (Path("runs", name if i == 1 else f"{name}-{i}") for i in itertools.count(1))
    return (path for path in candidates if not path.exists())


def check_new_run_dir(out: str | Path) -> Path:
    """Return `out` as the path of a new run directory.

    Raises:
        OptionError: it holds a run or other files, or is a file
    """
    run_dir = Path(out)
    if is_hub_run(out):
        raise OptionError(f"{out}: a run is trained into a folder; share it afterwards: tstk push RUN owner/name")
    if is_unfinished(run_dir):
        raise OptionError(
            f"{out} holds an unfinished run; continue with: tstk train --resume {quote(str(out))}, or choose another "
            "--out"
        )
    if (run_dir / CONFIG_FILE).is_file() or (os.path.lexists(run_dir) and not run_dir.is_dir()):
        raise OptionError(f"{out} already exists; choose another --out, or remove it")
    if run_dir.is_dir() and (others := _find_other_files(run_dir)):
        raise OptionError(
            f"{out} already exists and holds {min(others).name}, which is not part of a run; choose another --out, or "
            "move the files elsewhere"
        )
    return run_dir


def check_no_links(run_dir: Path) -> None:
    """Refuse a run in which files that training changes in place, or folders from which it removes files, are links.

    Raises:
        CheckpointError: names the link
    """
    for path in (run_dir / METRICS_FILE, run_dir / STATE_FOLDER):
        if path.is_symlink():
            raise CheckpointError(
                f"{path} is a symbolic link, and what it points to would be changed; put a copy in its place"
            )


def remove_own_files(folder: Path, names: re.Pattern[str], keep: Sequence[Path] = ()) -> None:
    """Remove what training has written to a folder, and nothing else.

    Args:
        folder: of a run
        names: of these files
        keep: files that stay
    """
    for path in _find_files(folder, names):
        if path in keep:
            continue
        if path.is_dir():  # left by a write that was killed
            shutil.rmtree(path)
        else:
            path.unlink()


def remove_saved_state(run_dir: Path) -> None:
    """Remove the training state of a finished run."""
    folder = run_dir / STATE_FOLDER
    if folder.is_dir() and not folder.is_symlink():
        (folder / STATE_FILE).unlink(missing_ok=True)  # first, so that an interrupted removal leaves no state
        remove_own_files(folder, STATE_FILES)
        with suppress(OSError):  # there are files of others
            folder.rmdir()


def _find_files(folder: Path, names: re.Pattern[str]) -> list[Path]:
    """Return the regular files, and folders left by killed writes, that have one of these names; links never count."""
    if folder.is_symlink() or not folder.is_dir():
        return []
    return [
        path
        for path in sorted(folder.iterdir())
        if names.fullmatch(path.name)
        and not path.is_symlink()
        and (path.is_file() or (path.suffix == ".part" and path.is_dir()))
    ]


def _find_other_files(run_dir: Path) -> list[Path]:
    """Return what is in the directory of a run that is not finished and was not written by it."""
    try:
        paths = sorted(run_dir.iterdir())
        own = _find_files(run_dir, _PARTIAL_FILES)
    except FileNotFoundError:  # another process has just removed it
        return []
    own += [path for name in TRACKER_FOLDERS if (path := run_dir / name).is_dir() and not path.is_symlink()]
    return [path for path in paths if path not in own]


def _create_folders(folder: Path) -> list[Path]:
    """Create a folder and its parents, and return those that this process has created, innermost first."""
    created = list[Path]()
    for path in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        try:
            path.mkdir(parents=True)  # a parent may have been removed meanwhile
        except FileExistsError:  # another process was faster
            if not path.is_dir():
                raise
        else:
            created.insert(0, path)
    return created
