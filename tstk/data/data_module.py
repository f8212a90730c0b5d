"""A data set as the rest of tstk meets it: three parts, what is known of them, and what a user should be told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from tstk.core.types import Spec
from tstk.data.datasets import Generated, Labelled, Part, Repeated, Windows
from tstk.data.lazy_array import Stored, chunks


@dataclass
class Dataset:
    """Training, validation and test data, raw, with the statistics that scale them.

    Args:
        name: what to call it
        source: the files that were read
        task: what the data ask for; "unlabelled" series can only be learnt from without labels
        spec: channels, length (of the longest series in any part, or the context), classes or horizon
        train: what to learn from
        val: what to choose by; empty if nothing is held out
        test: what to report on, if there is any
        classes: names of the classes, in the order of their index
        channels: names of the channels
        mean: [C] float32, of the observed training samples; 0 if not to be scaled
        std: [C] float32, likewise; 1 for a constant channel or if not to be scaled
        notes: what a user should know, one sentence each
        split: how the parts were made, one phrase
        resize: samples to which each series was stretched or pressed, if it was
        univariate: each channel became a series of its own, so that a model takes any number of channels
        val_from_train: the validation series were split off the training part
    """

    name: str
    source: tuple[str, ...]
    task: Literal["classification", "forecasting", "unlabelled"]
    spec: Spec
    train: Part
    val: Part
    test: Part | None
    classes: tuple[str, ...]
    channels: tuple[str, ...]
    mean: Tensor
    std: Tensor
    notes: list[str] = field(default_factory=list)
    split: str = ""
    resize: int | None = None
    univariate: bool = False
    val_from_train: bool = False

    @property
    def training_parts(self) -> list[Part]:
        """The training part as the files have it: with the validation series, if they were split off it."""
        return [self.train, self.val] if self.val_from_train and len(self.val) else [self.train]

    @property
    def parts(self) -> dict[str, Part]:
        """The parts that hold anything, by name."""
        named = {"train": self.train, "val": self.val, "test": self.test}
        return {name: part for name, part in named.items() if part is not None and len(part)}

    def like(self) -> dict[str, Any]:
        """What a checkpoint must remember, so that `load_part` can read other data in the same way; JSON-able."""
        return {
            "task": self.task,
            "classes": list(self.classes),
            "channels": list(self.channels),
            "length": self.spec.length,
            "horizon": self.spec.horizon,
            "resize": self.resize,
            "univariate": self.univariate,
        }

    def facts(self) -> dict[str, Any]:
        """A report on the data, JSON-able: sizes, lengths, classes, missing values, ranges, split and duplicates."""
        report: dict[str, Any] = {
            "name": self.name,
            "source": list(self.source),
            "task": self.task,
            "channels": list(self.channels),
            "length": self.spec.length,
            "horizon": self.spec.horizon,
            "split": self.split,
            "parts": {name: _facts(part, self.classes) for name, part in self.parts.items()},
        }
        if self.task == "classification":
            counts = report["parts"]["train"]["classes"].values()
            report["imbalance"] = max(counts) / max(min(counts), 1)
        if isinstance(self.train, Labelled):
            rows = _rows(self.train)
            seen = set(rows)
            report["repeated"] = len(rows) - len(seen)
            if isinstance(self.val, Labelled) and self.val is not self.test:
                seen |= set(_rows(self.val))
            if isinstance(self.test, Labelled):
                report["duplicates"] = sum(row in seen for row in _rows(self.test))
        report["ranges"] = dict(zip(self.channels, _ranges(self.train), strict=True))
        return report | {"notes": list(self.notes)}


def _facts(part: Part, classes: tuple[str, ...]) -> dict[str, Any]:
    lengths = part.lengths
    report: dict[str, Any] = {
        "size": len(part),
        "length": {"min": int(lengths.min()), "median": int(lengths.median()), "max": int(lengths.max())},
        "missing": missing(part),
    }
    if part.y is not None:
        counts = torch.bincount(part.y, minlength=len(classes)).tolist()
        report["classes"] = dict(zip(classes, counts, strict=True))
    if part.groups is not None:
        report["groups"] = len(set(part.groups))
    return report


def _ranges(part: Part) -> list[dict[str, float | None]]:
    """Least, mean and greatest of the observed samples of each channel; None where there is none.

    Of generated series the first thousand are looked at.
    """
    if isinstance(part, Generated):
        part = Labelled(part.batch(torch.arange(min(len(part), 1000))).x)
    if isinstance(part, Repeated):
        part = part.of
    some = [part.table[None]] if isinstance(part, Windows) else chunks(part.x)  # type: ignore[attr-defined]
    channels = part.table.shape[0] if isinstance(part, Windows) else part.x.shape[1]  # type: ignore[attr-defined]
    least, most = torch.full((channels,), torch.inf), torch.full((channels,), -torch.inf)
    total, count = torch.zeros(2, channels, dtype=torch.float64)
    for chunk in map(torch.as_tensor, some):
        gone = chunk.isnan()
        least = torch.minimum(least, chunk.masked_fill(gone, torch.inf).amin((0, 2)))
        most = torch.maximum(most, chunk.masked_fill(gone, -torch.inf).amax((0, 2)))
        total += chunk.double().nansum((0, 2))
        count += (~gone).sum((0, 2))
    columns = (t.tolist() for t in (least, total / count.clamp(min=1), most, count))
    return [
        {"min": low, "mean": mean, "max": high} if seen else {"min": None, "mean": None, "max": None}
        for low, mean, high, seen in zip(*columns, strict=True)
    ]


def missing(part: Part) -> int:
    """Samples that are missing before the end of their series, counted over all channels."""
    if isinstance(part, Windows):
        return int(part.table.isnan().sum())
    if isinstance(part, Generated):
        return 0
    if isinstance(part, Repeated):
        part = part.of
    assert isinstance(part, Labelled)
    count, time = 0, torch.arange(part.x.shape[2])
    for x, lengths in _with_lengths(part):
        count += int((x.isnan() & (time < lengths[:, None])[:, None]).sum())
    return count


def _rows(part: Labelled) -> list[int]:
    """A hash per series."""
    return [
        hash(one[:, :length].numpy().tobytes())
        for x, lengths in _with_lengths(part)
        for one, length in zip(x, lengths.tolist(), strict=True)
    ]


def _with_lengths(part: Labelled) -> Iterator[tuple[Tensor, Tensor]]:
    """Series [n, C, T] and their lengths [n], some at a time."""
    at = 0
    for x in map(torch.as_tensor, chunks(part.x)):
        yield x, part.lengths[at : at + len(x)]
        at += len(x)


def statistics(x: Tensor | Stored) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the observed samples of each channel.

    Args:
        x: [N, C, T] samples, NaN where missing

    Returns:
        mean and std, each [C] float32; a channel that is constant or never observed gets std 1
    """
    count, mean, square = torch.zeros(3, x.shape[1], dtype=torch.float64)  # square: of the deviations, summed
    for chunk in map(torch.as_tensor, chunks(x)):
        seen = (~chunk.isnan()).sum((0, 2)).double()
        total = (count + seen).clamp(min=1)
        chunk = chunk.double()
        here = chunk.nansum((0, 2)) / seen.clamp(min=1)
        away = here - mean  # Chan et al. 1979: two sets of samples become one
        square += (chunk - here[:, None]).square().nansum((0, 2)) + away.square() * count * seen / total
        mean += away * seen / total
        count += seen
    std = (square / count.clamp(min=1)).sqrt()
    std[std <= 1e-7 * mean.abs()] = 1.0  # float32 cannot tell less from rounding
    return mean.float(), std.float()
