"""The series of any length that `impute` and `detect` work on: those of a set, or a table as one long series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tstk.config.records import RunConfig
from tstk.core.pipeline import Pipeline
from tstk.core.repr import ShortRepr
from tstk.core.windows import count_samples
from tstk.data.catalog import SYNTHETIC, TEXT_SUFFIXES
from tstk.data.columns import ColumnRoles, Reader
from tstk.data.config import DataConfig
from tstk.data.containers import SeriesSet, Table, list_tables
from tstk.data.data_module import compute_mean_std
from tstk.data.identity import locate_run_data
from tstk.data.lazy_array import LazyArray, iter_chunks
from tstk.data.load import read_run_splits, read_splits, warn_of_other_step
from tstk.data.precision import compute_offset, subtract_offset
from tstk.data.scale import describe_other_scale
from tstk.data.windowing import resolve_split_boundaries
from tstk.errors import DataChangedWarning, DataError, DataNoteWarning, OptionError, warn_user
from tstk.inference.identity import Arrays, identify_series
from tstk.plugins.registry import get_registry

SplitName = Literal["all", "train", "test"]


@dataclass(repr=False)
class Recordings(ShortRepr):
    """Series as their file has them, and as a pipeline takes them.

    Args:
        values: [N, C, T] samples in the units of the data, NaN where missing; N is 1 for a table
        x: [N, C, T] float32, the values less the offset of the data
        ends: [N] long, samples of each series: up to the last observed one, or all rows of a table
        channels: C names
        source: the file, for messages
        is_table: whether the series are the columns of a table
        dates: [T] texts, the times of the rows of a table as it writes them, if it has them
        first_row: row of the table at which the series begins
        num_rows: of the file of which the table is a part, or whose rows are the samples; None if unknown
        file_rows: of each series, the row of its file that each sample is, and -1 for those that --regularize inserted;
            None if no series is spread over rows
        rows: [N] place of each series in its file, from 0; in order if None
        ids: N names of the series, if the file has them
        groups: N names, such as persons or devices, if the file has them
        targets: the labels or numbers of the series as arrays of an archive, by name
        statistics: mean, standard deviation and offset [C] of the channels, where a run takes any channels
        reader: `use` and options of the reader that was selected; None for that of the suffix
    """

    values: NDArray[Any]
    x: Tensor
    ends: Tensor
    channels: tuple[str, ...]
    source: str
    is_table: bool
    dates: NDArray[Any] | None = None
    first_row: int = 0
    num_rows: int | None = None
    file_rows: list[NDArray[np.int64]] | None = None
    rows: NDArray[np.int64] | None = None
    ids: list[str] | None = None
    groups: list[str] | None = None
    targets: Arrays = field(default_factory=dict)
    statistics: tuple[Tensor, Tensor, Tensor | None] | None = None
    reader: Mapping[str, Any] | None = None

    def __len__(self) -> int:
        """Return the number of series."""
        return len(self.values)

    @property
    def csv_options(self) -> Mapping[str, Any] | None:
        """Options of the reader `csv` that reads the file; None if another one does."""
        path = Path(self.source)
        if not path.is_file() or path.suffix.lower() not in TEXT_SUFFIXES:
            return None
        if self.reader is not None and get_registry().find("reader", self.reader["use"]).name == "csv":
            return {name: value for name, value in self.reader.items() if name != "use"}
        return {} if path.suffix.lower() == ".csv" else None

    @property
    def positions(self) -> list[NDArray[np.int64]] | None:
        """Where in each series the samples of the file are, if --regularize inserted others; None if it did not."""
        if self.file_rows is None or all((rows >= 0).all() for rows in self.file_rows):
            return None
        return [np.flatnonzero(rows >= 0) for rows in self.file_rows]

    def drop_inserted(self) -> Recordings:
        """Return the series without the samples that --regularize inserted, so as their file has them."""
        if (positions := self.positions) is None:
            return self
        assert self.file_rows is not None
        file_rows = [rows[places] for rows, places in zip(self.file_rows, positions, strict=True)]
        ends = [int((places < end).sum()) for places, end in zip(positions, self.ends.tolist(), strict=True)]
        return replace(
            self,
            values=select_samples(self.values, positions),
            x=torch.from_numpy(select_samples(self.x.numpy(), positions)),
            ends=torch.tensor(ends),
            dates=None if self.dates is None else self.dates[positions[0]],
            file_rows=file_rows,
        )

    def set_channels(self, pipeline: Pipeline) -> None:
        """Set the channels of a pipeline that takes any to those of the series."""
        if self.statistics is not None:
            pipeline.set_channels(*self.statistics)

    def identify(self) -> Arrays:
        """Return "row", "id" and "group" of the series as from `identify_series`; of a table nothing."""
        return {} if self.is_table else identify_series(self)


def select_samples(array: NDArray[Any], positions: Sequence[NDArray[np.int64]]) -> NDArray[Any]:
    """Return the samples of series [N, ..., T] at the positions [M_i] of each; NaN beyond the last of a series."""
    selected = np.full((*array.shape[:-1], max(map(len, positions))), np.nan, array.dtype)
    for row, series, places in zip(selected, array, positions, strict=True):
        row[..., : len(places)] = series[..., places]
    return selected


def spread_samples(array: NDArray[Any], positions: Sequence[NDArray[np.int64]]) -> NDArray[Any]:
    """Return the inverse of `select_samples`: NaN where no sample was selected."""
    spread = np.full((*array.shape[:-1], max(int(places[-1]) for places in positions) + 1), np.nan, array.dtype)
    for row, series, places in zip(spread, array, positions, strict=True):
        row[..., places] = series[..., : len(places)]
    return spread


def load_recordings(
    pipeline: Pipeline,
    run_config: RunConfig,
    data: str | None = None,
    *,
    data_root: str | None = None,
    reader: Reader | None = None,
    split: SplitName = "all",
) -> Recordings:
    """Read the series of a file, or those of a run, for a pipeline.

    Args:
        pipeline: that of the run; the channels of a run with `--split-channels` are set to those of the data
        run_config: config of the run
        data: name or path; the data of the run if None
        data_root: folder to look up data sets by name in
        reader: of these data, as of `predict`
        split: of the data of the run: all rows of its table, or those to train or test on; of sets of series, the
            training split, or the test split otherwise

    Raises:
        DataError: the data cannot be read, or their channels are not those of the run
    """
    if run_config.input_schema.get("resize"):
        raise OptionError(
            f"the series of this run were resampled to {run_config.input_schema['resize']} samples, so its predictions "
            "are not samples of the data; train one without --resize"
        )
    roles, regularize = get_data_options(run_config, data, reader=reader)
    num_rows = None
    if data is None:
        container, first_row, num_rows = _read_split(run_config, data_root, split)
    else:
        splits = read_splits(data, data_root, roles, regularize=regularize)
        container, first_row = splits.get("test", next(iter(splits.values()))), 0
        num_rows = _count_rows(container)
    recordings = build_recordings(pipeline, container, run_config.input_schema, first_row)
    recordings.reader, recordings.num_rows = roles.reader, num_rows
    if data is not None:
        if isinstance(container, Table) and container.note:
            warn_user(container.note, DataNoteWarning)
        warn_of_other_step(container, run_config.input_schema)
    if data is not None and not run_config.split_channels:
        warn_of_other_scale(pipeline, run_config, recordings.x, data)
    return recordings


def get_data_options(
    run_config: RunConfig, data: str | None, label_column: str | None = None, reader: Reader | None = None
) -> tuple[ColumnRoles, bool]:
    """Return the roles of columns for other data than those of the run, and whether missing rows are inserted.

    Raises:
        OptionError: there is a reader, but no other data
    """
    config, table = DataConfig(**run_config.options("data")), DataConfig(reader=reader).roles.reader
    if table is not None and data is None:
        raise OptionError(
            f"--reader {table['use']} is for other data (--data): those of the run are read as in training"
        )
    return config.roles.for_other_data(label_column, table), config.regularize


def warn_of_other_scale(pipeline: Pipeline, run_config: RunConfig, x: Tensor | LazyArray, name: str) -> None:
    """Warn if samples have another level or scale than those that the run standardizes by.

    Args:
        pipeline: that of the run
        run_config: config of the run
        x: [N, C, T] samples, less the offset of the run
        name: of the data, for the message
    """
    if run_config.options("data")["standardize"] == "none":  # then the run has no statistics
        return
    mean, std = pipeline.mean[:, 0].cpu(), pipeline.std[:, 0].cpu()
    offset = None if pipeline.offset is None else pipeline.offset.numpy()
    if difference := describe_other_scale(x, run_config.channels, mean, std, offset):
        note = f"{name}: {difference} of {run_config.run_dir}; if the units differ, convert the data"
        warn_user(note, DataChangedWarning)


def build_recordings(
    pipeline: Pipeline, container: SeriesSet | Table, input_schema: dict[str, Any], first_row: int = 0
) -> Recordings:
    """Return what a reader returned as recordings, with the offset and in the channels of the training data.

    Args:
        pipeline: that of the run
        container: the series or the table
        input_schema: from `DataModule.input_schema`
        first_row: row of the table at which it was cut
    """
    is_table, expected = isinstance(container, Table), tuple(input_schema["channels"])
    splits_channels = bool(input_schema.get("split_channels"))
    if isinstance(container, Table):
        if not splits_channels:
            container = _select_columns(container, expected)
        values, channels, times = np.asarray(container.values.T[None]), container.channels, container.times
    else:
        values, channels, times = np.concatenate(list(iter_chunks(container.x))), container.channels, None
        if not splits_channels and values.shape[1] != len(expected):
            raise DataError(
                f"{container.source}: {values.shape[1]} channels; training has {len(expected)}: {', '.join(expected)}"
            )
        if not splits_channels and channels and channels != expected and sorted(channels) == sorted(expected):
            raise DataError(f"{container.source}: channels in another order than in training: {', '.join(expected)}")
        channels = expected if not splits_channels else channels or tuple(map(str, range(values.shape[1])))
    if splits_channels:
        offset = compute_offset(values)
    else:
        offset = None if input_schema.get("offset") is None else np.array(input_schema["offset"])
    x = torch.from_numpy(np.ascontiguousarray(subtract_offset(values, offset)))
    ends = torch.full((1,), x.shape[2]) if is_table else count_samples(x)
    dates = None if times is None else np.array(times.write())
    file_rows = container.file_rows if isinstance(container, SeriesSet) else None
    if isinstance(container, Table) and container.file_rows is not None:
        file_rows = [container.file_rows]
        if not (in_file := container.file_rows[container.file_rows >= 0]).size:
            raise DataError(f"{container.source}: --regularize inserted all of these rows; give other data with --data")
        first_row = int(in_file[0])
    recordings = Recordings(
        values, x, ends, channels, container.source, is_table, dates, first_row, file_rows=file_rows
    )
    if splits_channels:
        level = None if offset is None else torch.from_numpy(offset)
        recordings.statistics = (*compute_mean_std(x), level)
        recordings.set_channels(pipeline)
    if isinstance(container, Table):
        return recordings
    return replace(
        recordings,
        rows=container.rows,
        ids=container.ids,
        groups=container.groups,
        targets=_collect_targets(container),
    )


def _collect_targets(series: SeriesSet) -> Arrays:
    """Return the labels and the numbers to predict as arrays of an archive, by the names that its reader knows."""
    arrays: Arrays = {} if series.y is None else {"y": np.array(series.y)}
    if series.targets is not None:
        arrays["targets"] = series.targets
        if series.target_names:
            arrays["target_names"] = np.array(series.target_names)
    return arrays


def _count_rows(container: SeriesSet | Table) -> int | None:
    """Return the rows of a file that was read whole; None of series that are not spread over rows of one."""
    if isinstance(container, Table):
        return container.count_file_rows(len(container.values))
    return None if container.file_rows is None else int(max(rows.max() for rows in container.file_rows)) + 1


def _read_split(
    run_config: RunConfig, data_root: str | None, split: SplitName
) -> tuple[SeriesSet | Table, int, int | None]:
    """Return a part of the data that a run was trained on, the row at which it begins, and the rows of a table."""
    options = locate_run_data(run_config, data_root)
    name, config = options.pop("use"), DataConfig(**options)
    if "," in name or name == SYNTHETIC:
        raise DataError(f"{name}: the data of this run are not those of one file; give other data with --data")
    splits = read_run_splits(name, config)
    if split == "test" and "test" in splits:
        test = splits["test"]
        return test, 0, _count_rows(test) if isinstance(test, Table) else None
    container = splits.get("test", next(iter(splits.values()))) if split == "all" else next(iter(splits.values()))
    num_rows = _count_rows(container) if isinstance(container, Table) else None
    if split == "all":
        return container, 0, num_rows
    if not isinstance(container, Table):
        if config.is_forecasting and split == "train":
            return _select_train_rows(splits, config), 0, None
        if config.is_forecasting:
            raise DataError(
                f"{name}: each series of this run is divided in time, so none is of its {split} split; give other data "
                "with --data"
            )
        if split == "test":
            raise DataError(f"{name}: the data of the run have no test split; give other data with --data")
        return splits.get("train", container), 0, None
    tables = {name: table for name, table in splits.items() if isinstance(table, Table)}
    ends, _ = resolve_split_boundaries(tables, config)
    start, stop = (0, ends[0]) if split == "train" else (ends[1], ends[2])
    return container.select_rows(start, stop), start, num_rows


def _select_train_rows(splits: Mapping[str, SeriesSet | Table], config: DataConfig) -> SeriesSet:
    """Return the series of a set, each up to the row at which its training ends; those that have none are left out."""
    series_set = splits["train"]
    assert isinstance(series_set, SeriesSet)
    firsts = {split: list_tables(data)[0] for split, data in splits.items()}
    ends = [resolve_split_boundaries({**firsts, "train": t}, config)[0][0] for t in list_tables(series_set)]
    is_train = np.arange(series_set.x.shape[2]) < np.array(ends)[:, None]
    x = np.where(is_train[:, None], np.asarray(series_set.x), np.nan)
    kept = np.flatnonzero(~np.isnan(x).all((1, 2)))
    return replace(series_set.select(kept), x=x[kept], times=None, file_rows=None)


def _select_columns(table: Table, channels: tuple[str, ...]) -> Table:
    """Return a table with the columns that the run was trained on, in their order."""
    if lacking := [name for name in channels if name not in table.channels]:
        raise DataError(
            f"{table.source}: no column {', '.join(map(repr, lacking))}; it has {', '.join(table.channels)}, and the "
            f"run was trained on {', '.join(channels)}"
        )
    if table.channels == channels:
        return table
    columns = [table.channels.index(name) for name in channels]
    return replace(table, values=table.values[:, columns], channels=channels)
