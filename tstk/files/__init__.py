"""Writing files: each appears under its name complete or not at all; what the system refuses is told in one line.

Content is written in a new folder beside the target, which only this user can enter, and flushed to disk; then the file
takes the name of the target. Links are never written through: one at the target is itself replaced, or refused like any
existing file. A killed process leaves at most a folder `NAME.XXXXXXXX.part`, which nothing reads and no write reuses.

Nothing here imports torch.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from tstk.errors import FileError

DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REMEDIES = {
    errno.EACCES: "change the permissions of the file or of its folder",
    errno.EPERM: "change the permissions of the file or of its folder",
    errno.EROFS: "choose a place on another file system",
    errno.ENOENT: "create its folder first",
    errno.ENOTDIR: "a part of the path is a file; choose another place",
    errno.EISDIR: "it is a folder; name a file",
    errno.EEXIST: "choose another name, or replace it with --force",
    errno.ENOTEMPTY: "choose another name, or remove the folder",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "it is a symbolic link, and links are not followed; remove it",
}


def explain_os_error(path: Path, error: OSError, action: str = "") -> FileError:
    """Return the error to raise for a refusal of the system: it names the file, the reason and the remedy.

    Args:
        path: of the file
        error: from the system
        action: what failed, such as "written" or "read", if that is known
    """
    remedy = _REMEDIES.get(error.errno or 0, "check the disk")
    if error.errno == errno.ENOENT and action != "written":
        remedy = "check its name"
    return FileError(f"{path}: {action and f'not {action}: '}{error.strerror or error}; {remedy}")


def check_readable(path: Path) -> None:
    """Check that a file can be opened, before a library reads it that tells missing permissions like damage.

    Raises:
        FileError: it cannot
    """
    try:
        path.open("rb").close()
    except OSError as e:
        raise explain_os_error(path, e, "read") from None


@contextmanager
def explain_write_errors(path: Path, size: int | None = None) -> Iterator[None]:
    """Turn what the system refuses while a file is written into one line.

    Args:
        path: of the file
        size: its size in bytes, for the message about a full disk

    Raises:
        FileError: the disk is full or read-only, permissions forbid it, or the path cannot be a file
    """
    try:
        yield
    except Exception as e:
        named = Path(os.fsdecode(e.filename)) if isinstance(e, OSError) and e.filename is not None else path
        if path.parent not in named.parents and named not in path.parents:
            raise  # about another file, which was read
        # safetensors raises its own error, whose text quotes the system's
        number = e.errno if isinstance(e, OSError) else int((re.findall(r"os error (\d+)", str(e)) or [0])[-1])
        if number not in DISK_FULL_ERRNOS:
            if not number:
                raise
            raise explain_os_error(path, OSError(number, os.strerror(number)), "written") from None
        free = shutil.disk_usage(path.parent).free
        needed = "" if size is None else f" of {size:,} bytes"
        raise FileError(
            f"{path.parent} has no room for {path.name}{needed} ({os.strerror(number)}; {free:,} bytes are free); "
            "files saved before are intact. Free some space there"
        ) from None


def check_new_file(path: Path, force: bool = False) -> None:
    """Check that a file can be written, before the work that makes its content.

    Args:
        path: of the file
        force: whether an existing file may be replaced

    Raises:
        FileError: it exists and `force` is not set, it is a folder or a device, or its folder is missing or read-only
    """
    if path.is_dir():
        raise FileError(f"{path}: is a folder; expected a file")
    if os.path.lexists(path):
        if not (path.is_file() or path.is_symlink()):
            raise FileError(f"{path}: is a device or a pipe; expected a file")
        if not force:
            raise FileError(f"{path}: already exists; replace it with --force, or choose another name")
    _check_parent(path)


def check_new_folder(path: Path) -> None:
    """Check that a folder can be created, before the work that makes its content.

    Raises:
        FileError: it exists and is not empty, or its folder is missing or read-only
    """
    if os.path.lexists(path) and not (path.is_dir() and not path.is_symlink() and not any(path.iterdir())):
        raise FileError(f"{path}: already exists; choose another name, or remove it (folders are never replaced)")
    if path.resolve() == Path.cwd():
        raise FileError(f"{path}: is the current folder; name a new one")
    _check_parent(path)


def _check_parent(path: Path) -> None:
    if not path.parent.is_dir():
        raise FileError(f"{path}: the folder {path.parent} does not exist; create it first")
    with explain_write_errors(path):
        _make_part_folder(path, 0o700).rmdir()  # the system tells why it cannot be written; `os.access` does not


@contextmanager
def atomic_write(path: Path, size: int | None = None, *, replace: bool = True, mode: int = 0o666) -> Iterator[BinaryIO]:
    """Yield a new file; on success, flush it to disk and rename it to `path`.

    Its `name` is its path, for libraries that open files themselves.

    Args:
        path: of the file
        size: its size in bytes, for the message about a full disk
        replace: whether an existing file may be replaced
        mode: its permissions, less those that the umask takes

    Raises:
        FileError: the file cannot be written, or exists and `replace` is False; what was there is unchanged
    """
    with explain_write_errors(path, size):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = _make_part_folder(path, 0o700)
        try:
            inner = part / path.name
            with inner.open("x+b") as file:
                mode &= os.fstat(file.fileno()).st_mode
                yield file
            inner.chmod(mode)  # safetensors replaces the file by one that only its owner can read
            _fsync(inner)
            if replace:
                inner.replace(path)
            else:
                _rename_exclusively(inner, path)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        _fsync(path.parent)


@contextmanager
def atomic_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a new folder beside `path`; on success, flush its files to disk and rename it to `path`.

    Args:
        path: of the folder
        replace: whether a folder that is not empty may be replaced, with all that is in it

    Raises:
        FileError: a file cannot be written, or `path` exists and may not be replaced; what was there is unchanged
    """
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = _make_part_folder(path, 0o777)
        try:
            yield part
            for inner in part.rglob("*"):
                _fsync(inner)
            if replace and path.is_dir() and not path.is_symlink():
                _exchange_folder(part, path)
            else:
                part.rename(path)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        _fsync(path.parent)


def write_bytes(path: Path, data: bytes, *, replace: bool = True) -> None:
    """Write a file atomically, see `atomic_write`."""
    with atomic_write(path, len(data), replace=replace) as file:
        file.write(data)


def write_text(path: Path, text: str, *, replace: bool = True) -> None:
    """Write text atomically, see `atomic_write`."""
    write_bytes(path, text.encode(), replace=replace)


def format_csv(rows: Iterable[Sequence[Any]]) -> str:
    """Return rows, the header included, as the text of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, see `atomic_write`."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def append_line(path: Path, line: str) -> None:
    """Append a line to a file, completely or not at all.

    Raises:
        FileError: the file is unchanged
    """
    size = path.stat().st_size if path.exists() else 0
    with explain_write_errors(path, size + len(line.encode())):
        try:
            with open(path, "ab", opener=_open_without_following_links) as file:
                file.write(line.encode())
        except OSError:
            with suppress(OSError, FileError):
                truncate_file(path, size)
            raise


def truncate_file(path: Path, size: int) -> None:
    """Cut a file to its first `size` bytes."""
    with explain_write_errors(path), open(path, "r+b", opener=_open_without_following_links) as file:
        file.truncate(size)


def remove_leftovers(folder: Path, *names: str) -> None:
    """Remove what killed processes left of writes to files of `folder`; no other process may write them now.

    Args:
        folder: in which they were written
        names: of the files, or patterns
    """
    for name in names:
        for part in folder.glob(f"{name}.{'[0-9a-f]' * 8}.part"):
            shutil.rmtree(part)


def is_leftover(path: Path, name: str) -> bool:
    """Return whether a path is a folder that a killed process left of writing a file called `name`."""
    return bool(re.fullmatch(rf"{re.escape(name)}\.[0-9a-f]{{8}}\.part", path.name)) and path.is_dir()


def _make_part_folder(path: Path, mode: int) -> Path:
    """Create a folder beside `path` with a name that nothing has, a link included."""
    part = path.with_name(f"{path.name[:50]}.{secrets.token_hex(4)}.part")  # a name has at most 255 bytes
    part.mkdir(mode)
    return part


def _rename_exclusively(file: Path, path: Path) -> None:
    """Rename a file, unless something has the new name."""
    try:
        os.link(file, path)  # unlike a rename, fails if the name exists
    except FileExistsError:
        raise
    except OSError:  # the file system has no hard links
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        file.rename(path)


def _exchange_folder(part: Path, path: Path) -> None:
    """Rename a folder to `path`, and remove the folder that was there."""
    old = _make_part_folder(path, 0o700)
    try:
        path.rename(old / path.name)
        try:
            part.rename(path)
        except OSError:
            (old / path.name).rename(path)
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _open_without_following_links(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _fsync(path: Path) -> None:
    if os.name == "posix" or path.is_file():  # Windows cannot flush folders
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def get_cache_dir() -> Path:
    """Return the folder of downloads and compiled kernels: TSTK_CACHE, or tstk in the user's cache folder."""
    folder = os.environ.get("TSTK_CACHE")
    if folder:
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tstk"
