"""Reader of `.npz`: X [N, C, T] or [N, T], with y, groups, channels and classes. Pickles are never loaded.

A file holds one split (`X`, `y`) or several (`X_train`, `y_train`, `X_test`, ...). A large X that is not compressed
stays in its file.
"""

from __future__ import annotations

import lzma
import math
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from tstk.data import lazy_array
from tstk.data.catalog import SERIES_ARRAY_NAMES
from tstk.data.columns import ColumnRoles
from tstk.data.containers import SeriesSet, normalize_label
from tstk.data.lazy_array import read_or_map
from tstk.data.memory import CELL_BYTES, require_memory
from tstk.errors import DataError, did_you_mean

LABEL_ARRAY_NAMES = ("y", "labels", "label")
TARGET_ARRAY_NAMES = ("targets", "target")
GROUP_ARRAY_NAMES = ("groups", "group", "subject", "subjects")

MAX_EXPANSION_RATIO = 200
"""Maximum compression ratio of large arrays, against zip bombs; measured series stay far below it."""

CRC_BLOCK_BYTES = 2**20
"""Bytes read at a time to check the checksum of an array that stays in its file."""

_KEEP_IN_FILE = "save it with numpy.savez, not compressed, and it can stay in its file"
PICKLE = "array of Python objects"
"""Message of the ValueError that refuses a pickle."""
_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, OSError, KeyError, ValueError, OverflowError, RuntimeError),
)
"""What zipfile and NumPy raise for archives that are damaged, encrypted or compressed in another way."""

Array = NDArray[Any]
ArrayOpeners = Mapping[str, Callable[[], Array]]


def read(path: Path, roles: ColumnRoles = ColumnRoles()) -> dict[str, SeriesSet]:
    """Read the splits of one file; arrays without "_train", "_val" or "_test" in their names are split "train".

    Args:
        path: a file that ends in .npz
        roles: of arrays, where names do not tell

    Raises:
        DataError: the file is damaged, holds Python objects, or its shapes disagree
    """
    roles.reject(path, "yet", ("label", "targets"))
    label_column = roles.label
    arrays = open_arrays(path)
    names = (label_column,) if label_column is not None else LABEL_ARRAY_NAMES
    metadata = {name: arrays[name]() for name in ("classes", "channels", "target_names") if name in arrays}
    splits = {}
    for split, suffix in (("train", ""), ("train", "_train"), ("val", "_val"), ("test", "_test")):
        if (x := _find_array(arrays, SERIES_ARRAY_NAMES, suffix)) is not None:
            y = _find_array(arrays, names, suffix)
            if label_column is not None and y is None:
                name = label_column + suffix
                hint = did_you_mean(name, arrays)
                raise DataError(f"{path}: no array called {name!r}; it holds: {', '.join(arrays)}.{hint}")
            groups = _find_array(arrays, GROUP_ARRAY_NAMES, suffix)
            series_set = build_series_set(x, y and y(), groups and groups(), metadata, str(path))
            if roles.targets:
                splits[split] = _add_named_targets(series_set, arrays, roles.targets, suffix)
                continue
            targets = _find_array(arrays, TARGET_ARRAY_NAMES, suffix)
            splits[split] = add_targets(series_set, targets and targets(), metadata)
    if not splits:
        raise DataError(
            f"{path}: no array called X (or x, data, samples; or X_train and X_test); it holds: {', '.join(arrays)}"
        )
    return splits


def open_arrays(path: Path) -> ArrayOpeners:
    """Return a function per array that returns it: memory-mapped if it is large and not compressed, else from memory.

    The checksum of every array is checked here, once, also of those that stay in their file.

    Raises:
        DataError: the file is damaged, holds Python objects, is larger than memory, or looks like a zip bomb
    """
    try:
        with path.open("rb") as file:
            if file.read(6) == np.lib.format.MAGIC_PREFIX:
                raise DataError(f"{path}: a single array, not an archive; save it with numpy.savez(path, X=..., y=...)")
        with zipfile.ZipFile(path) as archive:
            members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
            _check_size(path, [member for member in members.values() if not _can_map(member)])
            return {name: _build_opener(path, archive, member) for name, member in members.items()}
    except MemoryError:
        raise DataError(f"{path}: larger than memory; {_KEEP_IN_FILE}") from None
    except _DAMAGE as error:
        if str(error) == PICKLE:
            raise DataError(
                f"{path}: holds Python objects (a pickle), which are never loaded; save numbers and strings only"
            ) from None
        raise DataError(f"{path}: empty, cut short or not an npz archive; write or fetch it again") from None


def _can_map(member: zipfile.ZipInfo) -> bool:
    return member.compress_type == zipfile.ZIP_STORED and 4 * member.file_size > lazy_array.MAX_IN_MEMORY_BYTES


def _check_size(path: Path, members: list[zipfile.ZipInfo]) -> None:
    """Refuse arrays that are read into memory if they are larger than that, or than measured series could be."""
    size, compressed_size = sum(m.file_size for m in members), sum(m.compress_size for m in members)
    if size > lazy_array.MAX_IN_MEMORY_BYTES and size > MAX_EXPANSION_RATIO * compressed_size:
        raise DataError(
            f"{path}: its arrays expand {compressed_size:,} bytes to {size:,}, as zip bombs do; if this is intended, "
            + _KEEP_IN_FILE
        )
    require_memory(2 * size, f"{path}: its arrays", _KEEP_IN_FILE)


def _build_opener(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Callable[[], Array]:
    with archive.open(member) as stream:
        shape, is_fortran, dtype = read_array_header(stream)
        start = stream.tell()
        if start + math.prod(shape) * dtype.itemsize != member.file_size:
            raise zipfile.BadZipFile
        if not _can_map(member):
            stream.seek(0)
            array = np.lib.format.read_array(stream, allow_pickle=False)
            stream.read()  # to the end, where the checksum is compared
            return lambda: array
        while stream.read(CRC_BLOCK_BYTES):
            pass
    offset = _find_content(path, member) + start
    return partial(np.memmap, path, dtype, "r", offset, shape, "F" if is_fortran else "C")


def _find_content(path: Path, member: zipfile.ZipInfo) -> int:
    """Return the place in the file at which the bytes of a stored member begin."""
    with path.open("rb") as file:
        file.seek(member.header_offset + 26)  # the local file header has 30 bytes, then the name and the extra field
        name_length, extra_length = struct.unpack("<HH", file.read(4))
    return member.header_offset + 30 + name_length + extra_length


def read_array_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the header of an array: shape, whether it is in Fortran order, and type.

    Raises:
        ValueError: it is damaged, or the array holds Python objects
    """
    try:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a header that Python 2 wrote
            shape, is_fortran, dtype = read_header(file)
    except (SyntaxError, TypeError, RecursionError, MemoryError, tokenize.TokenError) as error:
        raise ValueError(f"header: {error}") from None
    if dtype.hasobject:
        raise ValueError(PICKLE)
    if any(size < 0 for size in shape):
        raise ValueError("header: negative size")
    return shape, is_fortran, dtype


def _find_array(arrays: ArrayOpeners, names: tuple[str, ...], suffix: str) -> Callable[[], Array] | None:
    return next((arrays[name + suffix] for name in names if name + suffix in arrays), None)


def build_series_set(
    x: Callable[[], Array], y: Array | None, groups: Array | None, metadata: Mapping[str, Array], source: str
) -> SeriesSet:
    """Build a set of series from arrays.

    Args:
        x: returns the samples [N, C, T] or [N, T], memory-mapped or in memory
        y: [N] labels; or [N, K], 1 for each of K labels that a series has, 0 for others
        groups: [N] names
        metadata: "channels" and "classes" where there are any
        source: the file, for messages

    Raises:
        DataError: the arrays are not numbers, do not fit together, or have an unexpected number of dimensions
    """
    array = x()
    if y is not None and is_multi_hot(y):
        labels, y = y, None
        label_names = metadata["classes"] if "classes" in metadata else metadata.get("target_names")
        without_classes = {key: value for key, value in metadata.items() if key != "classes"}
        series_set = build_series_set(x, None, groups, without_classes, source)
        return add_targets(series_set, labels, {} if label_names is None else {"target_names": label_names})
    if array.dtype.kind not in "fiub":
        raise DataError(f"{source}: X holds {array.dtype}; expected numbers")
    if array.ndim not in (2, 3):
        raise DataError(f"{source}: X has shape {array.shape}; expected (series, channels, samples)")
    names = {key: _names_to_text(metadata[key], key, source) for key in ("channels", "classes") if key in metadata}
    classes = names.get("classes", ())
    return SeriesSet(
        x=read_or_map((lambda: x()[:, None]) if array.ndim == 2 else x),
        source=source,
        y=None if y is None else _labels_to_text(y, classes, len(array), source),
        groups=None if groups is None else [normalize_label(g) for g in _to_list(groups, "groups", len(array), source)],
        channels=names.get("channels", ()),
        classes=classes,
    )


def is_multi_hot(y: Array) -> bool:
    """Return whether labels are [N, K] with one column per label."""
    return y.ndim == 2 and y.shape[1] > 1 and y.dtype.kind in "fiub" and bool(np.isin(y[y == y], (0, 1)).all())


def add_targets(series_set: SeriesSet, targets: Array | None, metadata: Mapping[str, Array]) -> SeriesSet:
    """Return series with numbers to predict, [N] or [N, K].

    Raises:
        DataError: they are not numbers
    """
    if targets is None:
        return series_set
    if targets.dtype.kind not in "fiub" or targets.ndim not in (1, 2):
        raise DataError(f"{series_set.source}: targets are {targets.dtype} of shape {targets.shape}; expected numbers")
    array = metadata.get("target_names")
    names = () if array is None else _names_to_text(array, "target_names", series_set.source)
    return replace(series_set, targets=targets.reshape(len(targets), -1).astype(np.float64), target_names=names)


def _add_named_targets(series_set: SeriesSet, arrays: ArrayOpeners, names: tuple[str, ...], suffix: str) -> SeriesSet:
    """Return series with the numbers of one array [N] per name as their targets."""
    columns = []
    for name in names:
        if name + suffix not in arrays:
            hint = did_you_mean(name + suffix, arrays)
            held = ", ".join(arrays)
            raise DataError(f"{series_set.source}: no array called {name + suffix!r}; it holds: {held}.{hint}")
        columns.append(add_targets(series_set, arrays[name + suffix](), {}).targets)
    stacked = np.concatenate([column for column in columns if column is not None], 1)
    has_one_each = stacked.shape[1] == len(names)
    return replace(series_set, targets=stacked, target_names=names if has_one_each else ())


def _names_to_text(array: NDArray[Any], kind: str, source: str) -> tuple[str, ...]:
    if array.ndim != 1:
        raise DataError(f"{source}: {kind} have shape {array.shape}; expected one name each")
    return tuple(map(str, _to_values(array, kind, source)))


def _to_list(array: NDArray[Any], kind: str, num_series: int, source: str) -> list[Any]:
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise DataError(f"{source}: {kind} have shape {array.shape}; expected one per series")
    if len(array) != num_series:
        raise DataError(f"{source}: {len(array)} {kind} for {num_series} series; give one for each")
    return _to_values(array, kind, source)


def _to_values(array: NDArray[Any], kind: str, source: str) -> list[Any]:
    """Return the elements [N] as Python objects; those of text are valid Unicode."""
    num_bytes = (CELL_BYTES + array.itemsize) * array.size
    require_memory(num_bytes, f"{source}: {array.size:,} {kind}", "divide the set into several files")
    try:
        values: list[Any] = array.tolist()
        if array.dtype.kind == "U":
            "".join(values).encode()
    except (SystemError, ValueError):
        raise DataError(f"{source}: {kind} hold characters that do not exist; write or fetch the file again") from None
    return values


def _labels_to_text(y: NDArray[Any], classes: tuple[str, ...], num_series: int, source: str) -> list[str]:
    """Convert labels to text; integers are indices into `classes` if the file has them."""
    labels = _to_list(y, "labels", num_series, source)
    if not classes or y.dtype.kind not in "iu":
        names = {label: normalize_label(label) for label in set(labels)}  # one string object per class
        return [names[label] for label in labels]
    for i, label in enumerate(labels):
        if not 0 <= label < len(classes):
            raise DataError(
                f"{source}: label {label} of series {i + 1} is not an index into its {len(classes)} classes"
            )
    return [classes[label] for label in labels]
