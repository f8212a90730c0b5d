"""Find folders of recordings: one file each, in a folder per class, or listed in a manifest. Nothing heavy is imported.

A manifest is a file `manifest.csv` or `index.csv` with a column of file names. The reader is `readers/recordings.py`.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from tstk.errors import DataError

MANIFEST_NAMES = ("manifest.csv", "index.csv")
FILE_COLUMNS = ("file", "filename", "file_name", "path", "file_path", "filepath")
"""Names of the column of a manifest that holds the files."""
MAX_DEPTH = 4
"""Levels of folders that are searched: folder/train/walk/person/session/a.csv."""
RECORDING_SUFFIXES = (".csv", ".parquet", ".npy", ".hea", ".edf", ".ts")


def is_manifest(path: Path) -> bool:
    """Return whether a file is a manifest: by its name and the names of its columns."""
    if path.name.lower() not in MANIFEST_NAMES or not path.is_file():
        return False
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        line = file.readline()
    header = next(csv.reader([line], delimiter=find_delimiter(line)), [])
    return any(name.strip().lower() in FILE_COLUMNS for name in header)


def find_delimiter(header: str) -> str:
    """Return the character between the names of columns of a manifest: a comma, semicolon or tab."""
    return max(",;\t", key=header.count)


def find_manifest(folder: Path) -> Path | None:
    """Return the manifest in a folder, or None."""
    return next((path for path in sorted(folder.iterdir()) if is_manifest(path)), None)


def list_by_class(folder: Path) -> dict[str, list[Path]]:
    """Return class -> its recordings, below the folder of the class, by name."""
    files: dict[str, list[Path]] = {}
    for path in list_recordings(folder):
        if len(parts := path.relative_to(folder).parts) > 1:
            files.setdefault(parts[0], []).append(path)
    return files


def list_recordings(folder: Path) -> list[Path]:
    """Return the recordings in a folder and at most `MAX_DEPTH` levels below it, by name.

    Raises:
        DataError: a link leads out of the folder
    """
    return [path for path in _iter_visible(folder, folder.resolve()) if path.suffix.lower() in RECORDING_SUFFIXES]


def list_other_suffixes(folder: Path) -> list[str]:
    """Return the suffixes of the files in and below a folder that are no recordings."""
    files = _iter_visible(folder, folder.resolve())
    return sorted({path.suffix.lower() or path.name for path in files} - set(RECORDING_SUFFIXES))


def _iter_visible(folder: Path, root: Path, depth: int = MAX_DEPTH) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_symlink() and path.exists() and not path.resolve().is_relative_to(root):
            raise DataError(f"{path}: a link that leads out of {root}; copy the data there, or remove the link")
        if path.is_dir() and not path.is_symlink() and depth:
            yield from _iter_visible(path, root, depth - 1)
        elif path.is_file():
            yield path
