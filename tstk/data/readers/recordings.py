"""Reader of folders of recordings: each file is one series, of the class that its folder or a manifest says.

    data/walk/a.csv  data/run/b.csv             class by folder
    data/manifest.csv: file,label,subject       class, group and more by a table; files lie below its folder

Recordings of unequal lengths are padded. Their channels are compared by name. The ids are the names of the files.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tstk.data.catalog import SPLITS, read_file
from tstk.data.columns import GROUP_NAMES, ID_NAMES, LABEL_NAMES, OPTIONS, ColumnRoles
from tstk.data.containers import Samples, SeriesSet, Table, normalize_labels, pad_series, parse_floats, read_lines
from tstk.data.readers.npy import map_array
from tstk.data.recordings import (
    FILE_COLUMNS,
    RECORDING_SUFFIXES,
    find_delimiter,
    is_manifest,
    list_by_class,
    list_other_suffixes,
    list_recordings,
)
from tstk.data.segmentation import SampleLabels, merge_sample_labels
from tstk.data.times import Times
from tstk.errors import DataError, OptionError, did_you_mean
from tstk.files import check_readable

SPLIT_COLUMNS = ("split", "subset", "partition")
_FILE_ROLES = ("time", "channels", "drop")
"""Roles of columns of the recordings; the others are those of columns of the manifest."""


@dataclass
class Recording:
    """The samples of a file.

    Args:
        values: [C, T]; of arrays without names of channels, the axes may be in the other order
        channels: C names, empty if the file has none
        note: how the file was read, or empty
        labels: the class of each sample, if the file has them
        times: of the T samples, if the file has them
        sampling_rate: in Hz, if the file has it
    """

    values: Samples
    channels: tuple[str, ...] = ()
    note: str = ""
    labels: SampleLabels | None = None
    times: Times | None = None
    sampling_rate: float | None = None


def read(path: Path, roles: ColumnRoles = ColumnRoles()) -> dict[str, SeriesSet]:
    """Read the recordings of a folder as split "train", or of a manifest as the splits that it names.

    Args:
        path: a manifest, or a folder with recordings or with a folder of recordings for each class
        roles: of columns of the recordings (time, channels, drop) and of the manifest (all others)

    Raises:
        DataError: a file cannot be read, holds several series, or has other channels than the first; or the manifest
            names a file that is missing or outside its folder
    """
    if is_manifest(path):
        return _read_manifest(path, roles)
    file_roles = (*_FILE_ROLES, *["label"] * roles.label_per_sample)
    roles.reject(path, "for a folder of recordings without a manifest, whose folders are the classes", file_roles)
    if roles.label_per_sample:
        return {"train": _build_series_set(path, list_recordings(path), roles, "a class per sample by column")}
    by_class = list_by_class(path)
    files = [file for paths in by_class.values() for file in paths]
    labels = [name for name, paths in by_class.items() for _ in paths]
    if not by_class:
        return {"train": _build_series_set(path, list_recordings(path), roles, "without classes")}
    counts = ", ".join(f"{name} {len(paths)}" for name, paths in by_class.items())
    series_set = _build_series_set(path, files, roles, f"class by folder: {counts}")
    return {"train": replace(series_set, y=labels)}


def _read_manifest(path: Path, roles: ColumnRoles) -> dict[str, SeriesSet]:
    """Read the recordings that a manifest lists, split by split."""
    text = read_lines(path)
    rows = csv.reader(text, delimiter=find_delimiter(text[0]))
    header = [name.strip() for name in next(rows)]
    lines = [(f"{path}, line {rows.line_num}", [cell.strip() for cell in row]) for row in rows if row]
    for place, row in lines:
        if len(row) != len(header):
            raise DataError(f"{place}: {len(row)} cells, the header has {len(header)}; fix or remove the row")
    if not lines:
        raise DataError(f"{path}: no line after the header; add one for each recording")
    columns = _assign_columns(path, header, roles)
    files = _locate_files(path, [(place, row[columns["file"][0]]) for place, row in lines])

    def get_cells(role: str) -> list[str] | None:
        return [row[columns[role][0]] for _, row in lines] if columns[role] else None

    splits = _parse_splits(lines, columns["split"])
    note = _describe_manifest(path, header, columns, files)
    series_set = _build_series_set(path.parent, files, roles, note)
    y, groups, ids = (get_cells(role) for role in ("label", "group", "id"))
    targets = [parse_floats([row[i] for i in columns["targets"]], place) for place, row in lines]
    series_set = replace(
        series_set,
        source=str(path),
        y=None if y is None else normalize_labels(y),
        groups=None if groups is None else normalize_labels(groups),
        ids=series_set.ids if ids is None else normalize_labels(ids),
        targets=np.stack(targets) if columns["targets"] else None,
        target_names=tuple(header[i] for i in columns["targets"]),
    )
    if splits is None:
        return {"train": series_set}
    return {split: series_set.select(np.flatnonzero(splits == split)) for split in SPLITS if split in splits}


def _assign_columns(path: Path, header: Sequence[str], roles: ColumnRoles) -> dict[str, list[int]]:
    """Return role -> indices of its columns of a manifest: by the options, then by common names."""
    lower_header, columns = [name.lower() for name in header], dict[str, list[int]]()
    if repeated := [name for name, count in Counter(lower_header).items() if count > 1]:
        raise DataError(f"{path}, line 1: two columns are called {repeated[0]!r}; rename or remove one")
    by_option = {
        "label": None if roles.label_per_sample else roles.label,
        "group": roles.group,
        "id": roles.id,
        "targets": roles.targets,
    }
    for role, value in by_option.items():
        names = value if isinstance(value, tuple) else () if value is None else (value,)
        if role in roles.optional:
            names = tuple(name for name in names if name in header)
        for name in names:
            if name not in header:
                message = f"{path}: no column called {name!r} ({OPTIONS[role]}).{did_you_mean(name, header)}"
                raise DataError(message, OPTIONS[role], name)
        columns[role] = [header.index(name) for name in names]
    common = {"file": FILE_COLUMNS, "split": SPLIT_COLUMNS}
    common |= {"label": () if roles.label_per_sample else LABEL_NAMES, "group": GROUP_NAMES, "id": ID_NAMES}
    for role, names in common.items():
        assigned = {i for indices in columns.values() for i in indices}
        free = [lower_header.index(name) for name in names if name in lower_header]
        free = [i for i in free if i not in assigned]
        columns[role] = columns.get(role) or free[:1]
    return columns


def _locate_files(path: Path, cells: Sequence[tuple[str, str]]) -> list[Path]:
    """Return the files that a manifest names; none may lie outside its folder, or be named twice."""
    folder, files = path.parent.resolve(), dict[Path, str]()
    for place, cell in cells:
        file = path.parent / cell
        if not cell or not file.resolve().is_relative_to(folder) or file.resolve() == folder:
            raise DataError(f"{place}: file {cell!r} is not below the folder of the manifest; move it there")
        if not file.is_file():
            raise DataError(f"{place}: there is no file {cell!r} in {path.parent}; fix the name, or remove the line")
        if file.suffix.lower() not in RECORDING_SUFFIXES:
            raise DataError(f"{place}: {cell!r} is no recording; supported are {', '.join(RECORDING_SUFFIXES)}")
        if file in files:
            raise DataError(f"{place}: file {cell!r} was listed before, in {files[file]}; remove one of the lines")
        files[file] = place.rpartition(", ")[2]
    return list(files)


def _parse_splits(lines: Sequence[tuple[str, list[str]]], columns: list[int]) -> Any:
    """Return the split [N] of each line, or None without such a column."""
    if not columns:
        return None
    names = {**{split: split for split in SPLITS}, "training": "train", "validation": "val", "valid": "val"}
    splits = []
    for place, row in lines:
        if (cell := row[columns[0]].lower()) not in names:
            raise DataError(f"{place}: split {row[columns[0]]!r}; expected train, val or test")
        splits.append(names[cell])
    return np.array(splits)


def _describe_manifest(path: Path, header: Sequence[str], columns: dict[str, list[int]], files: Sequence[Path]) -> str:
    parts = [f"{role} {', '.join(repr(header[i]) for i in indices)}" for role, indices in columns.items() if indices]
    assigned = {i for indices in columns.values() for i in indices}
    if unused := [repr(name) for i, name in enumerate(header) if i not in assigned]:
        parts.append(f"not used: {', '.join(unused)}")
    text = f"columns of {path.name}: {'; '.join(parts)}"
    if num_unlisted := len(set(list_recordings(path.parent)) - {path, *files}):
        text += f"; {num_unlisted} files beside it are not listed and not read"
    return text


def _build_series_set(folder: Path, files: Sequence[Path], roles: ColumnRoles, classes: str) -> SeriesSet:
    """Read files as one series each.

    Args:
        folder: that all files lie in
        files: N recordings
        roles: of their columns
        classes: how their classes are known, for the note
    """
    names = [file.relative_to(folder).as_posix() for file in files]
    if not files:
        raise DataError(f"{folder}: no recordings in this folder; looked for *{', *'.join(RECORDING_SUFFIXES)}")
    recordings = [_read_recording(file, roles) for file in files]
    axes = _orient(folder, names, recordings)
    channels, order = _match_channels(folder, names, recordings)
    suffixes = ", ".join(dict.fromkeys(file.suffix.lower() for file in files))
    parts = [f"{folder}: {len(files)} recordings ({suffixes}), one series each", classes, "ids are the file names"]
    notes = dict.fromkeys(recording.note for recording in recordings if recording.note)
    parts += list(notes)[:3] + [f"and {len(notes) - 3} other ways to read a file"] * (len(notes) > 3)
    parts += [text for text in (axes, order) if text]
    if ".hea" not in suffixes and (others := list_other_suffixes(folder)):
        parts.append(f"not read: {', '.join(others)}")
    values = [recording.values for recording in recordings]
    x, labels, label_names = pad_series(values, str(folder)), None, tuple[str, ...]()
    if roles.label_per_sample and any(recording.labels for recording in recordings):
        none: SampleLabels = (np.zeros(0, np.int32), ())  # a file whose samples are all unlabelled
        labels, label_names = merge_sample_labels([r.labels or none for r in recordings], x.shape[2])
    times = [recording.times for recording in recordings if recording.times is not None]
    rates = [recording.sampling_rate for recording in recordings if recording.sampling_rate is not None]
    return SeriesSet(
        x,
        str(folder),
        channels=channels,
        ids=names,
        note="; ".join(parts),
        sample_labels=labels,
        classes=label_names,
        times=times if len(times) == len(recordings) else None,
        sampling_rates=rates if len(rates) == len(recordings) else None,
    )


def _read_recording(path: Path, roles: ColumnRoles) -> Recording:
    """Read one file."""
    check_readable(path)
    own_roles = ColumnRoles(
        label=roles.label if roles.label_per_sample else None,
        time=roles.time,
        channels=roles.channels,
        drop=roles.drop,
        optional=roles.optional,
        is_recording=True,
        label_per_sample=roles.label_per_sample,
        reader=roles.reader,
    )
    recording = _read_array(path, own_roles) if path.suffix.lower() == ".npy" else _read_named(path, own_roles)
    if roles.label_per_sample and recording.labels is None and "label" not in roles.optional:
        kind = path.suffix.lower()
        raise DataError(f"{path}: a recording in {kind} has no labels; write it as .csv or .parquet with a column")
    return recording


def _read_array(path: Path, roles: ColumnRoles) -> Recording:
    """Read an array, whose axes are told apart when all of them have been read."""
    roles.reject(path, "for a recording in .npy, whose channels have no names")
    if roles.reader is not None and "reader" not in roles.optional:
        name = roles.reader["use"]
        message = f"--reader {name} has no meaning for {path}, a recording in .npy: its axes are inferred"
        raise OptionError(message, "--reader")
    array = np.array(map_array(path))
    if array.dtype.kind not in "fiub" or array.ndim not in (1, 2):
        raise DataError(f"{path}: an array of {array.dtype} {array.shape}; expected numbers (channels, samples)")
    return Recording(array[None] if array.ndim == 1 else array)


def _read_named(path: Path, roles: ColumnRoles) -> Recording:
    """Read a file of a format that other data sets have too."""
    data = read_file(path, roles)
    if isinstance(data, Table):
        labels = None if data.sample_labels is None else (data.sample_labels, data.classes)
        return Recording(data.values.T, data.channels, data.note, labels, data.times, data.sampling_rate)
    series_set = next(iter(data.values()))
    if len(data) > 1 or len(series_set.x) > 1:
        raise DataError(f"{path}: holds {len(series_set.x)} series; a recording is one series, a file each")
    return Recording(np.asarray(series_set.x[0]), series_set.channels, series_set.note)


def _orient(folder: Path, names: Sequence[str], recordings: Sequence[Recording]) -> str:
    """Turn arrays without names of channels to [C, T], all in the same way; return which axis was taken for what."""
    arrays = [recording for recording in recordings if not recording.channels and recording.values.ndim == 2]
    sizes = [{recording.values.shape[axis] for recording in arrays} for axis in (0, 1)]
    if not arrays or sizes[0] == {1}:
        return ""
    if len(sizes[0]) > 1 and len(sizes[1]) > 1:
        shapes = " and ".join(str(shape) for shape in list(dict.fromkeys(r.values.shape for r in arrays))[:2])
        raise DataError(
            f"{folder}: neither axis of the arrays has the same size in all files, such as {shapes}; give all the "
            f"channels of {names[0]}"
        )
    is_transposed = len(sizes[0]) > 1 or (len(sizes[1]) == 1 and min(sizes[1]) < min(sizes[0]))
    for recording in arrays if is_transposed else ():
        recording.values = recording.values.T
    count = arrays[0].values.shape[0]
    reason = "the same size in all files" if max(map(len, sizes)) > 1 else "the shorter one"
    return f"the {'second' if is_transposed else 'first'} axis of the arrays is taken as {count} channels ({reason})"


def _match_channels(folder: Path, names: Sequence[str], recordings: Sequence[Recording]) -> tuple[tuple[str, ...], str]:
    """Bring the channels of all recordings into the order of the first; return their names, and a note on changes."""
    first, num_reordered = recordings[0], 0
    for name, recording in zip(names, recordings, strict=True):
        if len(recording.values) != len(first.values) or set(recording.channels) != set(first.channels):
            expected, present = (", ".join(r.channels) or f"{len(r.values)} without names" for r in (first, recording))
            raise DataError(
                f"{folder / name}: channels {present}; {names[0]} has {expected}. --channel-columns selects those that "
                "all recordings have, --drop-columns leaves columns out"
            )
        if recording.channels != first.channels:
            num_reordered += 1
            recording.values = recording.values[[recording.channels.index(channel) for channel in first.channels]]
            recording.channels = first.channels
    note = f"the channels of {num_reordered} files were in another order" if num_reordered else ""
    return first.channels, note
