"""Notes on the scale of data: values far from all others of their channel, and data far from those of a training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tstk.config.records import RunConfig
from tstk.data.data_module import DataModule, compute_mean_std
from tstk.data.lazy_array import LazyArray, iter_chunks
from tstk.data.regularize import describe_other_step
from tstk.runs.checkpoint import read_weights

FAR = 1e6
"""Distance from the median, in interquartile ranges, from which a value counts as far from all others."""

MAX_SCALE_RATIO = 8.0
"""Ratio of standard deviations from which two data sets differ: 9.8 is between g and m/s²."""

MAX_SCALE_RATIO_OF_FEW = 1000.0
"""How many times smaller the standard deviation of few samples must be: those of a person at rest are 260 times."""

FEW_SAMPLES = 10_000
"""Samples of a channel up to which a set may be of one state, such as rest."""

MAX_SHIFT = 4.0
"""Difference of means, in standard deviations of the training data, from which two data sets differ."""

MIN_REPEATS = 3
"""Occurrences from which a value far off may stand for missing samples."""

MIN_LEVELS = 10
"""Different values that a channel must have, which may be a state or a count otherwise."""

_SAMPLE_SIZE = 2**18
"""Values from which quartiles are estimated, over all channels."""


def describe_far_values(
    x: Tensor | LazyArray,
    channels: Sequence[str],
    offset: NDArray[np.float64] | None,
    name_row: Callable[[int], str] | None = None,
) -> list[str]:
    """Return a note for each channel with a value far from all others, which makes mean and deviation useless.

    Args:
        x: [N, C, T] samples, NaN where missing
        channels: C names
        offset: [C] that was subtracted from the samples; None if none was
        name_row: names a row for messages, where x holds those of a table; None if it holds series
    """
    low, median, high = (torch.from_numpy(q)[:, None] for q in _estimate_quartiles(x))
    spread = high - low
    farthest, values, places = torch.zeros(3, len(channels), dtype=torch.float64)
    counts = torch.zeros(len(channels), dtype=torch.long)
    start = 0
    for chunk in map(torch.as_tensor, iter_chunks(x)):
        rows = chunk.transpose(0, 1).flatten(1).double()  # [C, n * T]
        distance = (rows - median).abs().nan_to_num(0.0)
        counts += ((distance > FAR * spread) & (spread > 0)).sum(1)
        nearest, index = distance.max(1)
        is_farther = nearest > farthest
        at = start + (index if name_row else index // chunk.shape[2])
        farthest, places = torch.where(is_farther, nearest, farthest), torch.where(is_farther, at.double(), places)
        values = torch.where(is_farther, rows.gather(1, index[:, None])[:, 0], values)
        start += chunk.shape[2] if name_row else len(chunk)
    level = np.zeros(len(channels)) if offset is None else offset
    names = [name_row(int(i)) if name_row else f"series {int(i) + 1}" for i in places]
    others = [f" (and {count - 1} more values are as far off)" if count > 1 else "" for count in counts.tolist()]
    return [
        f"channel {name}: {names[c]} holds {float(values[c]) + level[c]:.6g}{others[c]}, while half of all values lie "
        f"between {float(low[c]) + level[c]:.6g} and {float(high[c]) + level[c]:.6g}; such values decide mean and "
        "standard deviation; if they are errors, mark them as missing (NaN)"
        for c, name in enumerate(channels)
        if counts[c]
    ]


def describe_repeated_extremes(
    x: Tensor | LazyArray, channels: Sequence[str], offset: NDArray[np.float64] | None
) -> list[str]:
    """Return a note for each channel whose lowest or highest value repeats and is far off, as -999 for missing samples.

    Far off is further from all other values than these are from each other.

    Args:
        x: [N, C, T] samples, NaN where missing
        channels: C names
        offset: [C] that was subtracted from the samples; None if none was
    """
    if isinstance(x, LazyArray):  # too large to be read twice for a note
        return []
    ends = np.array([[np.inf], [-np.inf]]) * np.ones(len(channels))  # lowest and highest [2, C]
    num_levels = np.zeros(len(channels), np.int64)
    for chunk in map(np.asarray, iter_chunks(x)):
        ends = _widen(ends, chunk, np.isfinite(chunk))
        num_levels = np.maximum(
            num_levels, [len(np.unique(chunk[:, c, : 2 * MIN_LEVELS])) for c in range(len(channels))]
        )
    counts, total = np.zeros((2, len(channels)), np.int64), np.zeros(len(channels), np.int64)
    others = np.array([[[np.inf], [-np.inf]]] * 2) * np.ones(len(channels))  # without the lowest, without the highest
    for chunk in map(np.asarray, iter_chunks(x)):
        known = np.isfinite(chunk)
        total += known.sum((0, 2))
        for i, end in enumerate(ends):
            is_end = chunk == end[:, None]
            counts[i] += is_end.sum((0, 2))
            others[i] = _widen(others[i], chunk, known & ~is_end)
    notes = []
    for c, name in enumerate(channels):
        level = 0.0 if offset is None else float(offset[c])
        for i in range(2):
            low, high = others[i, :, c]
            if low > high:  # the channel has no other value, or none
                continue
            gap = low - ends[0, c] if i == 0 else ends[1, c] - high
            is_rare = MIN_REPEATS <= counts[i, c] < total[c] / 2 and num_levels[c] >= MIN_LEVELS
            if is_rare and 0 < high - low < gap < np.inf:
                value = f"{ends[i, c] + level:g}"
                notes.append(
                    f"channel {name}: {value} occurs {counts[i, c]:,} times, and all other values lie between "
                    f"{low + level:.6g} and {high + level:.6g}; if it stands for missing samples, "
                    f"write NaN, or have it read so: --reader csv --reader.missing {value}"
                )
    return notes


def _widen(ends: NDArray[Any], chunk: NDArray[Any], is_used: NDArray[np.bool_]) -> NDArray[Any]:
    """Return the lowest and highest value of each channel [2, C], those of some samples [N, C, T] included."""
    low = np.where(is_used, chunk, np.inf).min((0, 2), initial=np.inf)
    high = np.where(is_used, chunk, -np.inf).max((0, 2), initial=-np.inf)
    return np.stack([np.minimum(ends[0], low), np.maximum(ends[1], high)])


def _estimate_quartiles(x: Tensor | LazyArray) -> list[NDArray[np.float64]]:
    """Estimate the quartiles [C] of each channel from evenly spaced samples, at most `_SAMPLE_SIZE`.

    Of a channel most of whose samples are equal, they are those of the others and the median: it is often at rest.
    """
    num_series, num_channels, length = x.shape
    per_channel = max(_SAMPLE_SIZE // num_channels, 256)
    time_step = -(-length // per_channel)
    rows = np.unique(np.linspace(0, num_series - 1, max(1, per_channel * time_step // length)).astype(np.int64))
    sample = np.asarray(x[rows if isinstance(x, LazyArray) else torch.from_numpy(rows)], np.float64)[..., ::time_step]
    quartiles = np.zeros((3, num_channels))
    for c in range(num_channels):
        values = sample[:, c][~np.isnan(sample[:, c])]
        if not values.size:
            continue
        quartiles[:, c] = np.quantile(values, (0.25, 0.5, 0.75))
        if quartiles[0, c] == quartiles[2, c] and (others := values[values != quartiles[1, c]]).size > 3:
            quartiles[[0, 2], c] = np.quantile(np.append(others, quartiles[1, c]), (0.25, 0.75))
    return list(quartiles)


def describe_other_scale(
    x: Tensor | LazyArray, channels: Sequence[str], mean: Tensor, std: Tensor, offset: NDArray[np.float64] | None = None
) -> str:
    """Return which channels have another level or scale than the training data; an empty string if none has.

    Args:
        x: [N, C, T] samples, NaN where missing
        channels: C names
        mean: [C] of the training data
        std: [C] likewise; a channel that was constant has 1
        offset: [C] that was subtracted from both; None if none was
    """
    own_mean, own_std = compute_mean_std(x)
    max_shrinkage = MAX_SCALE_RATIO_OF_FEW if x.shape[0] * x.shape[2] < FEW_SAMPLES else MAX_SCALE_RATIO
    is_empty = torch.ones(len(channels), dtype=torch.bool)
    for chunk in map(torch.as_tensor, iter_chunks(x)):
        is_empty &= chunk.isnan().all(2).all(0)
    return compare_scales(channels, (own_mean, own_std), (mean, std), is_empty, offset, max_shrinkage)


def describe_other_data(run_config: RunConfig, data: DataModule, standardize: str, consequence: str) -> str:
    """Return how channels, steps or scale of data differ from those of a run; an empty string if they do not.

    A run of several data sets, whose channels are series of their own, fits all data.

    Args:
        run_config: of the run
        data: the other data
        standardize: how they are standardized, see `DataConfig`
        consequence: of another scale, for the message
    """
    channels, own = tuple(run_config.channels), data.channels
    if run_config.split_channels or data.split_channels:
        return ""
    if len(channels) != len(own):
        return f"{len(channels)} channels, and here are {len(own)}"
    if channels != own and not any(name.isdecimal() for name in channels + own):  # numbers stand for unknown names
        return f"channels {', '.join(channels)}, and here are {', '.join(own)}"
    if difference := describe_other_step(data.step, run_config.input_schema.get("step")):
        return difference
    scaling = run_config.options("data")["standardize"]
    if run_config.origin and scaling != standardize:
        return f"its program has --standardize {scaling}, and here is {standardize}"
    if {scaling, standardize} != {"standard"}:
        return ""
    state = read_weights(run_config.run_dir)
    offset, own_offset = (torch.zeros(len(own)) if o is None else torch.tensor(o) for o in (
        run_config.input_schema.get("offset"), data.offset
    ))  # fmt: skip
    here, there = (data.mean + own_offset, data.std), (state["mean"][:, 0] + offset, state["std"][:, 0])
    difference = compare_scales(own, here, there)
    return f"{difference} of the run; {consequence}" if difference else ""


def compare_scales(
    channels: Sequence[str],
    here: tuple[Tensor, Tensor],
    there: tuple[Tensor, Tensor],
    is_empty: Tensor | None = None,
    offset: NDArray[np.float64] | None = None,
    max_shrinkage: float = MAX_SCALE_RATIO,
) -> str:
    """Return which channels differ by far in mean or standard deviation; an empty string if none does.

    Args:
        channels: C names
        here: mean and standard deviation, each [C]; a constant channel has 1
        there: those of the training data
        is_empty: [C] bool, channels to leave out
        offset: [C] that was subtracted from both; None if none was
        max_shrinkage: how many times smaller the standard deviation may be here
    """
    (own_mean, own_std), (mean, std) = here, there
    varies = (own_std != 1) & (std != 1)
    ratio = torch.where(varies, own_std / std, 1.0)
    differs = (ratio > MAX_SCALE_RATIO) | (ratio < 1 / max_shrinkage) | ((own_mean - mean).abs() > MAX_SHIFT * std)
    if is_empty is not None:
        differs &= ~is_empty
    if not (found := differs.nonzero().flatten().tolist()):
        return ""
    c = found[0]
    level = 0.0 if offset is None else float(offset[c])
    more = f" (and {len(found) - 1} more channels)" if len(found) > 1 else ""
    return (
        f"channel {channels[c]}{more} has mean {float(own_mean[c]) + level:.4g} and standard deviation "
        f"{float(own_std[c]):.4g}, and {float(mean[c]) + level:.4g} and {float(std[c]):.4g} in training"
    )
