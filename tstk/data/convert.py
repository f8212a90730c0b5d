"""Data of any format that is read, written as NumPy arrays: an `.npz` archive, or a folder of `.npy` files."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from tstk.data.catalog import PARTS
from tstk.data.containers import Raw, Table
from tstk.data.lazy_array import chunks
from tstk.data.load import read_parts
from tstk.data.windowing import cut
from tstk.errors import DataError, OptionError

Said = Callable[[int, int], None]


def convert(
    use: str,
    out: str,
    *,
    data_root: str | None = None,
    label: str | None = None,
    length: int | None = None,
    stride: int | None = None,
    say: Said = lambda done, total: None,
) -> dict[str, tuple[int, ...]]:
    """Write the parts of a data set as float32 arrays X_train, y_train, ... that `load` reads again.

    Nothing is scaled or left out, and only a table is split, which is in time.

    Args:
        use: a name, file or folder, as for `load`
        out: a file that ends in .npz, or a folder to make
        data_root: folder with data sets to be found by name
        label: column or array that holds the labels, if it has an unusual name
        length: cut a table into series of so many rows
        stride: rows from one series of a table to the next; `length` if not given
        say: is told how many series of how many are written

    Returns:
        the shape of X for each part

    Raises:
        NameUnknown: no data set has this name
        DataError: the data cannot be read or are a table that is not cut, or `out` is there already
        OptionError: `out` is neither an archive nor a folder, or an option cannot work with these data
    """
    path = Path(out).expanduser()
    if path.suffix not in (".npz", ""):
        raise OptionError(f"{out}: expected a file that ends in .npz, or a folder (a name without a dot)")
    if path.exists():
        raise DataError(f"{out}: is there already; remove it, or write to another name")
    if not path.parent.is_dir():
        raise DataError(f"{path.parent}: there is no such folder; make it first")
    raws = _series(use, read_parts(use, data_root, label), length, stride)
    try:
        with TemporaryDirectory(dir=path.parent, prefix=".") as work:  # what is not finished never has the name
            _write(raws, Path(work) / path.name, say)
            (Path(work) / path.name).rename(path)
    except OSError as error:
        raise DataError(f"{out}: not written: {error.strerror or error}; make room, or write elsewhere") from error
    return {part: tuple(raw.x.shape) for part, raw in raws.items()}


def _series(use: str, parts: dict[str, Raw | Table], length: int | None, stride: int | None) -> dict[str, Raw]:
    tables = {part: one for part, one in parts.items() if isinstance(one, Table)}
    if tables:
        if length is None:
            raise DataError(f"{use}: a table, which has no series; give --length to cut it into some, or keep the file")
        return cut(tables, length, stride, 0.2)
    for option, value in (("length", length), ("stride", stride)):
        if value is not None:
            raise OptionError(f"--{option} {value} has no meaning here: {use} is a set of series")
    return {part: one for part in PARTS if isinstance(one := parts.get(part), Raw)}


def _write(raws: dict[str, Raw], path: Path, say: Said) -> None:
    arrays: dict[str, NDArray[Any]] = {}
    for part, raw in raws.items():
        named = {"channels": raw.channels, "classes": raw.classes, f"y_{part}": raw.y, f"groups_{part}": raw.groups}
        arrays |= {name: np.array(held) for name, held in named.items() if held}
    with ExitStack() as stack:
        create = _creator(path, stack)
        for name, array in arrays.items():
            with create(f"{name}.npy") as file:
                np.save(file, array, allow_pickle=False)
        done, total = 0, sum(len(raw.x) for raw in raws.values())
        for part, raw in raws.items():
            with create(f"X_{part}.npy") as file:
                head = {"descr": "<f4", "fortran_order": False, "shape": tuple(raw.x.shape)}
                np.lib.format.write_array_header_1_0(file, head)
                for x in chunks(raw.x):
                    file.write(np.ascontiguousarray(x, "<f4").tobytes())
                    done += len(x)
                    say(done, total)


def _creator(path: Path, stack: ExitStack) -> Callable[[str], IO[bytes]]:
    """Opens files by name to be written: members of an archive, or files of a folder."""
    if path.suffix == ".npz":
        archive = stack.enter_context(zipfile.ZipFile(path, "w"))
        return lambda name: archive.open(name, "w", force_zip64=True)
    path.mkdir()
    return lambda name: (path / name).open("wb")
