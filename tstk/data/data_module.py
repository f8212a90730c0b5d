"""The data set that all other parts of tstk use: `DataModule`, its report and its statistics."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tstk.core.repr import ShortRepr
from tstk.core.types import Spec, Split
from tstk.data.datasets import GeneratedDataset, RepeatDataset, SeriesDataset, WindowDataset
from tstk.data.lazy_array import LazyArray, iter_chunks
from tstk.data.targets import describe_targets
from tstk.data.times import Step


@dataclass(repr=False)
class DataModule(ShortRepr):
    """Training, validation and test data, not scaled, with the statistics that standardize them.

    Args:
        name: name of the data set
        source: the files that were read
        spec: channels, length (of the longest series in any split, or the context), task, number of outputs or horizon
        train: training split
        val: validation split; empty if nothing is held out
        test: test split, if there is one
        classes: names of the classes or labels, in the order of their index
        channels: names of the channels
        mean: [C] float32, of the observed training samples; 0 if values are not standardized
        std: [C] float32, likewise; 1 for a constant channel or if values are not standardized
        notes: remarks for the user, one sentence each
        split_description: how the splits were made, one phrase
        resize: samples to which each series was resampled, or None
        split_channels: each channel is a series of its own, so that a model takes any number of channels
        offset: [C] that was subtracted from the samples because float32 cannot tell them apart without; or None
        val_from_train: the validation series were held out from the training split
        cut_length: rows of the series that a table was cut into, before they were resampled; or None
        target_names: names of the numbers to predict
        label_separator: what was between the labels of a cell, or None
        step: time from one sample to the next, if the files say it: in microseconds, or in the numbers of the file
    """

    name: str
    source: tuple[str, ...]
    spec: Spec
    train: Split
    val: Split
    test: Split | None
    classes: tuple[str, ...]
    channels: tuple[str, ...]
    mean: Tensor
    std: Tensor
    notes: list[str] = field(default_factory=list)
    split_description: str = ""
    resize: int | None = None
    split_channels: bool = False
    offset: NDArray[np.float64] | None = None
    val_from_train: bool = False
    target_names: tuple[str, ...] = ()
    label_separator: str | None = None
    cut_length: int | None = None
    step: Step | None = None

    @property
    def task(self) -> str | None:
        """Name of the task that the data allow; None if they have no targets and allow pretraining only."""
        return self.spec.task

    @property
    def has_classes(self) -> bool:
        """Whether each series has one of several classes."""
        return self.train.y is not None and self.train.y.ndim == 1

    @property
    def training_splits(self) -> list[Split]:
        """The training split as the files define it, including validation series that were held out from it."""
        return [self.train, self.val] if self.val_from_train and len(self.val) else [self.train]

    @property
    def splits(self) -> dict[str, Split]:
        """The splits that are not empty, by name."""
        named = {"train": self.train, "val": self.val, "test": self.test}
        return {name: split for name, split in named.items() if split is not None and len(split)}

    def input_schema(self) -> dict[str, Any]:
        """Return what a checkpoint stores so that `load_split` reads other data in the same way, as JSON types."""
        return {
            "task": self.task,
            "classes": list(self.classes),
            "target_names": list(self.target_names),
            "label_separator": self.label_separator,
            "channels": list(self.channels),
            "length": self.spec.length,
            "horizon": self.spec.horizon,
            "resize": self.resize,
            "cut_length": self.cut_length,
            "split_channels": self.split_channels,
            "offset": None if self.offset is None else self.offset.tolist(),
            "step": None if self.step is None else list(self.step),
        }

    def describe(self) -> dict[str, Any]:
        """Report sizes, lengths, targets, missing values, ranges, splits and duplicates, as JSON types."""
        names = self.classes or self.target_names
        report: dict[str, Any] = {
            "name": self.name,
            "source": list(self.source),
            "task": self.task or "unlabelled",
            "channels": list(self.channels),
            "length": self.spec.length,
            "horizon": self.spec.horizon,
            "split": self.split_description,
            "parts": {name: _describe_split(split, names) for name, split in self.splits.items()},
        }
        if "classes" in report["parts"]["train"]:
            counts = report["parts"]["train"]["classes"].values()
            report["imbalance"] = max(counts) / max(min(counts), 1)
        if isinstance(self.train, SeriesDataset):
            known = np.sort(_hash_series(self.train))
            report["repeated"] = int((known[1:] == known[:-1]).sum())
            if isinstance(self.val, SeriesDataset) and self.val is not self.test:
                known = np.sort(np.concatenate([known, _hash_series(self.val)]))
            if isinstance(self.test, SeriesDataset):
                hashes = _hash_series(self.test)
                report["duplicates"] = int((known[np.searchsorted(known[:-1], hashes)] == hashes).sum())
        report["ranges"] = dict(zip(self.channels, compute_channel_ranges(self.train, self.offset), strict=True))
        return report | {"notes": list(self.notes)}


def _describe_split(split: Split, names: tuple[str, ...]) -> dict[str, Any]:
    lengths = split.lengths
    report: dict[str, Any] = {
        "size": len(split),
        "length": {"min": int(lengths.min()), "median": int(lengths.median()), "max": int(lengths.max())},
        "missing": count_missing(split),
    }
    if split.y is not None:
        per_sample = isinstance(split, SeriesDataset) and split.has_class_per_sample
        report |= describe_targets(split.y, names, per_sample)
    if split.groups is not None:
        report["groups"] = len(set(split.groups))
    return report


def compute_channel_ranges(split: Split, offset: NDArray[np.float64] | None = None) -> list[dict[str, float | None]]:
    """Return minimum, mean and maximum of the observed samples of each channel; None if nothing is observed.

    Of generated series, only the first thousand are used.
    """
    if isinstance(split, GeneratedDataset):
        split = SeriesDataset(split.batch(torch.arange(min(len(split), 1000))).x)
    if isinstance(split, RepeatDataset):
        split = split.dataset
    x = split.table[None] if isinstance(split, WindowDataset) else split.x  # type: ignore[attr-defined]
    channels = x.shape[1]
    minimum, maximum = torch.full((channels,), torch.inf), torch.full((channels,), -torch.inf)
    total, count = torch.zeros(2, channels, dtype=torch.float64)
    for chunk in map(torch.as_tensor, iter_chunks(x)):
        missing = chunk.isnan()
        minimum = torch.minimum(minimum, chunk.masked_fill(missing, torch.inf).amin((0, 2)))
        maximum = torch.maximum(maximum, chunk.masked_fill(missing, -torch.inf).amax((0, 2)))
        total += chunk.double().nansum((0, 2))
        count += (~missing).sum((0, 2))
    level = torch.zeros(channels, dtype=torch.float64) if offset is None else torch.from_numpy(offset)
    columns = (t.tolist() for t in (minimum + level, total / count.clamp(min=1) + level, maximum + level, count))
    return [
        {"min": low, "mean": mean, "max": high} if num_observed else {"min": None, "mean": None, "max": None}
        for low, mean, high, num_observed in zip(*columns, strict=True)
    ]


def count_missing(split: Split) -> int:
    """Count the samples that are missing before the end of their series, over all channels."""
    if isinstance(split, WindowDataset):
        return int(split.table.isnan().sum())
    if isinstance(split, GeneratedDataset):
        return 0
    if isinstance(split, RepeatDataset):
        split = split.dataset
    assert isinstance(split, SeriesDataset)
    count, time = 0, torch.arange(split.x.shape[2])
    for x, lengths in _iter_with_lengths(split):
        count += int((x.isnan() & (time < lengths[:, None])[:, None]).sum())
    return count


def describe_variation(dataset: SeriesDataset) -> tuple[Tensor, Tensor, int]:
    """Return minimum and maximum [C] of each channel, and the number of series that are constant in all of theirs.

    A channel without a sample has minimum inf and maximum -inf.
    """
    minimum, maximum = torch.full((dataset.x.shape[1],), torch.inf), torch.full((dataset.x.shape[1],), -torch.inf)
    num_constant = 0
    for x in map(torch.as_tensor, iter_chunks(dataset.x)):
        missing = x.isnan()
        low, high = x.masked_fill(missing, torch.inf).amin(2), x.masked_fill(missing, -torch.inf).amax(2)
        num_constant += int((low >= high).all(1).sum())
        minimum, maximum = torch.minimum(minimum, low.amin(0)), torch.maximum(maximum, high.amax(0))
    return minimum, maximum, num_constant


def _hash_series(dataset: SeriesDataset) -> NDArray[np.int64]:
    """Return a hash of the samples of each series, to find duplicates."""
    hashes = (
        hash(series[:, :length].tobytes())
        for x, lengths in _iter_with_lengths(dataset)
        for series, length in zip(x.numpy(), lengths.tolist(), strict=True)
    )
    return np.fromiter(hashes, np.int64, len(dataset))


def _iter_with_lengths(dataset: SeriesDataset) -> Iterator[tuple[Tensor, Tensor]]:
    """Iterate over chunks of series [n, C, T] and their lengths [n]."""
    start = 0
    for x in map(torch.as_tensor, iter_chunks(dataset.x)):
        yield x, dataset.lengths[start : start + len(x)]
        start += len(x)


def compute_mean_std(x: Tensor | LazyArray) -> tuple[Tensor, Tensor]:
    """Compute mean and standard deviation of the observed samples of each channel.

    Args:
        x: [N, C, T] samples, NaN where missing

    Returns:
        mean and std, each [C] float32; a channel that is constant or never observed gets std 1
    """
    count, mean, m2 = torch.zeros(3, x.shape[1], dtype=torch.float64)  # m2: sum of squared deviations from the mean
    for chunk in map(torch.as_tensor, iter_chunks(x)):
        chunk_count = (~chunk.isnan()).sum((0, 2)).double()
        total = (count + chunk_count).clamp(min=1)
        chunk = chunk.double()
        chunk_mean = chunk.nansum((0, 2)) / chunk_count.clamp(min=1)
        delta = chunk_mean - mean  # merge the statistics as Chan et al. 1979 do
        m2 += (chunk - chunk_mean[:, None]).square().nansum((0, 2)) + delta.square() * count * chunk_count / total
        mean += delta * chunk_count / total
        count += chunk_count
    std = (m2 / count.clamp(min=1)).sqrt()
    std[std <= 1e-7 * mean.abs()] = 1.0  # at most the rounding error of float32: the channel is constant
    return mean.float(), std.float()
