"""Turn what readers return into a `DataModule`: encode labels, split, and compute the standardization."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tstk.core.finite import find_overflow
from tstk.core.task import TargetType, find_task, get_task
from tstk.core.types import Spec, Split
from tstk.data.catalog import DEFAULT_VAL_FRACTION, SPLITS
from tstk.data.conditioning import load_conditioning
from tstk.data.config import DataConfig
from tstk.data.containers import SeriesSet, Table, list_tables
from tstk.data.data_module import DataModule, compute_mean_std, count_missing, describe_variation
from tstk.data.datasets import Segment, SeriesDataset, WindowDataset, name_series
from tstk.data.lazy_array import LazyArray, iter_chunks
from tstk.data.precision import compute_offset, describe_offset, subtract_offset
from tstk.data.scale import describe_far_values, describe_repeated_extremes
from tstk.data.segmentation import check_recordings, cut_recordings
from tstk.data.splits import group_split, hold_out_test, stratified_split, subsample_per_class
from tstk.data.targets import (
    describe_unknown,
    encode_targets,
    get_strata,
    infer_names,
    infer_task,
    split_label_cells,
)
from tstk.data.windowing import resolve_split_boundaries
from tstk.errors import DataError, DataNoteWarning, OptionError, warn_user

DEFAULT_WINDOW = 96
"""Default rows of a table in a context and in a horizon."""
NO_TEST_NOTE = (
    "there is no test split, so there are no test scores: --test-fraction 0.2 holds one out, --test-data FILE names one"
)


def prepare_series(name: str, series_sets: Mapping[str, SeriesSet], config: DataConfig) -> DataModule:
    """Return a data set of series, for the task that their targets allow.

    Args:
        name: name of the data set
        series_sets: "train" and, where they exist, "val" and "test"
        config: the options

    Raises:
        DataError: the splits do not match, or there are too few series
        OptionError: an option cannot take effect on these series
    """
    if (resize := config.resize) is not None:
        series_sets = {split: series_set.resize(resize) for split, series_set in series_sets.items()}
    series_sets, test_description, task, task_note = split_series(series_sets, config)
    target_type = None if task is None else get_task(task).target_type
    overlap = _describe_overlap(series_sets["train"], series_sets.get("test"), config)
    if target_type == "sample-class":
        series_sets, note = _cut_recordings(series_sets, config)
        task_note = "; ".join(filter(None, (task_note, note)))
    train, test = series_sets["train"], series_sets.get("test")
    names = () if target_type is None else infer_names(train, target_type)
    channels = train.channels or _number_channels(train.x.shape[1])
    length = _resolve_length(name, series_sets, config.length)
    offset = compute_offset(train.x) if config.standardize == "standard" else None
    splits = {
        split: _build_series_dataset(series_set, channels, target_type, names, length, offset)
        for split, series_set in series_sets.items()
    }
    _check_targets(series_sets, splits, task)
    conditioning_dims = _add_conditioning(splits, series_sets, config)
    notes = [*_collect_notes(series_sets), *filter(None, [task_note])]
    notes += _describe_values(train, splits["train"], channels, offset)
    test_part = f"{test_description}; " if test_description else ""
    split_description, note = (test_part + s for s in _add_validation_split(name, splits, series_sets, config))
    notes += [note, *[NO_TEST_NOTE] * (task is not None and test is None)]
    mean, std = _compute_standardization(splits["train"].x, config.standardize)
    for split in [split for split in ("val", "test") if split in series_sets]:
        _reject_overflow(splits[split], mean, std, series_sets[split].source)
    notes += [_subsample_labels(name, splits, config)] if config.label_fraction < 1 else []
    notes += _describe_series(splits, target_type, names, channels) + overlap
    return DataModule(
        name=name,
        source=tuple(dict.fromkeys(series_set.source for series_set in series_sets.values())),
        spec=Spec(len(channels), length, task, len(names) or None, conditioning=conditioning_dims),
        train=splits["train"],
        val=splits["val"],
        test=splits.get("test"),
        classes=() if target_type == "numbers" else names,
        target_names=names if target_type == "numbers" else (),
        label_separator=config.label_separator,
        channels=channels,
        mean=mean,
        std=std,
        notes=notes,
        split_description=split_description,
        resize=resize,
        offset=offset,
        val_from_train=config.val_data != "test" and "val" not in series_sets,
    )


def _cut_recordings(series_sets: Mapping[str, SeriesSet], config: DataConfig) -> tuple[Mapping[str, SeriesSet], str]:
    """Cut series longer than `--length` into windows, those of training `--stride` apart; also return a note."""
    length = config.length
    if length is None or all(series_set.x.shape[2] <= length for series_set in series_sets.values()):
        if all(series_set.recordings is None for series_set in series_sets.values()):
            config.reject("here: no series is longer than --length, so none is cut", "stride")
        return series_sets, ""
    config.reject("where recordings are cut into windows, as its file has a row per series", "conditioning")
    counts = {split: len(series_set.x) for split, series_set in series_sets.items()}
    by = "group" if len(set(series_sets["train"].groups or ())) > 1 else "recording"
    series_sets = {
        split: cut_recordings(series_set, length, config.stride or length if split == "train" else length)
        for split, series_set in series_sets.items()
    }
    sizes = ", ".join(f"{split} {counts[split]} to {len(s.x)}" for split, s in series_sets.items())
    return series_sets, f"recordings are cut into windows of {length} samples ({sizes}), those of a {by} in one split"


def split_series(
    series_sets: Mapping[str, SeriesSet], config: DataConfig
) -> tuple[Mapping[str, SeriesSet], str, str | None, str]:
    """Return the splits that the options ask for, before validation series are held out.

    Args:
        series_sets: "train" and, where they exist, "val" and "test"
        config: the options

    Returns:
        the splits, with one target per label if a cell holds several; a description of the test split, if it was held
        out; the task, or None; a note on the task
    """
    series_sets = _split_labels(series_sets, config.label_separator)
    task, note = infer_task(series_sets["train"], config)
    by_class = task is not None and get_task(task).target_type == "class"
    series_sets, test_description = hold_out_test(series_sets, config, by_class=by_class)
    return series_sets, test_description, task, note


def _collect_notes(parts: Mapping[str, Any]) -> list[str]:
    """Return the notes of readers, each once."""
    return list(dict.fromkeys(part.note for part in parts.values() if part.note))


def _describe_values(
    train: SeriesSet, dataset: SeriesDataset, channels: tuple[str, ...], offset: NDArray[np.float64] | None
) -> list[str]:
    """Return notes on the training series, as they were read and as a data set: offset, leaks, and unusual values."""
    notes = describe_offset(train.x, channels, offset) + _describe_label_leaks(dataset)
    notes += describe_far_values(dataset.x, channels, offset)
    return notes + describe_repeated_extremes(dataset.x, channels, offset)


def _describe_series(
    splits: Mapping[str, SeriesDataset],
    target_type: TargetType | None,
    names: tuple[str, ...],
    channels: tuple[str, ...],
) -> list[str]:
    """Return notes on what splits lack: samples, variation, classes or labels, and known targets."""
    notes = _describe_missing(splits)
    notes += _describe_degenerate(splits["train"], names if target_type == "class" else (), channels)
    notes += _describe_absent_classes(splits, () if target_type == "numbers" else names)
    return notes + [note for split, dataset in splits.items() for note in describe_unknown(dataset, split)]


def _split_labels(series_sets: Mapping[str, SeriesSet], separator: str | None) -> Mapping[str, SeriesSet]:
    """Return the splits with one target per label, if a cell holds several labels."""
    if separator is None:
        return series_sets
    if series_sets["train"].y is None:
        raise OptionError(f"--label-separator {separator}: {series_sets['train'].source} has no labels to split")
    train = split_label_cells(series_sets["train"], separator)
    return {
        split: train if split == "train" else split_label_cells(series_set, separator, train.target_names)
        for split, series_set in series_sets.items()
    }


def _check_targets(series_sets: Mapping[str, SeriesSet], splits: Mapping[str, SeriesDataset], task: str | None) -> None:
    """Raise DataError if there is a task, but a split has no targets."""
    if task is None:
        return
    for split, series_set in series_sets.items():
        if splits[split].y is None:
            kind = "labels" if "class" in get_task(task).target_type else "targets"
            raise DataError(f"{series_set.source}: no {kind} in the {split} split, but the training split has them")


def _add_conditioning(
    splits: Mapping[str, SeriesDataset], series_sets: Mapping[str, SeriesSet], config: DataConfig
) -> dict[str, int]:
    """Add the conditioning to the samples of each split, and return its name -> width."""
    if config.test_fraction is not None or config.folds is not None:
        reason = "with --test-fraction or --folds, as its file has a row for each series of a file"
        config.reject(reason, "conditioning")
    conditioning = load_conditioning(config.conditioning, series_sets)
    for name, by_split in conditioning.items():
        for split, inputs in by_split.items():
            splits[split].conditioning[name] = inputs
    return {name: by_split["train"].states.shape[-1] for name, by_split in conditioning.items()}


def _resolve_length(name: str, series_sets: Mapping[str, SeriesSet], length: int | None) -> int:
    longest = max(series_set.x.shape[2] for series_set in series_sets.values())
    if length is not None and length < longest:
        raise DataError(f"--length {length}: {name} has series of {longest} samples; give at least that")
    return length or longest


def _add_validation_split(
    name: str, splits: dict[str, SeriesDataset], series_sets: Mapping[str, SeriesSet], config: DataConfig
) -> tuple[str, str]:
    """Set `splits["val"]`, and remove the series held out for it from `splits["train"]`.

    Returns:
        description of the split, and a note for the user
    """
    train = splits["train"]
    val_fraction = DEFAULT_VAL_FRACTION if config.val_fraction is None else config.val_fraction
    if config.val_data == "test":
        if "test" not in splits:
            raise DataError(f"{name}: --val-data test, but there is no test split; --test-fraction 0.2 holds one out")
        splits["val"] = splits["test"]
        description = "validation is the test split itself"
        note = f"{description}, so test scores are optimistic"
    elif "val" in splits:
        note = description = f"validation from {series_sets['val'].source}"
    elif val_fraction:
        source = series_sets["train"].source
        check_recordings(series_sets["train"], val_fraction)
        train_index, val_index, description = _split_off_validation(train, source, val_fraction, config.split_seed)
        splits["train"], splits["val"] = train.select(train_index), train.select(val_index)
        return description, description
    else:
        splits["val"] = train.select(torch.arange(0))
        description = f"all {len(train)} training series are used for training, none for validation"
        note = f"{description}; --val-fraction {DEFAULT_VAL_FRACTION} holds some out"
    if config.val_fraction:  # 0 holds nothing out, which is so here
        config.reject(f"here: {note}; --val-fraction none unsets it", "val_fraction")
    if config.label_fraction == 1 and config.test_fraction is None and config.folds is None:  # else it has effect
        config.reject(f"here: {note}", "split_seed")
    return description, note


def _subsample_labels(name: str, splits: dict[str, SeriesDataset], config: DataConfig) -> str:
    """Keep a fraction of the series of each class, at least two in training and one in validation; return a note."""
    rng = np.random.default_rng(config.split_seed)
    for split in ("train",) if config.val_data == "test" else ("train", "val"):
        dataset = splits[split]
        if dataset.y is None:
            raise OptionError(f"--label-fraction {config.label_fraction}: {name} has no labels")
        strata, min_per_class = get_strata(dataset.y, len(dataset)), 2 if split == "train" else 1
        kept = subsample_per_class(strata, config.label_fraction, min_per_class, rng)
        splits[split] = dataset.select(torch.from_numpy(kept))
    return f"{config.label_fraction:.0%} of the labels: {len(splits['train'])} series to train on"


def prepare_forecasting(name: str, parts: Mapping[str, SeriesSet | Table], config: DataConfig) -> DataModule:
    """Return a data set of windows over one table, or over each series of a set; or over those of each split.

    The rows of each series are divided in time. The contexts of validation and test windows may contain rows before
    their split; their horizons never do.

    Args:
        name: name of the data set
        parts: "train" and, where they exist, "val" and "test"
        config: the options
    """
    context, horizon = config.context or DEFAULT_WINDOW, config.horizon or DEFAULT_WINDOW
    task = config.task or find_task("future")
    if get_task(task).target_type != "future":
        raise OptionError(f"--task {task}: {name} is a table to forecast; leave --task out, or cut it by --length 128")
    tables = {split: list_tables(part) for split, part in parts.items()}
    train_tables = tables["train"]
    channels = train_tables[0].channels
    for split_tables in tables.values():
        _check_columns(split_tables[0], channels)
    firsts = {split: split_tables[0] for split, split_tables in tables.items()}
    boundaries = [resolve_split_boundaries({**firsts, "train": table}, config) for table in train_tables]
    split_description = boundaries[0][1]
    if (first := train_tables[0].name) is not None:
        split_description = f"{len(train_tables)} series, each divided in time, such as {first}: {split_description}"
    ends = [(0, *end) for end, _ in boundaries]
    train_rows = np.concatenate([table.values[: end[1]] for table, end in zip(train_tables, ends, strict=True)]).T[None]
    offset = compute_offset(train_rows) if config.standardize == "standard" else None
    splits, short_notes = _split_windows(tables, ends, offset, context, horizon, config.stride or 1)
    notes = [split_description, *short_notes]
    if config.val_data == "test":
        splits["val"] = splits["test"]
        split_description = f"{split_description}; validation is the test split itself"
        notes[0] = f"{split_description}, so test scores are optimistic"
    if num_unused := sum(len(table.values) - end[-1] for table, end in zip(train_tables, ends, strict=True)):
        notes.append(f"{num_unused} rows at the end are not used")
    notes = _collect_notes(parts) + _describe_unused_targets(parts["train"]) + notes
    train_values = splits["train"].table[None]
    mean, std = _compute_standardization(train_values, config.standardize)
    notes += describe_far_values(train_values, channels, offset, splits["train"].name_row)
    notes += describe_repeated_extremes(train_values, channels, offset)
    for split in ("val", "test"):
        _reject_overflow(splits[split], mean, std, f"{name}, {split} split")
    return DataModule(
        name=name,
        source=tuple(part.source for part in parts.values()),
        spec=Spec(channels=len(mean), length=context, task=task, horizon=horizon),
        train=splits["train"],
        val=splits["val"],
        test=splits["test"],
        classes=(),
        channels=channels,
        mean=mean,
        std=std,
        notes=notes + describe_offset(train_rows, channels, offset) + _describe_missing(splits),
        split_description=split_description,
        offset=offset,
    )


def _split_windows(
    tables: Mapping[str, Sequence[Table]],
    ends: Sequence[tuple[int, ...]],
    offset: NDArray[np.float64] | None,
    context: int,
    horizon: int,
    stride: int,
) -> tuple[dict[str, WindowDataset], list[str]]:
    """Return the windows of each split, and notes on series that are too short to have one.

    Args:
        tables: "train" and, where they have files of their own, "val" and "test": the series as tables
        ends: of each table of "train" the rows between which the splits lie, from 0
        offset: [C] to subtract from the channels
        context: rows of a window that a model sees
        horizon: rows of a window to forecast
        stride: rows from one window of a table to the next in training and validation; testing uses every window
    """
    splits: dict[str, WindowDataset] = {}
    notes: list[str] = []
    for number, split in enumerate(SPLITS):
        if split in tables and split != "train":
            rows = [(table, 0, len(table.values)) for table in tables[split]]
            source = tables[split][0].source
        else:
            rows = [
                (table, max(end[number] - context, 0), end[number + 1])
                for table, end in zip(tables["train"], ends, strict=True)
            ]
            first = tables["train"][0]
            source = f"{first.source}, {split}"
            start, stop = map(first.count_file_rows, ends[0][number : number + 2])
            source += f" rows {start + 1} to {stop}" * (first.name is None)
        split_stride = 1 if split == "test" else stride
        splits[split], split_notes = _build_windows(rows, source, offset, context, horizon, split_stride)
        notes += split_notes
    return splits, notes


def _build_windows(
    parts: Sequence[tuple[Table, int, int]],
    source: str,
    offset: NDArray[np.float64] | None,
    context: int,
    horizon: int,
    stride: int = 1,
) -> tuple[WindowDataset, list[str]]:
    """Return the windows over rows of tables, and a note if some of these are too short to have one.

    Args:
        parts: each table, and the rows of it from which and up to which windows are taken
        source: of the tables, for messages
        offset: [C] to subtract from the channels
        context: rows of a window that a model sees
        horizon: rows of a window to forecast
        stride: rows from one window of a table to the next

    Raises:
        DataError: all tables are too short
    """
    sizes = [stop - start for _, start, stop in parts]
    if (longest := max(sizes)) < context + horizon:
        raise DataError(
            f"{source}: --context {context} and --horizon {horizon} take {context + horizon} rows, and there are "
            f"{longest}{' in the longest series' * (len(parts) > 1)}, counting the rows before the split that may "
            "serve as context; reduce one of them"
        )
    values = np.concatenate([table.values[start:stop] for table, start, stop in parts]).T
    segments = [
        Segment(
            stop - start,
            start,
            None if table.times is None else table.times[start:stop],
            table.name,
            None if table.file_rows is None else table.file_rows[start:stop],
        )
        for table, start, stop in parts
    ]
    notes = []
    if short := [segment for segment in segments if segment.num_rows < context + horizon]:
        names = ", ".join(str(segment.name) for segment in short[:3]) + ", ..." * (len(short) > 3)
        notes.append(
            f"{source}: {len(short)} of {len(segments)} series are left out, as they have fewer rows than "
            f"{'a context' if not horizon else 'a context and a horizon'}, {context + horizon}: {names}"
        )
    table = torch.from_numpy(np.ascontiguousarray(subtract_offset(values, offset)))
    return WindowDataset(table, context, horizon, stride, segments=segments), notes


def _describe_unused_targets(data: SeriesSet | Table) -> list[str]:
    """Return a note if series to forecast have labels or other targets."""
    has_targets = isinstance(data, SeriesSet) and (data.y is not None or data.targets is not None)
    return ["the series are forecast, so their labels and targets are not used"] * has_targets


def prepare_split(data: SeriesSet | Table, input_schema: dict[str, Any], include_targets: bool) -> Split:
    """Return data as a trained model expects them.

    Args:
        data: what a reader returned
        input_schema: from `DataModule.input_schema`; with "any_length" series may be longer than in training
        include_targets: of a table or series to forecast, keep the rows to forecast as targets
    """
    task = input_schema["task"]
    offset = None if input_schema.get("offset") is None else np.array(input_schema["offset"])
    if input_schema["horizon"] is not None:
        tables = list_tables(data)
        _check_columns(tables[0], tuple(input_schema["channels"]))
        rows = [(table, 0, len(table.values)) for table in tables]
        context, horizon = input_schema["length"], input_schema["horizon"] if include_targets else 0
        if not include_targets and (longest := max(stop for _, _, stop in rows)) < context:
            raise DataError(
                f"{data.source}: {longest} rows{' in the longest series' * (len(rows) > 1)}, and the run forecasts "
                f"from the last {context}; give that many"
            )
        windows, notes = _build_windows(rows, data.source, offset, context, horizon)
        for note in notes:
            warn_user(note, DataNoteWarning)
        return windows
    if isinstance(data, Table):
        raise DataError(f"{data.source}: this is a table, but the model was trained on series")
    channels = tuple(input_schema["channels"])
    if input_schema.get("split_channels"):  # the model takes any channels
        channels = data.channels or _number_channels(data.x.shape[1])
        offset = compute_offset(data.x)
    names = tuple(input_schema["classes"] or input_schema["target_names"])
    if task is not None and get_task(task).target_type == "sample-class":
        if data.x.shape[2] > input_schema["length"]:
            data = cut_recordings(data, input_schema["length"], input_schema["length"])
        input_schema = {**input_schema, "any_length": False}
    if input_schema.get("label_separator") is not None:
        data = split_label_cells(data, input_schema["label_separator"], names)
    return _build_series_dataset(
        data,
        channels,
        None if task is None else get_task(task).target_type,
        names,
        None if input_schema.get("any_length") else input_schema["length"],
        offset,
    )


def _describe_label_leaks(dataset: SeriesDataset) -> list[str]:
    """Return a note for each conditioning that gives the labels away."""
    return [
        f"--conditioning {name}: leaks the labels: samples with equal conditioning have equal labels, so "
        "scores of a model that uses it mean little"
        for name in dataset.conditioning
        if _leaks_labels(dataset, name)
    ]


def _describe_overlap(train: SeriesSet, test: SeriesSet | None, config: DataConfig) -> list[str]:
    """Return a note if test series or groups are trained on."""
    if test is None:
        return []
    if config.train_data == "test":
        return ["training series are the test series, without labels: transductive"]
    shared = set(train.groups or ()) & set(test.groups or ())
    count = "1 group occurs" if len(shared) == 1 else f"{len(shared)} groups occur"
    return [f"{count} both in training and in test, so test scores are optimistic"] * bool(shared)


def _leaks_labels(dataset: SeriesDataset, name: str) -> bool:
    """Return whether samples with equal conditioning have equal labels, if most samples share theirs with another."""
    if dataset.y is None:
        return False
    content = dataset.conditioning[name].content_ids()
    is_shared = torch.bincount(content)[content] > 1
    if 2 * is_shared.sum() < len(content):
        return False
    shared = content[is_shared].tolist()
    labels = [tuple(row) for row in dataset.y[is_shared].reshape(len(shared), -1).tolist()]
    return len(set(zip(shared, labels, strict=True))) == len(set(shared))


def _number_channels(count: int) -> tuple[str, ...]:
    return tuple(str(i) for i in range(count))


def _check_columns(table: Table, channels: tuple[str, ...]) -> None:
    if table.channels != channels:
        raise DataError(f"{table.source}: columns {', '.join(table.channels)}; expected {', '.join(channels)}")


def _compute_standardization(x: Tensor | LazyArray, standardize: str) -> tuple[Tensor, Tensor]:
    return compute_mean_std(x) if standardize == "standard" else (torch.zeros(x.shape[1]), torch.ones(x.shape[1]))


def _reject_overflow(split: SeriesDataset | WindowDataset, mean: Tensor, std: Tensor, source: str) -> None:
    x, start = split.table[None] if isinstance(split, WindowDataset) else split.x, 0
    for chunk in map(torch.as_tensor, iter_chunks(x)):
        rows = find_overflow(chunk, mean[:, None], std[:, None]).nonzero().flatten().tolist()
        if rows:
            place = "a row" if isinstance(split, WindowDataset) else name_series(split, start + rows[0])
            raise DataError(
                f"{source}: {place} holds a sample of {float(chunk[rows[0]].abs().nan_to_num().max()):.3g}, too large "
                "for float32 beside the training data; fix, rescale or remove it"
            )
        start += len(chunk)


def _build_series_dataset(
    series_set: SeriesSet,
    channels: tuple[str, ...],
    target_type: TargetType | None,
    names: tuple[str, ...],
    length: int | None,
    offset: NDArray[np.float64] | None,
) -> SeriesDataset:
    """Check series against the channels, targets and maximum length of training, and encode their targets.

    Args:
        series_set: the series
        channels: names of the channels in training
        target_type: that of the task; None if targets do not matter
        names: names of the classes, labels or numbers in training
        length: maximum number of samples; None means any
        offset: [C] to subtract from the channels
    """
    source = series_set.source
    if series_set.x.shape[1] != len(channels):
        raise DataError(
            f"{source}: {series_set.x.shape[1]} channels; training has {len(channels)}: {', '.join(channels)}"
        )
    if series_set.channels != channels and sorted(series_set.channels) == sorted(channels):
        raise DataError(f"{source}: channels in another order than in training: {', '.join(channels)}")
    x = subtract_offset(series_set.x, offset)
    dataset = SeriesDataset(
        x if isinstance(x, LazyArray) else torch.from_numpy(x),
        groups=series_set.groups,
        ids=series_set.ids,
        rows=None if series_set.rows is None else torch.from_numpy(series_set.rows),
        has_class_per_sample=target_type == "sample-class",
        recordings=None if series_set.recordings is None else torch.from_numpy(series_set.recordings),
    )
    if length is not None and (longest := int(dataset.lengths.max())) > length:
        name = name_series(dataset, int(dataset.lengths.argmax()))
        raise DataError(f"{source}: {name} has {longest} samples; the model takes {length}")
    if target_type is not None:
        dataset.y = encode_targets(series_set, target_type, names)
    return dataset


def _split_off_validation(
    dataset: SeriesDataset, source: str, val_fraction: float, seed: int
) -> tuple[Tensor, Tensor, str]:
    """Return the indices of the training and of the validation series, and how they were chosen."""
    y = get_strata(dataset.y, len(dataset))
    if dataset.groups is not None and (num_groups := len(set(dataset.groups))) > 1:
        train, val = group_split(y, dataset.groups, val_fraction, seed)
        num_val_groups = len({dataset.groups[i] for i in val.tolist()})
        description = (
            f"validation: {num_val_groups} of {num_groups} groups ({len(val)} of {len(dataset)} series) "
            "held out from the training split"
        )
    else:
        train, val = stratified_split(y, val_fraction, seed)
        how = ", stratified by class" if dataset.y is None or dataset.y.ndim == 1 else " at random"
        description = f"validation: {len(val)} of {len(dataset)} series held out from the training split{how}"
        if dataset.groups is not None:
            description += f", of the group of those to train on, {dataset.groups[0]!r}"
    if not len(val):
        raise DataError(
            f"{source}: {len(dataset)} series are too few to hold some out for validation; give --val-data FILE"
        )
    return torch.from_numpy(train), torch.from_numpy(val), description


def _describe_missing(splits: Mapping[str, Split]) -> list[str]:
    """Return a note for each split with missing values."""
    counts = {name: count_missing(split) for name, split in splits.items()}
    return [f"{count} missing values in {name}" for name, count in counts.items() if count]


def _describe_degenerate(train: SeriesDataset, classes: tuple[str, ...], channels: tuple[str, ...]) -> list[str]:
    """Return a note for each way in which there is nothing to learn from training series."""
    notes = []
    if len(classes) == 1:
        notes.append(f"all training series are of class {classes[0]}, so any model scores 1.0 on it and learns nothing")
    if len(train) == 1:
        notes.append("the training split has one series, so a model can only memorize it")
    minimum, maximum, num_constant = describe_variation(train)
    for name, low, high in zip(channels, minimum.tolist(), maximum.tolist(), strict=True):
        if low > high:
            notes.append(f"channel {name} has no sample in training; remove it")
        elif low == high:
            notes.append(f"channel {name} is constant in training, {low:.6g} everywhere; remove it")
    if num_constant > 0 and (minimum < maximum).any():
        notes.append(f"{num_constant} of {len(train)} training series are constant in every channel")
    return notes


def _describe_absent_classes(splits: Mapping[str, SeriesDataset], classes: tuple[str, ...]) -> list[str]:
    """Return a note for each split that lacks classes."""
    notes = []
    for split, dataset in splits.items():
        if not len(dataset):
            continue
        if dataset.y is not None and dataset.has_class_per_sample:
            present = set(dataset.y.unique().tolist())
        elif dataset.y is not None and dataset.y.ndim == 2:
            present = set((dataset.y == 1).any(0).nonzero().flatten().tolist())
        else:
            present = set() if dataset.y is None else set(dataset.y.tolist())
        if absent := [name for i, name in enumerate(classes) if i not in present]:
            what = "sample" if dataset.has_class_per_sample else "series"
            notes.append(f"no {what} of class {', '.join(absent)} in {split}")
    return notes
