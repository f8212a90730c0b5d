"""`load` turns a name or a path into a `DataModule`.

The command line reads the options from the signature of `load`, so this module imports nothing heavy.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tstk.data.catalog import DEFAULT_VAL_FRACTION, SYNTHETIC, DatasetFiles, get_reader, locate
from tstk.data.options import check_at_least, reject_options
from tstk.errors import DataError, OptionError

if TYPE_CHECKING:
    from tstk.core.types import Split
    from tstk.data.containers import SeriesSet, Table
    from tstk.data.data_module import DataModule


def load(
    name_or_path: str = "har-demo",
    *,
    data_root: str | None = None,
    train_data: str | None = None,
    val_data: str | None = None,
    test_data: str | None = None,
    val_fraction: float | None = None,
    split_seed: int = 0,
    label_fraction: float = 1.0,
    label_column: str | None = None,
    context: int | None = None,
    horizon: int | None = None,
    stride: int | None = None,
    length: int | None = None,
    resize: int | None = None,
    split_channels: bool = False,
    conditioning: tuple[str, ...] = (),
    standardize: Literal["standard", "none"] = "standard",
    synthetic_count: int | None = None,
    synthetic_channels: int | None = None,
    synthetic_kernels: int | None = None,
    synthetic_seed: int | None = None,
) -> DataModule:
    """Read a data set, split it, and compute the statistics that standardize it.

    Args:
        name_or_path: a name (`tstk data list` shows them), a file of a supported format, or a folder; several,
            separated by commas, are trained on together, each channel as an unlabelled series of its own
        data_root: folder to search for data sets by name; the variable TSTK_DATA if not given
        train_data: name or path of the training data, if not the training split of the data set; "test" trains on the
            test split without its labels, as some papers pretrain, and validates on the training split
        val_data: name or path of the validation data; "test" validates on the test split, as some papers do
        test_data: name or path of the test data, if they are not beside the training data
        val_fraction: fraction of the training split held out for validation, unless there is a validation split; 0
            trains on all series. 0.2 if not given, or 0 for a classifier of few series
        split_seed: random seed of the validation split
        label_fraction: fraction of the labelled training and validation series to keep, per class, to measure how well
            a model does with few labels
        label_column: column (.csv) or array (.npz) that holds the labels, if it has an unusual name
        context: rows of a table that the model sees before it forecasts; 96 if not given
        horizon: rows of a table to forecast; 96 if not given
        stride: rows of a table from one window to the next in training and validation, 1 if not given; neighbouring
            windows are nearly equal, so a larger stride saves time at little cost. Testing uses every window
        length: samples per series that the model must accept, if more than the longest one here; a table or record is
            cut into unlabelled series of this length, one after the other or --stride rows apart
        resize: samples to which each series is resampled by linear interpolation
        split_channels: make each channel of each series a series of its own, without labels
        conditioning: additional inputs per sample, NAME=FILE, such as text=notes.npz (tstk text makes it)
        standardize: "standard" subtracts from each channel its mean over the training split and divides by its standard
            deviation; "none" keeps the values as they are
        synthetic_count: training series that --data synthetic generates; 1,000,000 if not given
        synthetic_channels: channels of each, which are nodes of one causal graph; 1 if not given
        synthetic_kernels: maximum number of Gaussian process kernels that are composed; 4 if not given
        synthetic_seed: random seed of the generator; 0 if not given

    Raises:
        UnknownNameError: no data set has this name
        DataError: the data cannot be read, or a split is missing
        OptionError: an option cannot work with these data
    """
    from tstk.data.concat import concat
    from tstk.data.conditioning import load_conditioning
    from tstk.data.prepare import prepare_forecasting, prepare_series
    from tstk.data.windowing import cut_tables

    generator_options = {
        "count": synthetic_count, "channels": synthetic_channels, "kernels": synthetic_kernels, "seed": synthetic_seed
    }  # fmt: skip
    if name_or_path == SYNTHETIC:
        reject_options(
            f"for --data {SYNTHETIC}",
            train_data=train_data,
            val_data=val_data,
            test_data=test_data,
            label_column=label_column,
            context=context,
            horizon=horizon,
            stride=stride,
            resize=resize,
            conditioning=conditioning or None,
            split_channels=split_channels or None,
            label_fraction=None if label_fraction == 1 else label_fraction,
        )
        return _load_synthetic(length=length, **generator_options)
    for name, value in generator_options.items():
        if value is not None:
            raise OptionError(f"--synthetic-{name} {value} is for --data {SYNTHETIC}, and the data are {name_or_path}")
    if "," in name_or_path:
        reject_options(
            f"for several data sets together: {name_or_path}",
            train_data=train_data,
            val_data=val_data,
            test_data=test_data,
            context=context,
            horizon=horizon,
            conditioning=conditioning or None,
        )
        return _load_several(
            name_or_path,
            data_root=data_root,
            val_fraction=val_fraction,
            split_seed=split_seed,
            label_column=label_column,
            length=length,
            resize=resize,
            standardize=standardize,
        )
    val_fraction = DEFAULT_VAL_FRACTION if val_fraction is None else val_fraction
    if not 0 <= val_fraction < 1:
        raise OptionError(f"--val-fraction {val_fraction}: expected a fraction from 0 to less than 1, such as 0.2")
    if not 0 < label_fraction <= 1:
        raise OptionError(f"--label-fraction {label_fraction}: expected a fraction above 0 and up to 1, such as 0.1")
    dataset_files = locate(name_or_path, data_root)
    name = dataset_files.name
    splits = _override_splits(
        name, _read_files(dataset_files, label_column), train_data, val_data, test_data, data_root, label_column
    )
    tables, series_sets = _separate_kinds(name, splits)
    validate_on_test = val_data == "test"
    if tables and not val_fraction:
        raise OptionError(f"--val-fraction 0 is for sets of series: {name} is a table, which is split by rows")
    if tables and length is not None:
        reject_options(f"here: {name} is a table cut by --length", context=context, horizon=horizon)
        series_sets, tables, stride = cut_tables(tables, length, stride, val_fraction), {}, None
    if tables:
        reject_options(
            f"here: {name} is a table",
            resize=resize,
            conditioning=conditioning or None,
            split_channels=split_channels or None,
            label_fraction=None if label_fraction == 1 else label_fraction,
        )
        return prepare_forecasting(name, tables, context, horizon, stride, val_fraction, validate_on_test, standardize)
    reject_options(f"here: {name} is a set of series", context=context, horizon=horizon, stride=stride)
    if resize is not None:
        check_at_least(2, resize=resize)
        series_sets = {split: series_set.resize(resize) for split, series_set in series_sets.items()}
    data_module = prepare_series(
        name,
        series_sets,
        val_fraction,
        split_seed,
        label_fraction,
        validate_on_test,
        length,
        standardize,
        load_conditioning(conditioning, series_sets) if conditioning else {},
    )
    data_module = replace(data_module, resize=resize)
    return concat([data_module]) if split_channels else data_module


def _load_synthetic(**options: int | None) -> DataModule:
    from tstk.data.synthetic import build_synthetic

    return build_synthetic(**{name: value for name, value in options.items() if value is not None})


def _load_several(names: str, **options: Any) -> DataModule:
    """Load data sets whose names are separated by commas, and concatenate them."""
    from tstk.data.concat import concat

    names_or_paths = [name.strip() for name in names.split(",") if name.strip()]
    if SYNTHETIC in names_or_paths:
        raise OptionError(f"--data {names}: {SYNTHETIC} series are generated, and cannot be joined with other data")
    return concat([load(name_or_path, **options) for name_or_path in names_or_paths])


def load_split(
    name_or_path: str,
    *,
    input_schema: dict[str, Any],
    data_root: str | None = None,
    label_column: str | None = None,
    include_targets: bool = True,
) -> Split:
    """Read data for a trained model; labels are optional.

    Of a data set with several splits this is the test split; of a table, all rows.

    Args:
        name_or_path: a name, file or folder, as for `load`
        input_schema: from `DataModule.input_schema` of the training data
        data_root: folder to search for data sets by name
        label_column: column or array that holds the labels, if it has an unusual name
        include_targets: of a table, keep the rows to forecast as targets; False yields every window of context rows, so
            that the last window ends with the table

    Raises:
        UnknownNameError: no data set has this name
        DataError: the data cannot be read, or do not match the input schema
    """
    from tstk.data.containers import SeriesSet
    from tstk.data.prepare import prepare_split

    data = _read_split(name_or_path, "test", data_root, label_column)
    if input_schema.get("resize") and isinstance(data, SeriesSet):
        data = data.resize(input_schema["resize"])
    return prepare_split(data, input_schema, include_targets)


def read_splits(
    name_or_path: str, data_root: str | None = None, label_column: str | None = None
) -> dict[str, SeriesSet | Table]:
    """Read the files of a data set, without splitting or scaling them further.

    Args:
        name_or_path: a name, file or folder, as for `load`
        data_root: folder to search for data sets by name
        label_column: column or array that holds the labels, if it has an unusual name

    Returns:
        split ("train", "val", "test") -> its data
    """
    return _read_files(locate(name_or_path, data_root), label_column)


def _read_files(dataset_files: DatasetFiles, label_column: str | None) -> dict[str, SeriesSet | Table]:
    """Read all splits of a data set."""
    from tstk.data.containers import Table

    splits: dict[str, SeriesSet | Table] = {}
    for split, path in dataset_files.files.items():
        data = get_reader(path)(path, label_column=label_column)
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
    name: str,
    splits: dict[str, SeriesSet | Table],
    train_data: str | None,
    val_data: str | None,
    test_data: str | None,
    data_root: str | None,
    label_column: str | None,
) -> dict[str, SeriesSet | Table]:
    """Replace the splits that --train-data, --val-data and --test-data name."""
    if train_data == "test":
        splits = _use_test_for_training(name, splits)
        train_data = None
    if val_data == "test":
        val_data = None
    for split, name_or_path in (("train", train_data), ("val", val_data), ("test", test_data)):
        if name_or_path is not None:
            splits[split] = _read_split(name_or_path, split, data_root, label_column)
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
        split: replace(data, y=None, classes=()) for split, data in splits.items() if isinstance(data, SeriesSet)
    }
    if "test" not in unlabelled:
        raise DataError(f"{name}: --train-data test, but there is no test split of series")
    test = unlabelled["test"]
    return {"train": test, "val": unlabelled.get("train", test), "test": test}


def _read_split(name_or_path: str, split: str, data_root: str | None, label_column: str | None) -> SeriesSet | Table:
    """Read one split: this one where there are several, else the only one."""
    path = Path(name_or_path).expanduser()
    if path.is_file():
        splits = _read_files(DatasetFiles(path.stem, {split: path}), label_column)
    else:
        splits = _read_files(locate(name_or_path, data_root), label_column)
    if split in splits:
        return splits[split]
    if len(splits) == 1:
        return next(iter(splits.values()))
    raise DataError(f"{name_or_path}: holds {' and '.join(splits)}, but no {split} split; give the file to use")
