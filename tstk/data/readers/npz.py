"""Reader of `.npz`: X [N, C, T] or [N, T], and beside it y, groups, channels and classes. Pickles are never loaded.

A file holds one part (`X`, `y`) or several (`X_train`, `y_train`, `X_test`, ...). A large X that is not compressed
stays in its file.
"""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from tstk.data import lazy_array
from tstk.data.catalog import ARRAYS
from tstk.data.containers import Raw, plain
from tstk.data.lazy_array import held
from tstk.errors import DataError, did_you_mean

Y = ("y", "labels", "label")
GROUPS = ("groups", "group", "subject", "subjects")

BOMB = 200
"""Times that a large array may expand; samples of measured series do not come near it."""

Array = NDArray[Any]
Arrays = Mapping[str, Callable[[], Array]]


def read(path: Path, *, label: str | None = None) -> dict[str, Raw]:
    """The parts of one file; one without "_train" and "_test" in its names gives part "train".

    Args:
        path: a file that ends in .npz
        label: the array that holds the labels, if it is not called y, labels or label

    Raises:
        DataError: the file is damaged, holds Python objects, or its shapes disagree
    """
    arrays = opened(path)
    names = (label,) if label is not None else Y
    common = {name: arrays[name]() for name in ("classes", "channels") if name in arrays}
    parts = {}
    for part, end in (("train", ""), ("train", "_train"), ("val", "_val"), ("test", "_test")):
        if (x := _first(arrays, ARRAYS, end)) is not None:
            y = _first(arrays, names, end)
            if label is not None and y is None:
                hint = did_you_mean(label + end, arrays)
                raise DataError(f"{path}: no array called {label + end!r}; it holds: {', '.join(arrays)}.{hint}")
            groups = _first(arrays, GROUPS, end)
            parts[part] = part_of(x, y and y(), groups and groups(), common, str(path))
    if not parts:
        raise DataError(
            f"{path}: no array called X (or x, data, samples; or X_train and X_test); it holds: {', '.join(arrays)}"
        )
    return parts


def opened(path: Path) -> Arrays:
    """Functions that give the arrays: a large one by mapping it, any other from memory.

    Raises:
        DataError: the file is damaged, holds Python objects, or would expand beyond measure
    """
    try:
        if not zipfile.is_zipfile(path):
            with path.open("rb") as file:
                if file.read(6) == np.lib.format.MAGIC_PREFIX:
                    raise DataError(f"{path}: one bare array; save it with numpy.savez(path, X=..., y=...)")
            raise zipfile.BadZipFile
        with np.load(path, allow_pickle=False) as file:
            members = {info.filename.removesuffix(".npy"): info for info in (file.zip.infolist() if file.zip else ())}
            return {name: _opener(path, file, members[name]) for name in file.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, KeyError, struct.error, OverflowError):
        raise DataError(f"{path}: empty, cut short or not an npz archive; write or fetch it again") from None
    except MemoryError:
        raise DataError(
            f"{path}: larger than memory; save it with numpy.savez, not compressed, and it can stay in its file"
        ) from None
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise DataError(f"{path}: empty, cut short or not an npz archive; write or fetch it again") from None
        raise DataError(
            f"{path}: holds Python objects (a pickle), which are never loaded; save numbers and strings only"
        ) from None


def _opener(path: Path, file: Any, member: zipfile.ZipInfo) -> Callable[[], Array]:
    if member.compress_type == zipfile.ZIP_STORED and 4 * member.file_size > lazy_array.LARGE:
        open = partial(_mapped, path, member.header_offset)
        open()  # here, where what is wrong with it can be said
        return open
    if member.file_size > lazy_array.LARGE and member.file_size > BOMB * member.compress_size:
        raise DataError(
            f"{path}: {member.filename} expands {member.compress_size:,} bytes to {member.file_size:,}, as zip bombs "
            "do; if that is meant, save it with numpy.savez, not compressed"
        )
    with file.zip.open(member) as held:
        shape, _, dtype = _declared(held)
    if math.prod(shape) * dtype.itemsize > member.file_size:
        raise zipfile.BadZipFile
    array = file[member.filename.removesuffix(".npy")]
    return lambda: array


def _mapped(path: Path, offset: int) -> Array:
    """The array whose member of the archive begins at `offset`."""
    with path.open("rb") as file:
        file.seek(offset + 26)  # a member's own header has 30 bytes, then its name and more
        name, more = struct.unpack("<HH", file.read(4))
        file.seek(name + more, 1)
        shape, fortran, dtype = _declared(file)
        return np.memmap(path, dtype, "r", file.tell(), shape, "F" if fortran else "C")


def _declared(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """What the header of an array says: shape, whether in the order of Fortran, type."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("allow_pickle")
    return shape, fortran, dtype


def _first(arrays: Arrays, names: tuple[str, ...], end: str) -> Callable[[], Array] | None:
    return next((arrays[name + end] for name in names if name + end in arrays), None)


def part_of(
    x: Callable[[], Array], y: Array | None, groups: Array | None, common: Mapping[str, Array], source: str
) -> Raw:
    """A part from its arrays.

    Args:
        x: gives the samples [N, C, T] or [N, T], mapped or in memory
        y: [N] labels
        groups: [N] names
        common: "channels" and "classes" where there are any
        source: the file, for messages

    Raises:
        DataError: the arrays are not numbers or do not fit together
    """
    kind = x().dtype
    if kind.kind not in "fiub":
        raise DataError(f"{source}: X holds {kind}; expected numbers")
    classes = tuple(map(str, common["classes"].tolist())) if "classes" in common else ()
    return Raw(
        x=held((lambda: x()[:, None]) if x().ndim == 2 else x),
        source=source,
        y=None if y is None else _labels(y, classes, source),
        groups=None if groups is None else [plain(g) for g in _flat(groups, "groups", source)],
        channels=tuple(map(str, common["channels"].tolist())) if "channels" in common else (),
        classes=classes,
    )


def _flat(a: NDArray[Any], what: str, source: str) -> list[Any]:
    if a.ndim == 2 and a.shape[1] == 1:
        a = a[:, 0]
    if a.ndim != 1:
        raise DataError(f"{source}: {what} have shape {a.shape}; expected one per series")
    return a.tolist()


def _labels(y: NDArray[Any], classes: tuple[str, ...], source: str) -> list[str]:
    """Labels as text; whole numbers are looked up in `classes` if the file has them."""
    labels = _flat(y, "labels", source)
    if not classes or y.dtype.kind not in "iu":
        names = {label: plain(label) for label in set(labels)}  # one piece of text per class
        return [names[label] for label in labels]
    for i, label in enumerate(labels):
        if not 0 <= label < len(classes):
            raise DataError(f"{source}: label {label} of series {i + 1} does not point into its {len(classes)} classes")
    return [classes[label] for label in labels]
