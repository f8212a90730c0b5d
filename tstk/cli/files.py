"""Atomic writing of result files: a file is written completely or not at all."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tstk.config.run_directory import write_bytes
from tstk.errors import OptionError


def validate_output_path(out: str, suffixes: Sequence[str]) -> Path:
    """Return `out` as a path, validated before any work is done.

    Args:
        out: value of --out
        suffixes: accepted file suffixes

    Raises:
        OptionError: wrong suffix, `out` is a folder, or the parent folder does not exist
    """
    path = Path(out)
    if path.suffix.lower() not in suffixes:
        raise OptionError(f"--out {out}: the file name must end in {' or '.join(suffixes)}")
    if path.is_dir():
        raise OptionError(f"--out {out}: is a folder; expected a file")
    if not path.parent.is_dir():
        raise OptionError(f"--out {out}: the folder {path.parent} does not exist; create it first")
    return path


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table with a header line."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write_bytes(path, text.getvalue().encode())


def write_npz(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write named arrays, readable without pickle."""
    import numpy as np

    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_bytes(path, buffer.getvalue())
