"""What a figure is drawn from: a pipeline and a split of series, opened from a run, a pipeline or arrays."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tstk.config.records import RunConfig
from tstk.config.resolve import Config
from tstk.core.frames import is_frame
from tstk.core.pipeline import Pipeline
from tstk.core.prediction import SeriesLike, iter_series, prepare_series
from tstk.core.types import Series, Split
from tstk.data.columns import Reader
from tstk.data.data_module import DataModule
from tstk.data.datasets import Conditioning, SeriesDataset, WindowDataset
from tstk.data.identity import locate_run_data
from tstk.errors import DataError, OptionError, did_you_mean
from tstk.inference.predict import open_run
from tstk.nn.devices import default_device
from tstk.plot.style import SampleAxis, require_matplotlib
from tstk.runs.checkpoint import load
from tstk.training.small_data import read_data

MAX_ROWS = 1000
"""Number of series or windows used at most, so that a figure does not take minutes."""
SPLIT_NAMES = {"train": "training", "val": "validation", "test": "test"}


@dataclass
class PlotData:
    """A pipeline and the series that are drawn.

    Args:
        pipeline: trained
        split: the series
        name: what the split is, such as "test split" or the name of a file
        seed: of masks and noise
    """

    pipeline: Pipeline
    split: Split
    name: str
    seed: int

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels; their numbers if they have none."""
        names, count = self.pipeline.channel_names, self.pipeline.spec.channels
        return names if len(names) == count else tuple(map(str, range(count)))

    def sample_rows(self, max_rows: int = MAX_ROWS) -> Tensor:
        """Return at most `max_rows` evenly spaced row numbers of the split, in ascending order."""
        count = len(self.split)
        return torch.arange(count) if count <= max_rows else torch.linspace(0, count - 1, max_rows).long()

    def batch(self, rows: Tensor | Sequence[int]) -> Series:
        """Return some series of the split, on the device of the pipeline."""
        return self.split.batch(torch.as_tensor(rows)).to(self.pipeline.mean.device)

    def find_sample(self, sample: int | str) -> int:
        """Return the row of a series.

        Args:
            sample: its number in the split, from 0, negative ones from the end; or its id

        Raises:
            OptionError: there is none
        """
        count, ids = len(self.split), self.split.ids
        if isinstance(sample, str):
            if ids is None:
                raise OptionError(f"--id {sample}: series of the {self.name} have no ids; give --sample N, from 0")
            if sample not in ids:
                example = f" Ids are such as {ids[0]!r}." if ids else ""
                raise OptionError(
                    f"--id {sample}: no series of the {self.name} has this id.{did_you_mean(sample, ids)}{example}"
                )
            return ids.index(sample)
        if not -count <= sample < count:
            raise OptionError(f"--sample {sample}: the {self.name} has {count:,} series, from 0 to {count - 1}")
        return sample % count

    def find_channel(self, channel: int | str | None, default: int = 0) -> int:
        """Return the number of a channel, by its name or number.

        Args:
            channel: name, or number from 0, negative from the end; text is a name if there is such a channel; None for
                the default
            default: number of the channel if none is named, negative from the end

        Raises:
            OptionError: there is none
        """
        names = self.channels
        if channel is None:
            return default % len(names)
        if isinstance(channel, str) and channel in names:
            return names.index(channel)
        with suppress(ValueError):
            if -len(names) <= int(channel) < len(names):
                return int(channel) % len(names)
        raise OptionError(
            f"--channel {channel}: the channels are {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}, "
            f"by name or by number from 0 to {len(names) - 1}."
            f"{did_you_mean(str(channel), names)}"
        )

    def get_axis(self, row: int, length: int, *, first: int = 0, label: str = "sample") -> SampleAxis:
        """Return the horizontal axis of a series: its times if it has any, else numbers.

        Args:
            row: of the split
            length: number of samples
            first: number of the first one, where there are no times
            label: where there are no times
        """
        times = self.split.get_times(row, length) if isinstance(self.split, WindowDataset) else None
        return SampleAxis(length, first=first, times=times, label=label)

    def describe(self, row: int) -> str:
        """Return the name of a series: its number, as `find_sample` takes it, its id, and its class if known."""
        split, pipeline = self.split, self.pipeline
        name = f"window {row:,} of {len(split):,}" if isinstance(split, WindowDataset) else f"series {row:,}"
        names = None if isinstance(split, WindowDataset) and split.recordings is None else split.ids
        if names is not None and names[row] != str(row):
            name += f" ({names[row]})"
        is_class = pipeline.classes and split.y is not None and split.y.ndim == 1 and not split.y.is_floating_point()
        if is_class and split.y is not None and split.y[row] >= 0:
            name += f", class {pipeline.classes[int(split.y[row])]}"
        return name


RunLike: TypeAlias = "str | Path | Pipeline | PlotData"
DataLike: TypeAlias = "str | Path | SeriesLike | tuple[SeriesLike, Any]"


def open_data(
    run: RunLike,
    data: DataLike | None = None,
    *,
    split: str | None = None,
    data_root: str | None = None,
    reader: Reader | None = None,
) -> PlotData:
    """Return the pipeline and the series to draw, to make several figures without reading them again.

    Args:
        run: run directory, hf://owner/name, or a pipeline; a `PlotData` is returned as it is
        data: name or path of other data, an array as for `Pipeline.predict`, or a pair of an array and its targets:
            classes [N] by name, or by number from 0 where names are no numbers, -1 if unknown; or futures [N, C, H];
            None for those of the run
        split: train, val or test of the data of the run; if None test, or val if there is no test split
        data_root: folder to look up data sets by name in
        reader: name of the reader of other data, or a table of its name and options

    Raises:
        CheckpointError: the run cannot be loaded
        DataError: the data cannot be read, or do not fit
        OptionError: there is no such split, or options exclude each other
        TstkError: matplotlib is not installed
    """
    require_matplotlib()
    if isinstance(run, PlotData):
        if any(option is not None for option in (data, split, data_root, reader)):
            raise OptionError("the data are opened already; give `data` and `split` to open_data")
        return run
    if reader is not None and not isinstance(data, str | Path):
        raise OptionError("--reader has no effect without other data in a file: --data FILE; remove it")
    if data_root is not None and data is not None and not isinstance(data, str | Path):
        raise OptionError("data_root has no effect with an array; remove it")
    if split is not None and split not in SPLIT_NAMES:
        raise OptionError(f"--split {split}: expected {', '.join(SPLIT_NAMES)}")
    if data is not None and split is not None:
        raise OptionError(f"--split {split} has no effect with other data, which are one split; leave it out")
    if isinstance(data, str | Path):
        if isinstance(run, Pipeline):
            raise OptionError(f"data {str(data)!r} with a pipeline: give the run directory instead, or an array")
        pipeline, part, run_config = open_run(run, str(data), data_root=data_root, reader=reader)
        return PlotData(pipeline, part, str(data), run_config.options("train")["seed"])
    if data is not None:
        pipeline = run if isinstance(run, Pipeline) else load(run).to(default_device())
        return PlotData(pipeline, _make_split(pipeline, data), "data", 0)
    if isinstance(run, Pipeline):
        raise OptionError("a pipeline holds no data; give an array as `data`, or the run directory instead")
    run_config = RunConfig.read(run)
    module = read_data(Config({**run_config.values, "data": locate_run_data(run_config, data_root)}), data_root)
    part, name = choose_split(module, split)
    return PlotData(load(run).to(default_device()), part, name, run_config.options("train")["seed"])


def choose_split(data: DataModule, split: str | None = None) -> tuple[Split, str]:
    """Return a split of a data set and its name; test, or validation if there is no test split, if it is not named.

    Raises:
        OptionError: the data set has no such split
    """
    key = split or ("val" if data.test is None else "test")
    part = {"train": data.train, "val": data.val, "test": data.test}[key]
    if part is None or (split is not None and not len(part)):
        raise OptionError(f"--split {key}: {data.name} has no {SPLIT_NAMES[key]} split in this run")
    return part, f"{SPLIT_NAMES[key]} split"


def _make_split(pipeline: Pipeline, data: Any) -> SeriesDataset:
    """Return arrays, or a pair of an array and its targets, as a split."""
    x, targets = data if isinstance(data, tuple) and len(data) == 2 and not is_frame(data[1]) else (data, None)
    series = prepare_series(x, pipeline)
    for _ in iter_series(series, pipeline, 256):  # refuses series that are missing or infinite
        pass
    samples = series.x.float() if series.observed is None else series.x.float().masked_fill(~series.observed, torch.nan)
    y = None if targets is None else _convert_targets(pipeline, targets)
    if y is not None and len(y) != len(samples):
        raise DataError(f"{len(samples)} series and {len(y)} targets")
    conditioning = {
        name: Conditioning(states, valid, torch.arange(len(states)))
        for name, (states, valid) in series.to("cpu").conditioning.items()
    }
    return SeriesDataset(samples.cpu(), y, conditioning=conditioning)


def _convert_targets(pipeline: Pipeline, targets: Any) -> Tensor:
    """Return targets as in `Series.y`: numbers of classes, or futures less the offset of the data.

    Raises:
        DataError: a class is unknown, or the shape of the futures is not that of the forecasts
    """
    y: NDArray[Any] = np.asarray(targets)
    if pipeline.spec.horizon is not None:
        future = torch.as_tensor(y, dtype=torch.float64)
        future = future[None] if future.ndim == 2 else future
        shape = (pipeline.spec.channels, pipeline.spec.horizon)
        if future.shape[1:] != shape:
            raise DataError(f"the futures have shape {list(y.shape)}; expected [series, {shape[0]}, {shape[1]}]")
        return (future if pipeline.offset is None else future - pipeline.offset[:, None]).float()
    if pipeline.task is None or "class" not in pipeline.task.target_type:
        if y.dtype.kind not in "biuf":
            raise DataError(f"the targets are {y.dtype}, but this pipeline predicts no classes; give numbers, or none")
        return torch.as_tensor(y)
    return torch.as_tensor(_number_classes(y, pipeline.classes)).reshape(y.shape)


def _number_classes(y: NDArray[Any], classes: Sequence[str]) -> list[int]:
    """Return the numbers of classes that are given by name, or by number if no name is a number; -1 is unknown.

    Raises:
        DataError: there is no such class
    """
    names = {name: k for k, name in enumerate(classes)}
    numbers = {-1: -1}
    if not any(name.lstrip("+-").isdigit() for name in classes):
        numbers |= {k: k for k in range(len(classes))}
    result = []
    for place, value in enumerate(y.flatten().tolist()):
        is_whole = isinstance(value, int | float) and value == value and value == int(value)
        number = names.get(str(int(value) if is_whole else value), numbers.get(value))
        if number is None:
            known = f"{', '.join(classes[:12])}{', ...' if len(classes) > 12 else ''}"
            raise DataError(f"target {place} is {value!r}, no class of this pipeline; its classes are {known}")
        result.append(number)
    return result


def get_samples(pipeline: Pipeline, series: Series) -> Tensor:
    """Return the samples [B, C, T] of a batch in the units of the file, NaN where missing.

    They are float64 if an offset was subtracted when they were read.
    """
    return pipeline.add_offset(series.x.masked_fill(~series.observed_mask, torch.nan).cpu())


def find_end(values: Tensor | NDArray[Any]) -> int:
    """Return the number of samples up to the last one that is not NaN, at least 1."""
    observed = np.flatnonzero(~np.isnan(np.asarray(values)))
    return int(observed[-1]) + 1 if len(observed) else 1


def crop_window(window: tuple[int, int] | None, length: int) -> tuple[int, int]:
    """Return the first sample to draw and the one after the last.

    Args:
        window: first and last (exclusive) sample, counted from 0; None for all
        length: samples of the series

    Raises:
        OptionError: there are no such samples
    """
    if window is None:
        return 0, length
    start, stop = window
    if not 0 <= start < min(stop, length):
        raise OptionError(
            f"--window {start}:{stop}: the series has the samples 0:{length}; give two of these, in order"
        )
    return start, min(stop, length)
