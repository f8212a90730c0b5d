"""Copies of data sets that are named by a URI, such as s3://bucket/folder or hf://datasets/org/name.

`tstk data fetch URI` copies the files into the cache, through fsspec; `--data URI` reads the copy. Nothing else makes a
request: not the training on a URI, nor a run that was trained on one, whoever made it.

    TSTK_CACHE (or the user's cache folder)/remote/0123456789abcdef-NAME/...
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from tstk.data.download import ProgressCallback
from tstk.errors import DataError
from tstk.files import atomic_folder, atomic_write, check_new_folder, get_cache_dir

_URI = re.compile(r"([a-z][a-z0-9+.-]*)://.+")
_REFUSED_PROTOCOLS = {"http": "which is not encrypted; use https://", "ftp": "which is not encrypted; use sftp://"}


def is_uri(name: str) -> bool:
    """Return whether the name of a data set is a URI."""
    return _URI.fullmatch(name) is not None


def get_copy_dir(uri: str) -> Path:
    """Return the folder of the copy of a URI; it may not exist."""
    name = re.sub(r"[^\w.-]", "_", uri.rstrip("/").rpartition("/")[2])[:60]
    return get_cache_dir() / "remote" / f"{hashlib.sha256(uri.encode()).hexdigest()[:16]}-{name}"


def locate_copy(uri: str) -> Path:
    """Return the folder of the copy of a URI.

    Raises:
        DataError: it was not fetched
    """
    folder = get_copy_dir(uri)
    if not folder.is_dir():
        raise DataError(
            f"{uri}: there is no copy of it here, and reading data makes no requests; if you trust this address, run "
            f"tstk data fetch '{uri}'"
        )
    return folder


def fetch_uri(uri: str, suffixes: Iterable[str], on_progress: ProgressCallback = lambda done, of: None) -> Path:
    """Copy the data files at a URI into the cache, unless they were copied before; all or none of them.

    Args:
        uri: of a file, of a folder, or a pattern of files; the rest of it is up to fsspec
        suffixes: of the files to copy from a folder
        on_progress: called with the bytes done and the total number of bytes

    Returns:
        folder of the copy

    Raises:
        DataError: a file cannot be read, there is none, or the place is not supported
    """
    folder = get_copy_dir(uri)
    if folder.is_dir():
        return folder
    if os.environ.get("TSTK_OFFLINE", "0") not in ("", "0"):
        raise DataError(f"{uri}: there is no copy of it here, and TSTK_OFFLINE forbids downloads; unset it")
    protocol = uri.partition("://")[0]
    if protocol in _REFUSED_PROTOCOLS:
        raise DataError(f"{uri}: {protocol}, {_REFUSED_PROTOCOLS[protocol]}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    check_new_folder(folder)
    try:
        import fsspec

        filesystem, path = fsspec.core.url_to_fs(uri)
        files = _list_files(filesystem, path, tuple(suffixes))
        sizes = [int(filesystem.size(file) or 0) for file in files]
    except Exception as error:  # every file system has its own
        raise _explain(uri, error) from None
    if not files:
        raise DataError(f"{uri}: no data file there; looked for *{', *'.join(suffixes)}")
    root = PurePosixPath(os.path.commonpath([str(PurePosixPath(file).parent) for file in files]))
    done = 0
    with atomic_folder(folder) as part:
        for file, size in zip(files, sizes, strict=True):
            target = part / _check_name(uri, PurePosixPath(file).relative_to(root))
            target.parent.mkdir(parents=True, exist_ok=True)
            _copy(uri, filesystem, file, target)
            done += size
            on_progress(done, sum(sizes))
    return folder


def _list_files(filesystem: Any, path: str, suffixes: tuple[str, ...]) -> list[str]:
    """Return the data files of a folder at any depth, those that match a pattern, or the one of this name."""
    if any(character in path for character in "*?["):
        return sorted(file for file in filesystem.glob(path) if filesystem.isfile(file))
    if filesystem.isdir(path):
        return sorted(file for file in filesystem.find(path) if PurePosixPath(file).suffix.lower() in suffixes)
    return [path]


def _check_name(uri: str, name: PurePosixPath) -> PurePosixPath:
    if name.is_absolute() or ".." in name.parts:
        raise DataError(f"{uri}: names a file {str(name)!r}, which would be written outside the folder of its copy")
    return name


def _copy(uri: str, filesystem: Any, file: str, target: Path) -> None:
    with atomic_write(target) as copy:
        copy.writelines(_iter_chunks(uri, filesystem, file))


def _iter_chunks(uri: str, filesystem: Any, file: str) -> Iterator[bytes]:
    """Iterate over the bytes of a file.

    Raises:
        DataError: it cannot be opened or read
    """
    try:
        with filesystem.open(file, "rb") as source:
            while chunk := source.read(2**20):
                yield chunk
    except Exception as error:  # of many kinds, by filesystem
        raise _explain(uri, error) from None


def _explain(uri: str, error: Exception) -> DataError:
    text = " ".join(str(error).split()) or type(error).__name__
    remedy = "install that package" if isinstance(error, ImportError) else "check the address and your access to it"
    return DataError(f"{uri}: {text}; {remedy}")
