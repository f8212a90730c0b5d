"""Find folders of recordings: one file each, in a folder per class, or listed in a manifest. Nothing heavy is imported.

A manifest is a file `manifest.csv` or `index.csv` with a column of file names. The reader is `readers/recordings.py`.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

MANIFEST_NAMES = ("manifest.csv", "index.csv")
FILE_COLUMNS = ("file", "filename", "file_name", "path", "file_path", "filepath")
"""Names of the column of a manifest that holds the files."""
RECORDING_SUFFIXES = (".csv", ".parquet", ".npy", ".hea", ".edf", ".ts")


def is_manifest(path: Path) -> bool:
    """Return whether a file is a manifest: by its name and the names of its columns."""
    if path.name.lower() not in MANIFEST_NAMES or not path.is_file():
        return False
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        header = next(csv.reader(file), [])
    return any(name.strip().lower() in FILE_COLUMNS for name in header)


def find_manifest(folder: Path) -> Path | None:
    """Return the manifest in a folder, or None."""
    return next((path for path in sorted(folder.iterdir()) if is_manifest(path)), None)


def list_by_class(folder: Path) -> dict[str, list[Path]]:
    """Return class -> its recordings, at any depth below the folder of the class, by name."""
    folders = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    files = {path.name: list_recordings(path) for path in folders}
    return {name: paths for name, paths in files.items() if paths}


def list_recordings(folder: Path) -> list[Path]:
    """Return the recordings below a folder, by name."""
    return [path for path in _iter_visible(folder) if path.suffix.lower() in RECORDING_SUFFIXES]


def list_other_suffixes(folder: Path) -> list[str]:
    """Return the suffixes of the files below a folder that are no recordings."""
    others = {path.suffix.lower() or path.name for path in _iter_visible(folder)} - set(RECORDING_SUFFIXES)
    return sorted(others)


def _iter_visible(folder: Path) -> Iterable[Path]:
    for path in sorted(folder.rglob("*")):
        is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not is_hidden:
            yield path
