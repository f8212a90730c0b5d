"""Named arrays to a `SeriesSet`: which array is what, which axis is time, and exact names, classes and targets.

The readers of `.npz`, `.npy` and `.pt` share this. Names are compared as text that is made of each type exactly: whole
numbers never pass through float. Whatever is guessed, turned or left out is said in the note of the set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tstk.data import lazy_array
from tstk.data.catalog import SERIES_ARRAY_NAMES, SPLIT_SUFFIX
from tstk.data.channels import choose_channels, describe_choice
from tstk.data.columns import OPTIONS, ColumnRoles
from tstk.data.containers import NA_VALUES, Samples, SeriesSet, normalize_labels, sort_names
from tstk.data.lazy_array import LazyArray, iter_chunks, read_or_map
from tstk.data.memory import CELL_BYTES, require_memory
from tstk.errors import DataError, did_you_mean

LABEL_ARRAY_NAMES = ("y", "labels", "label")
TARGET_ARRAY_NAMES = ("targets", "target")
_GROUP_WORDS = ("group", "subject", "patient", "participant", "person", "user", "device", "machine")
_PLAIN_GROUP_NAMES = ("groups", "group", "subject", "subjects")
"""Names of groups that need no line that says so."""
GROUP_ARRAY_NAMES = (
    *_PLAIN_GROUP_NAMES,
    *(word + ending for word in _GROUP_WORDS for ending in ("", "s", "_id", "_ids")),
)
ID_ARRAY_NAMES = ("ids", "id", "sample_id", "series_id")
METADATA_NAMES = ("classes", "channels", "target_names")
"""Arrays that belong to all splits."""
ARRAY_NAMES = (
    *(*SERIES_ARRAY_NAMES, *LABEL_ARRAY_NAMES, *TARGET_ARRAY_NAMES, *GROUP_ARRAY_NAMES, *ID_ARRAY_NAMES),
    *METADATA_NAMES,
)
ROLES = ("label", "targets", "group", "id", "channels", "drop")
"""The roles that arrays can have, see `ColumnRoles`."""

DECISIVE_RATIO = 4
"""How many times as long as the other an axis is from which on it is taken as the samples, if it comes first."""

MANY_CLASSES = 20
"""Classes from which on a line asks whether whole numbers are classes, if there are also fewer than two series each."""

Array = NDArray[Any]
ArrayOpeners = Mapping[str, Callable[[], Array]]
Axes = Literal["auto", "channels-first", "channels-last"]
"""[N, C, T] or [N, T, C]; `auto` means as the names of channels say, else the first, unless C would be 4 T or more."""


@dataclass
class NamedArrays:
    """The arrays of a file or folder.

    Args:
        openers: name -> function that returns the array, in memory or memory-mapped
        roles: of arrays, where names do not tell
        source: the file, for messages
        suffix: of the names of one split, such as "_train"; arrays of `METADATA_NAMES` have none
        axes: of samples in three axes, as the user says
        notes: sentences on what was guessed or changed
        taken: what was taken for what, where it is not plain
        used: names of arrays that were opened
    """

    openers: ArrayOpeners
    roles: ColumnRoles
    source: str
    suffix: str = ""
    axes: Axes = "auto"
    notes: list[str] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)

    def find(self, names: Sequence[str]) -> str | None:
        """Return the first of these names that there is in this split, with its suffix."""
        return next((name for name in (n + self.suffix for n in names) if self._has(name)), None)

    def require(self, role: str, name: str) -> str | None:
        """Return a name that the user gave, with the suffix of this split; None if an optional one is not there.

        Raises:
            DataError: there is no such array
        """
        if found := self.find((name,)) or (name if self._has(name) else None):
            return found
        if role in self.roles.optional:
            return None
        known = [SPLIT_SUFFIX.sub("", other) for other in self.openers]
        raise DataError(
            f"{self.source}: {OPTIONS[role]} {name}: no array called {name + self.suffix!r}; it holds: "
            f"{', '.join(self.openers)}.{did_you_mean(name, known)}",
            OPTIONS[role],
            name,
        )

    def open(self, name: str) -> Array:
        """Return an array."""
        self.used.add(name)
        return self.openers[name]()

    def read_names(self, name: str) -> tuple[str, ...]:
        """Return an array of `METADATA_NAMES` as text; empty if there is none."""
        if name not in self.openers:
            return ()
        array = self.open(name)
        if array.ndim != 1:
            raise DataError(f"{self.source}: {name} have shape {array.shape}; expected one name each")
        return tuple(to_names(array, name, self.source))

    def describe(self) -> str:
        """Return the notes and the names of the arrays that were not used, or an empty text."""
        splits = {found[0] if (found := SPLIT_SUFFIX.search(name)) else "" for name in self.openers}
        others = tuple(suffix for suffix in splits if suffix and suffix != self.suffix)
        unused = [
            name
            for name in self.openers
            if name not in self.used and self._has(name) and not name.endswith(others) and self._has_axes(name)
        ]
        plain_names = dict.fromkeys(name.removesuffix(self.suffix) for name in unused)
        notes = [*self.notes, *([f"not used: {', '.join(plain_names)}"] if unused else [])]
        return f"{Path(self.source).name}: {'; '.join(notes)}" if notes else ""

    def _has_axes(self, name: str) -> bool:
        """Return whether an array is more than one number, such as a sampling rate."""
        with suppress(DataError):  # a damaged file that is not used
            return self.openers[name]().ndim > 0
        return True

    def _has(self, name: str) -> bool:
        return name in self.openers and not {name, name.removesuffix(self.suffix)} & set(self.roles.drop)


def build_series_set(arrays: NamedArrays) -> SeriesSet | None:
    """Build the series of one split from its arrays; return None if there are no samples.

    Raises:
        DataError: an array is missing, has an unexpected type or shape, or the arrays do not fit together
    """
    if (name := arrays.find(SERIES_ARRAY_NAMES)) is None:
        return None
    x, channels = _open_samples(arrays, name)
    num_series = len(x)
    classes = arrays.read_names("classes")
    if repeated := [c for c in classes if classes.count(c) > 1]:
        raise DataError(f"{arrays.source}: two classes are called {repeated[0]!r}; rename one")
    labels, targets, target_names, sample_labels = None, None, tuple[str, ...](), None
    if arrays.roles.label_per_sample:
        sample_labels, classes = _read_sample_labels(arrays, classes, (num_series, x.shape[2]))
    else:
        labels, targets, target_names = _read_labels_and_targets(arrays, classes, x.shape)
    groups = _read_names_of_series(arrays, "group", GROUP_ARRAY_NAMES, num_series)
    ids = _read_names_of_series(arrays, "id", ID_ARRAY_NAMES, num_series)
    if arrays.taken:
        arrays.notes.append(", ".join(arrays.taken))
    if ids and (num_repeated := len(ids) - len(set(ids))):
        arrays.notes.append(f"{num_repeated} of {len(ids)} ids occur more than once")
    return SeriesSet(
        x=x,
        source=arrays.source,
        y=labels,
        groups=groups,
        channels=channels,
        classes=classes if labels is not None or sample_labels is not None else (),
        note=arrays.describe(),
        ids=ids,
        targets=targets,
        target_names=target_names,
        sample_labels=sample_labels,
    )


def _read_labels_and_targets(
    arrays: NamedArrays, classes: tuple[str, ...], shape: tuple[int, ...]
) -> tuple[list[str] | None, Samples | None, tuple[str, ...]]:
    """Return the labels [N], the targets [N, K] and their names; labels that are no classes become targets."""
    num_series = shape[0]
    targets, target_names = _read_targets(arrays, num_series)
    if (name := _find_label(arrays)) is None:
        return None, targets, target_names
    array, plain_name = _squeeze(arrays.open(name)), _remove_suffix(name, arrays)
    if targets is None and _is_multi_hot(array):
        targets, target_names = _to_targets(arrays, [name], num_series)
        has_one_per_sample = array.shape[1] == shape[2]
        remedy = "; --task segmentation takes them as the class of each sample" if has_one_per_sample else ""
        arrays.notes.append(f"{plain_name} holds 0 or 1 for each of {array.shape[1]} labels{remedy}")
        return None, targets, classes if len(classes) == array.shape[1] else target_names
    if targets is None and arrays.roles.label is None and not classes and _has_fractions(array):
        arrays.notes.append(
            f"{plain_name} holds numbers that are not whole, so they are targets to predict; "
            f"--label-column {plain_name} makes them classes"
        )
        return None, *_to_targets(arrays, [name], num_series)
    return _to_labels(arrays, name, array, classes, num_series), targets, target_names


def _read_sample_labels(
    arrays: NamedArrays, classes: tuple[str, ...], shape: tuple[int, int]
) -> tuple[NDArray[np.int32] | None, tuple[str, ...]]:
    """Return the class of each sample [N, T], as an index into the names that are returned with it; -1 if unknown.

    Unknown is -1 in an array of whole numbers, NaN in one of floats, and an empty text.
    """
    if (name := _find_label(arrays)) is None:
        if "label" in arrays.roles.optional:
            return None, ()
        raise DataError(f"{arrays.source}: no labels; save them as an array y, or name it with --label-column")
    array = np.asarray(arrays.open(name))
    if array.shape == shape[:1] and "label" in arrays.roles.optional:
        arrays.notes.append(f"{_remove_suffix(name, arrays)} is not used: it holds a label per series, not per sample")
        return None, ()
    if array.shape != shape:
        raise DataError(
            f"{arrays.source}: {_remove_suffix(name, arrays)} has shape {array.shape}; expected a class per sample, "
            f"(series, samples) = {shape}"
        )
    distinct, index = np.unique(array, return_inverse=True)
    names = to_names(distinct, "labels", arrays.source)
    is_unknown = [name.lower() in NA_VALUES or (array.dtype.kind in "if" and name == "-1") for name in names]
    known = [name for name, skip in zip(names, is_unknown, strict=True) if not skip]
    by_index = {str(i): class_name for i, class_name in enumerate(classes)}
    is_number = array.dtype.kind in "biuf"
    if classes and (unknown := sorted(set(known) - set(by_index if is_number else classes))):
        raise DataError(
            f"{arrays.source}: label {unknown[0]} is not {'the index, from 0, of ' * is_number}one of the classes "
            f"{', '.join(classes)}"
        )
    if classes and is_number:
        names = [by_index.get(name, name) for name in names]
    classes = classes or sort_names(known)
    codes = np.array([-1 if skip else classes.index(name) for name, skip in zip(names, is_unknown, strict=True)])
    return codes[index].reshape(shape).astype(np.int32), classes


def _is_multi_hot(array: Array) -> bool:
    """Return whether labels [N, K] are 0 or 1, or NaN where unknown, with a column for each of several labels."""
    if array.ndim != 2 or array.dtype.kind not in "fiub":
        return False
    return bool(np.isin(array[array == array], (0, 1)).all())


def to_names(array: Array, kind: str, source: str) -> list[str]:
    """Return the elements [N] of an array as text, equal for equal elements alone.

    Whole numbers are written without decimals, also where the type is a float; bytes are decoded as UTF-8.

    Args:
        array: [N]
        kind: what it holds, for messages, such as "labels"
        source: the file, for messages

    Raises:
        DataError: it holds neither numbers nor text, or text that is not Unicode
    """
    if array.dtype.kind not in "biufSU":
        raise DataError(f"{source}: {kind} hold {array.dtype}; expected numbers or text")
    num_bytes = (CELL_BYTES + array.itemsize) * array.size
    require_memory(num_bytes, f"{source}: {array.size:,} {kind}", "divide the set into several files")
    distinct, indices = np.unique(array, return_inverse=True)
    try:
        if array.dtype.kind == "S":
            distinct = np.char.decode(distinct, "utf-8")
        names = normalize_labels(distinct.tolist())
        "".join(names).encode()
    except (SystemError, ValueError):
        raise DataError(f"{source}: {kind} hold characters that do not exist; write or fetch the file again") from None
    return [names[i] for i in indices.ravel()]


def _open_samples(arrays: NamedArrays, name: str) -> tuple[Samples | LazyArray, tuple[str, ...]]:
    """Return the samples [N, C, T] and the names of the channels, if the file has them or some were chosen."""
    array, names = arrays.open(name), arrays.read_names("channels")
    if array.dtype.kind not in "fiub":
        hint = "; make the real and the imaginary part channels of their own" if array.dtype.kind == "c" else ""
        raise DataError(f"{arrays.source}: {name} holds {array.dtype}; expected numbers{hint}")
    if array.ndim not in (2, 3):
        raise DataError(f"{arrays.source}: {name} has shape {array.shape}; expected (series, channels, samples)")
    if (
        array.dtype.kind in "iu"
        and array.itemsize == 8
        and any(_is_beyond_float(chunk) for chunk in iter_chunks(array))
    ):
        arrays.notes.append(f"{_remove_suffix(name, arrays)} holds whole numbers beyond 2**53, which are rounded")
    if array.ndim == 2 and arrays.axes != "auto":
        raise DataError(
            f"{arrays.source}: --reader.axes {arrays.axes} has no meaning here: {name} has shape {array.shape}, "
            "(series, samples) of one channel"
        )
    channels_last = array.ndim == 3 and _is_channels_last(arrays, name, array.shape, names)
    num_channels = 1 if array.ndim == 2 else array.shape[2 if channels_last else 1]
    chosen = _choose_channels(arrays, names or tuple(map(str, range(num_channels))), num_channels)
    opener = arrays.openers[name]

    def open_view() -> Array:
        view = opener()[:, None] if array.ndim == 2 else opener()
        view = view.swapaxes(1, 2) if channels_last else view
        return view if chosen is None else view[:, chosen]

    if chosen is None:
        return read_or_map(open_view), names
    if isinstance(chosen, list) and 4 * array.size > lazy_array.MAX_IN_MEMORY_BYTES:
        raise DataError(
            f"{arrays.source}: {name} stays in its file, where only channels at equal distances can be chosen; "
            "save these channels as an array of their own"
        )
    names = names or tuple(map(str, range(num_channels)))
    return read_or_map(open_view), tuple(np.array(names)[chosen].tolist())


def _is_beyond_float(array: Array) -> bool:
    """Return whether whole numbers are larger than those that float64 tells apart."""
    return array.size > 0 and max(int(array.max()), -int(array.min())) > 2**53


def _is_channels_last(arrays: NamedArrays, name: str, shape: tuple[int, ...], channels: tuple[str, ...]) -> bool:
    """Return whether the axes are (series, samples, channels), as the option, the names of channels or the sizes say.

    Raises:
        DataError: the option contradicts the names of channels, or only an option can tell
    """
    plain_name = _remove_suffix(name, arrays)
    if arrays.axes != "auto":
        channels_last, reason = arrays.axes == "channels-last", ", as --reader.axes says"
        if channels and len(channels) != shape[2 if channels_last else 1]:
            raise DataError(
                f"{arrays.source}: --reader.axes {arrays.axes}: {plain_name} has shape {shape}, and there are "
                f"{len(channels)} names of channels; leave it out"
            )
    elif channels and len(channels) in shape[1:]:
        channels_last, reason = len(channels) != shape[1], f", as there are {len(channels)} names of channels"
    elif not channels and shape[2] < shape[1] < DECISIVE_RATIO * shape[2]:
        raise DataError(
            f"{arrays.source}: {plain_name} has shape {shape}: {shape[1]} channels of {shape[2]} samples, or "
            f"{shape[2]} channels of {shape[1]} samples? Give --reader {Path(arrays.source).suffix[1:]} --reader.axes "
            "channels-first or channels-last, or save it with an array 'channels' of names"
        )
    else:
        channels_last, reason = shape[2] < shape[1], ""
    if channels_last or not reason:
        axes = "(series, samples, channels)" if channels_last else "(series, channels, samples)"
        is_likely = shape[1] < shape[2] and not channels_last
        remedy = "" if reason or is_likely else "; if not so, give --reader.axes, or save an array 'channels' of names"
        arrays.notes.append(f"{plain_name} [N, {shape[1]}, {shape[2]}] read as {axes}{reason}{remedy}")
    return channels_last


def _choose_channels(arrays: NamedArrays, names: tuple[str, ...], num_channels: int) -> slice | list[int] | None:
    """Return the indices of the channels that the roles choose, as a slice if possible; None if they choose all."""
    if len(names) != num_channels:
        return None  # refused by SeriesSet
    array_names = {*arrays.openers, *(SPLIT_SUFFIX.sub("", name) for name in arrays.openers)}
    indices = choose_channels(names, arrays.roles, arrays.source, array_names)
    arrays.notes += describe_choice(names, indices)
    if indices is None:
        return None
    step = indices[1] - indices[0] if len(indices) > 1 else 1
    if step > 0 and indices == list(range(indices[0], indices[-1] + 1, step)):
        return slice(indices[0], indices[-1] + 1, step)
    return indices


def _find_label(arrays: NamedArrays) -> str | None:
    if arrays.roles.label is not None and (name := arrays.require("label", arrays.roles.label)):
        return name
    name = arrays.find(LABEL_ARRAY_NAMES)
    return None if name is None or _remove_suffix(name, arrays) in arrays.roles.targets else name


def _remove_suffix(name: str, arrays: NamedArrays) -> str:
    return name.removesuffix(arrays.suffix)


def _squeeze(array: Array) -> Array:
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def _check_one_per_series(array: Array, name: str, num_series: int, source: str, hint: str = "") -> None:
    if array.ndim != 1:
        raise DataError(f"{source}: {name} have shape {array.shape}; expected one per series{hint}")
    if len(array) != num_series:
        raise DataError(f"{source}: {len(array)} {name} for {num_series} series; give one for each")


def _read_names_of_series(arrays: NamedArrays, role: str, usual: Sequence[str], num_series: int) -> list[str] | None:
    """Return the groups or ids [N] as text, or None."""
    given_name = getattr(arrays.roles, role)
    name = (given_name and arrays.require(role, given_name)) or arrays.find(usual)
    if name is None:
        return None
    array = _squeeze(arrays.open(name))
    kind = "groups" if role == "group" else "ids"
    if _remove_suffix(name, arrays) not in _PLAIN_GROUP_NAMES:
        arrays.taken.append(f"{kind} from {_remove_suffix(name, arrays)}")
    _check_one_per_series(array, kind, num_series, arrays.source)
    return to_names(array, kind, arrays.source)


def _has_fractions(array: Array) -> bool:
    """Return whether an array holds floats, one of which is not whole."""
    return array.dtype.kind == "f" and bool(np.any(array[~np.isnan(array)] % 1 != 0))


def _read_targets(arrays: NamedArrays, num_series: int) -> tuple[Samples | None, tuple[str, ...]]:
    """Return the targets [N, K] that the user names, or that the array of a usual name holds, and their names."""
    roles = arrays.roles
    names = [found for name in roles.targets if (found := arrays.require("targets", name))]
    if not names and (name := arrays.find(TARGET_ARRAY_NAMES)) and _remove_suffix(name, arrays) != roles.label:
        names = [name]
    if not names:
        return None, ()
    arrays.taken.append(f"targets from {', '.join(_remove_suffix(name, arrays) for name in names)}")
    return _to_targets(arrays, names, num_series)


def _to_targets(arrays: NamedArrays, names: list[str], num_series: int) -> tuple[Samples, tuple[str, ...]]:
    """Return arrays [N] or [N, K] side by side as float64, and a name for each column.

    Raises:
        DataError: an array does not hold numbers, or not one row per series
    """
    columns, target_names, source = [], [], arrays.source
    for name in names:
        array, plain_name = arrays.open(name), _remove_suffix(name, arrays)
        if array.dtype.kind not in "fiub" or array.ndim not in (1, 2):
            remedy = f"; --label-column {plain_name} makes them classes" if array.ndim == 1 else ""
            raise DataError(
                f"{source}: {name} is {array.dtype} of shape {array.shape}; expected targets, (series,) or (series, "
                f"targets) of numbers{remedy}"
            )
        if len(array) != num_series:
            raise DataError(f"{source}: {len(array)} targets for {num_series} series; give one for each")
        column = array.astype(np.float64).reshape(num_series, -1)
        if np.isinf(column).any():
            row = int(np.isinf(column).any(1).argmax()) + 1
            raise DataError(f"{source}: {name} of series {row} is infinite; write an unknown target as NaN")
        columns.append(column)
        count = column.shape[1]
        target_names += [plain_name] if count == 1 else [f"{plain_name}_{i}" for i in range(count)]
    targets, given_names = np.concatenate(columns, 1), arrays.read_names("target_names")
    return targets, given_names if len(given_names) == len(target_names) else tuple(target_names)


def _to_labels(arrays: NamedArrays, name: str, array: Array, classes: tuple[str, ...], num_series: int) -> list[str]:
    """Return labels as text; whole numbers, also as text, are indices into the classes if the file has them.

    Raises:
        DataError: a label is neither a class nor the index of one
    """
    source, plain_name = arrays.source, _remove_suffix(name, arrays)
    hint = f"; --target-columns {plain_name} makes them targets to predict" if array.dtype.kind in "fiub" else ""
    remedy = f"{hint}; --task segmentation takes a class per sample"
    _check_one_per_series(array, "labels", num_series, source, remedy if array.ndim == 2 else "")
    labels = to_names(array.astype(np.uint8) if classes and array.dtype.kind == "b" else array, "labels", source)
    distinct = set(labels)
    if not classes:
        if array.dtype.kind in "fiu" and len(distinct) > max(MANY_CLASSES, num_series // 2):
            arrays.notes.append(f"{plain_name} holds {len(distinct)} different numbers, read as classes{hint}")
        return labels
    is_name = distinct <= set(classes)
    indices = {str(i): class_name for i, class_name in enumerate(classes)}
    is_index = distinct <= set(indices)
    if is_name and (array.dtype.kind in "SU" or not is_index):
        return labels
    if is_index:
        if array.dtype.kind in "SU" or (is_name and any(indices[label] != label for label in distinct)):
            arrays.notes.append(
                f"labels {min(distinct)}, ... read as indices into classes {classes[0]}, ...; labels as the names "
                "themselves, as text, settle it"
            )
        return [indices[label] for label in labels]
    number, label = next((i, x) for i, x in enumerate(labels, 1) if x not in (classes if _is_text(array) else indices))
    begins_at_one = distinct <= {str(i) for i in range(1, len(classes) + 1)}
    raise DataError(
        f"{source}: label {label} of series {number} is not {'the name or ' * _is_text(array)}an index into its "
        f"{len(classes)} classes" + ("; indices begin at 0, so subtract 1" if begins_at_one else "")
    )


def _is_text(array: Array) -> bool:
    return array.dtype.kind in "SU"
