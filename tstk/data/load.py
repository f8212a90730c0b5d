"""`load_data` turns a name or a path into a `DataModule`. This module imports nothing heavy until it is called."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tstk.data.catalog import SYNTHETIC, DatasetFiles, locate, read_file, split_names
from tstk.data.columns import ColumnRoles
from tstk.data.config import DataConfig
from tstk.errors import DataChangedWarning, DataError, DataNoteWarning, OptionError, warn_user
from tstk.files import check_readable

if TYPE_CHECKING:
    from tstk.core.types import Split
    from tstk.data.containers import SeriesSet, Table
    from tstk.data.data_module import DataModule


def load_data(name_or_path: Any = "har-demo", config: DataConfig = DataConfig()) -> DataModule:
    """Read a data set, split it, and compute the statistics that standardize it.

    Args:
        name_or_path: a name (`tstk data list` shows them), a file of a supported format, or a folder; several,
            separated by commas, are trained on together, each channel as an unlabelled series of its own. Or a data
            frame of pandas or polars, or a pyarrow table, with columns as in a .csv file
        config: the options

    Raises:
        UnknownNameError: no data set has this name
        DataError: the data cannot be read, or a split is missing
        OptionError: an option cannot take effect on these data
    """
    if not isinstance(name_or_path, str | os.PathLike):
        config.reject("for a data frame, which no file is read for", "reader")
        name = "data frame"
        return _prepare(name, _override_splits(name, _read_data_frame(name_or_path, config.roles), config), config)
    name_or_path = os.fspath(name_or_path)
    if name_or_path == SYNTHETIC:
        from tstk.data.synthetic import build_synthetic

        return build_synthetic(config)
    if len(split_names(name_or_path)) > 1:
        return _load_several(name_or_path, config)
    config.reject(
        f"for --data {name_or_path}; it is for --data {SYNTHETIC}",
        "synthetic_count",
        "synthetic_channels",
        "synthetic_kernels",
        "synthetic_seed",
    )
    return _load_one(name_or_path, config)


def _load_one(name_or_path: str, config: DataConfig) -> DataModule:
    dataset_files = locate(name_or_path, config.data_root)
    name = dataset_files.name
    return _prepare(name, _override_splits(name, _read_files(dataset_files, config.roles), config), config)


def _read_data_frame(frame: Any, roles: ColumnRoles, is_for_model: bool = False) -> dict[str, SeriesSet | Table]:
    from tstk.data.frames import read_frame

    data = read_frame(frame, roles, is_for_model=is_for_model)
    return dict(data) if isinstance(data, dict) else {"train": data}


def _prepare(name: str, splits: dict[str, SeriesSet | Table], config: DataConfig) -> DataModule:
    """Split and prepare what was read."""
    from tstk.data.concat import concat
    from tstk.data.prepare import prepare_forecasting, prepare_series
    from tstk.data.regularize import check_split_times, find_median_step
    from tstk.data.windowing import cut_tables

    splits = check_split_times(splits, config.regularize)
    step = None if config.resize else find_median_step(splits["train"])  # resampled series have different steps
    tables, series_sets = _separate_kinds(name, splits)
    if config.split_channels:
        config.reject("with --split-channels, which makes each channel a series without labels", "task")
    if config.has_class_per_sample:
        config.reject("with a class per sample, as series have no other targets", "target_columns")
    is_forecasting = config.length is None if tables else config.is_forecasting
    if (tables or is_forecasting) and config.val_fraction == 0:
        what = "a table, which is split by rows" if tables else "forecast, and each series split by rows"
        raise OptionError(f"--val-fraction 0 is for sets of series without a horizon: {name} is {what}")
    if is_forecasting:
        options = ("label_separator", "resize", "conditioning", "split_channels", "label_fraction", "split_seed")
        targets = ("label_column", "target_columns", "group_column", "length")
        reason = f"here: {name} is a table" if tables else "where each series is forecast and divided in time"
        config.reject(reason, *options, *(() if tables else targets))
        return replace(prepare_forecasting(name, splits, config), step=step)
    _require_labels(series_sets, config.roles, config.label_separator)
    if tables:
        reason = f"here: {name} is a table cut by --length"
        # resampled windows would not follow each other, so their predictions would have no place in the table
        refused = ["resize" if config.has_class_per_sample else "task"]
        config.reject(reason, "context", "horizon", "split_seed", "label_separator", *refused)
        series_sets, cut_length = cut_tables(tables, config), config.length
        # the rows have been split and cut; the model must accept what they were cut and resampled to
        config = replace(
            config,
            val_fraction=None,
            test_fraction=None,
            folds=None,
            fold=None,
            length=config.resize or config.length,
        )
    else:
        stride = ["stride"] * (not config.has_class_per_sample)
        reason = f"here: {name} is a set of series" + f", for --task {config.task}" * (config.task is not None)
        config.reject(reason, "context", "horizon", *stride)
        cut_length = None
    data_module = prepare_series(name, series_sets, config)
    data_module.cut_length, data_module.step = cut_length, step
    return concat([data_module]) if config.split_channels else data_module


def _load_several(names: str, config: DataConfig) -> DataModule:
    """Load data sets whose names are separated by commas, and concatenate them."""
    from tstk.data.concat import concat

    names_or_paths = split_names(names)
    if SYNTHETIC in names_or_paths:
        raise OptionError(f"--data {names}: {SYNTHETIC} series are generated, and cannot be joined with other data")
    config.reject(
        f"for several data sets together, each channel of which is an unlabelled series: {names}",
        "train_data",
        "val_data",
        "test_data",
        "label_fraction",
        "label_separator",
        "task",
        "target_columns",
        "id_column",
        "context",
        "horizon",
        "conditioning",
    )
    own_config = replace(config, split_channels=False)  # `concat` splits them all
    return concat([load_data(name_or_path, own_config) for name_or_path in names_or_paths])


def load_split(
    name_or_path: str,
    *,
    input_schema: dict[str, Any],
    data_root: str | None = None,
    roles: ColumnRoles = ColumnRoles(),
    regularize: bool = False,
    include_targets: bool = True,
) -> Split:
    """Read data for a trained model, see `read_for_model`, and return them as its splits are.

    Args:
        name_or_path: a name, file or folder, as for `load_data`
        input_schema: from `DataModule.input_schema` of the training data
        data_root: folder to search for data sets by name
        roles: of columns or arrays, where names do not tell
        regularize: insert missing rows of a table, as in training
        include_targets: of a table, keep the rows to forecast as targets; False yields every window of context rows, so
            that the last window ends with the table

    Raises:
        UnknownNameError: no data set has this name
        DataError: the data cannot be read, or do not match the input schema
    """
    from tstk.data.prepare import prepare_split

    data = read_for_model(
        name_or_path, input_schema=input_schema, data_root=data_root, roles=roles, regularize=regularize
    )
    return prepare_split(data, input_schema, include_targets)


def read_for_model(
    data_source: Any,
    *,
    input_schema: dict[str, Any],
    data_root: str | None = None,
    roles: ColumnRoles = ColumnRoles(),
    regularize: bool = False,
) -> SeriesSet | Table:
    """Read data for a trained model; labels are optional.

    Of a data set with several splits this is the test split; of a table, all rows.

    Args:
        data_source: a name, file or folder, as for `load_data`, or a data frame
        input_schema: from `DataModule.input_schema` of the training data
        data_root: folder to search for data sets by name
        roles: of columns or arrays, where names do not tell
        regularize: insert missing rows of a table, as in training

    Raises:
        UnknownNameError: no data set has this name
        DataError: the data cannot be read, or do not match the input schema
    """
    from tstk.data.containers import SeriesSet
    from tstk.data.regularize import check_split_times
    from tstk.data.segmentation import cut_recordings, table_to_series
    from tstk.data.targets import match_targets
    from tstk.data.windowing import extract_windows

    if input_schema["task"] is not None and input_schema["horizon"] is None and not roles.label_per_sample:
        roles = replace(roles, model_channels=tuple(input_schema["channels"]))
    if isinstance(data_source, str):
        data = _read_split(data_source, "test", data_root, roles)
    else:
        data = next(iter(_read_data_frame(data_source, roles, is_for_model=True).values()))
    data = check_split_times({"": data}, regularize)[""]
    warn_of_other_step(data, input_schema)
    is_recording = not isinstance(data, SeriesSet) and input_schema["task"] is not None and roles.label_per_sample
    if not isinstance(data, SeriesSet):
        if input_schema["task"] is None:
            length = input_schema.get("cut_length") or input_schema["length"]
            data = extract_windows(data, length, length)
        elif is_recording:
            data = table_to_series(data)
    if isinstance(data, SeriesSet):
        data = match_targets(data, input_schema)
        data = data.resize(input_schema["resize"]) if input_schema.get("resize") else data
        if is_recording:
            data = cut_recordings(data, input_schema["length"], input_schema["length"], 0)
    if data.note:
        warn_user(data.note, DataNoteWarning)
    return data


def warn_of_other_step(data: SeriesSet | Table, input_schema: dict[str, Any]) -> None:
    """Warn if samples follow each other at another step than in training."""
    from tstk.data.regularize import describe_other_step, find_median_step

    if note := describe_other_step(find_median_step(data), input_schema.get("step")):
        warn_user(f"{data.source}: {note}; resample the data to the step of the training data", DataChangedWarning)


def read_splits(
    name_or_path: str,
    data_root: str | None = None,
    roles: ColumnRoles = ColumnRoles(),
    *,
    regularize: bool = False,
) -> dict[str, SeriesSet | Table]:
    """Read the files of a data set, without splitting or scaling them further.

    Args:
        name_or_path: a name, file or folder, as for `load_data`
        data_root: folder to search for data sets by name
        roles: of columns or arrays, where names do not tell
        regularize: insert the rows that are missing; if not, the notes of the data say that some are

    Returns:
        split ("train", "val", "test") -> its data
    """
    from tstk.data.regularize import check_split_times

    splits = _read_files(locate(name_or_path, data_root), roles)
    _require_labels(splits, roles)
    return check_split_times(splits, regularize)


def read_run_splits(name_or_path: str, config: DataConfig) -> dict[str, SeriesSet | Table]:
    """Read the splits of a data set as training takes them: those that the options name or hold out, not scaled.

    Args:
        name_or_path: a name, file or folder, as for `load_data`
        config: the options of the training
    """
    from tstk.data.prepare import split_series
    from tstk.data.regularize import check_split_times

    splits = _read_files(locate(name_or_path, config.data_root), config.roles)
    splits = _override_splits(name_or_path, splits, config)
    splits = check_split_times(splits, config.regularize)
    tables, series_sets = _separate_kinds(name_or_path, splits)
    if tables or config.is_forecasting:
        return splits
    _require_labels(series_sets, config.roles, config.label_separator)
    return dict(split_series(series_sets, config)[0])


def _require_labels(
    splits: dict[str, SeriesSet] | dict[str, SeriesSet | Table], roles: ColumnRoles, label_separator: str | None = None
) -> None:
    """Check that no series lacks its label, unless the data may be without labels."""
    from tstk.data.containers import SeriesSet

    for data in splits.values():
        if isinstance(data, SeriesSet) and "label" not in roles.optional:
            data.require_labels(label_separator)


def _read_files(dataset_files: DatasetFiles, roles: ColumnRoles) -> dict[str, SeriesSet | Table]:
    """Read all splits of a data set."""
    from tstk.data.containers import Table

    splits: dict[str, SeriesSet | Table] = {}
    for split, path in dataset_files.files.items():
        if path.is_file():
            check_readable(path)
        data = read_file(path, roles)
        if isinstance(data, Table):
            splits[split] = data
        elif list(data) in (["train"], [split]):  # a reader does not know which split its file is
            splits[split] = next(iter(data.values()))
        elif len(dataset_files.files) == 1:
            splits.update(data)
        else:
            raise DataError(f"{path}: holds {' and '.join(data)}, although it is named as the {split} split")
    return splits


def _override_splits(
    name: str, splits: dict[str, SeriesSet | Table], config: DataConfig
) -> dict[str, SeriesSet | Table]:
    """Replace the splits that --train-data, --val-data and --test-data name."""
    if config.train_data == "test":
        splits = _use_test_for_training(name, splits)
    own_data = {
        "train": None if config.train_data == "test" else config.train_data,
        "val": None if config.val_data == "test" else config.val_data,
        "test": config.test_data,
    }
    for split, name_or_path in own_data.items():
        if name_or_path is not None:
            splits[split] = _read_split(name_or_path, split, config.data_root, config.roles)
    if "train" not in splits:
        sources = ", ".join(data.source for data in splits.values())
        raise DataError(f"{name}: no training data; there is {sources}, but no file ending in _TRAIN beside it")
    return splits


def _separate_kinds(name: str, splits: dict[str, SeriesSet | Table]) -> tuple[dict[str, Table], dict[str, SeriesSet]]:
    """Return the splits as tables or as sets of series; one of the two is empty."""
    from tstk.data.containers import Table

    tables = {split: data for split, data in splits.items() if isinstance(data, Table)}
    series_sets = {split: data for split, data in splits.items() if not isinstance(data, Table)}
    if tables and series_sets:
        kinds = ", ".join(f"{split} is {'a table' if split in tables else 'a set of series'}" for split in splits)
        raise DataError(f"{name}: the splits do not match: {kinds}")
    return tables, series_sets


def _use_test_for_training(name: str, splits: dict[str, SeriesSet | Table]) -> dict[str, SeriesSet | Table]:
    """Return the test split as training data and the training split as validation data, all without labels."""
    from tstk.data.containers import SeriesSet

    unlabelled = {
        split: replace(data, y=None, classes=(), targets=None, target_names=(), sample_labels=None)
        for split, data in splits.items()
        if isinstance(data, SeriesSet)
    }
    if "test" not in unlabelled:
        raise DataError(f"{name}: --train-data test, but there is no test split of series in the files")
    test = unlabelled["test"]
    return {"train": test, "val": unlabelled.get("train", test), "test": test}


def _read_split(name_or_path: str, split: str, data_root: str | None, roles: ColumnRoles) -> SeriesSet | Table:
    """Read one split: this one where there are several, else the only one."""
    path = Path(name_or_path).expanduser()
    if path.is_file():
        splits = _read_files(DatasetFiles(path.stem, {split: path}), roles)
    else:
        splits = _read_files(locate(name_or_path, data_root), roles)
    if split in splits:
        return splits[split]
    if len(splits) == 1:
        return next(iter(splits.values()))
    raise DataError(f"{name_or_path}: holds {' and '.join(splits)}, but no {split} split; give the file to use")
