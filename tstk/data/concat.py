"""Concatenate data sets for joint training: each channel of each series becomes a series of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from tstk.core.types import Spec
from tstk.data.catalog import SPLITS
from tstk.data.data_module import DataModule
from tstk.data.datasets import RepeatDataset, SeriesDataset
from tstk.data.memory import require_memory
from tstk.errors import DataError


def concat(data_modules: Sequence[DataModule]) -> DataModule:
    """Return one unlabelled data set of one channel.

    In training, the series of smaller sets are repeated until all sets have as many as the largest. Each set is
    standardized by its own statistics and split as it would be alone.

    Raises:
        DataError: a table to forecast is among the sets, a set occurs twice, or one has conditioning
    """
    names = [data.name for data in data_modules]
    if conditioned := [data.name for data in data_modules if data.spec.conditioning]:
        raise DataError(f"{conditioned[0]}: --conditioning belongs to whole series and cannot be split into channels")
    if repeated := [name for name in names if names.count(name) > 1]:
        raise DataError(f"{repeated[0]}: given twice; name each data set once")
    for data in data_modules:
        if data.spec.horizon is not None:
            raise DataError(
                f"{data.name}: a table to forecast, which cannot be joined with others; --length cuts it into series"
            )
    length = max(data.spec.length for data in data_modules)
    channels = {split: [_flatten_channels(data, split, length) for data in data_modules] for split in SPLITS}
    counts = [len(x) for x in channels["train"]]
    train, val, test = (SeriesDataset(torch.cat(series)) for series in channels.values())
    sizes = ", ".join(f"{data.name} {count:,}" for data, count in zip(data_modules, counts, strict=True))
    notes = list(dict.fromkeys(note for data in data_modules for note in data.notes))
    notes.append(f"every channel is a series of its own, without labels: {sizes}")
    if len(data_modules) > 1:
        notes.append(f"series of smaller sets are repeated: each set counts as {max(counts):,}")
    for data in data_modules:
        if data.resize is None and data.spec.length < length:
            notes.append(
                f"{data.name} has {data.spec.length} samples and the longest {length}; --resize makes them equal"
            )
    return DataModule(
        name=",".join(names),
        source=tuple(file for data in data_modules for file in data.source),
        spec=Spec(channels=1, length=length),
        train=RepeatDataset(train, _build_oversampling_indices(counts)),
        val=val,
        test=test if len(test) else None,
        classes=(),
        channels=("any",),
        mean=torch.zeros(1),
        std=torch.ones(1),
        notes=notes,
        split_description="; ".join(f"{data.name}: {data.split_description}" for data in data_modules),
        resize=data_modules[0].resize,
        cut_length=data_modules[0].cut_length,
        split_channels=True,
    )


def _flatten_channels(data_module: DataModule, split: str, length: int) -> Tensor:
    """Return the standardized channels of a split, [N * C, 1, length]; channels without a sample are left out."""
    dataset = data_module.splits.get(split)
    if dataset is None:
        return torch.zeros(0, 1, length)
    assert isinstance(dataset, SeriesDataset)
    num_series, num_channels, num_samples = dataset.x.shape
    require_memory(
        4 * num_series * num_channels * (3 * num_samples + 2 * length),
        f"{data_module.name}: {num_series:,} series of {num_channels:,} channels, padded to {length:,} samples,",
        "give --resize, or train on fewer sets together",
    )
    x = ((torch.as_tensor(dataset.x[:]) - data_module.mean[:, None]) / data_module.std[:, None]).flatten(0, 1)
    x = x[~x.isnan().all(1)]
    return F.pad(x, (0, length - x.shape[1]), value=torch.nan)[:, None]


def _build_oversampling_indices(counts: Sequence[int]) -> Tensor:
    """Return indices into concatenated sets that repeat each set in turn to the size of the largest.

    Args:
        counts: number of series of each set
    """
    largest, indices, start = max(counts), [], 0
    for count in counts:
        indices.append(start + torch.arange(largest) % count)
        start += count
    return torch.cat(indices)
