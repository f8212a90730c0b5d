"""Result files, written whole or not at all."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tstk.config.run_directory import write_bytes
from tstk.errors import OptionError


def target(out: str, suffixes: Sequence[str]) -> Path:
    """The file to write, checked before any work is done.

    Args:
        out: as typed
        suffixes: what it may end in

    Raises:
        OptionError: another suffix, a folder, or no folder to put it in
    """
    path = Path(out)
    if path.suffix.lower() not in suffixes:
        raise OptionError(f"--out {out}: the file must end in {' or '.join(suffixes)}")
    if path.is_dir():
        raise OptionError(f"--out {out}: this is a folder; name a file")
    if not path.parent.is_dir():
        raise OptionError(f"--out {out}: there is no folder {path.parent}; make it first")
    return path


def write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table with a header line."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    write_bytes(path, text.getvalue().encode())


def write_npz(path: Path, arrays: Mapping[str, Any]) -> None:
    """Arrays by name, readable without pickle."""
    import numpy as np

    data = io.BytesIO()
    np.savez(data, **arrays)
    write_bytes(path, data.getvalue())
