"""Trivial answers, to be shown beside every score: the majority class, the last value, the last season."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from tstk.evaluate import classified, in_order
from tstk.records import Series

if TYPE_CHECKING:
    from tstk.data.parts import Part
    from tstk.pipeline import Pipeline

Scores = dict[str, dict[str, float]]
Answer = Callable[[Series], Tensor]


def baselines(pipeline: Pipeline, train: Part, part: Part, batch_size: int = 256) -> Scores:
    """What trivial answers score, by what they are.

    Forecasting: the last value repeated, and the last season repeated; its period is the one that fits the training
    part best.

    Args:
        train: what a trivial answer may learn from
        part: what to answer for
    """
    if pipeline.spec.horizon is not None and (pipeline.head is not None or pipeline.foretells):
        lag = period(train)
        answers: dict[str, Answer] = {"last value": last_value}
        if lag > 1:
            answers[f"last {lag} values"] = lambda series: last_season(series, lag)
        return {what: _errors(answer, part, pipeline.std.cpu(), batch_size) for what, answer in answers.items()}
    if pipeline.head is not None and part.y is not None and train.y is not None:
        return majority(torch.bincount(train.y), part.y)
    return {}


def majority(counts: Tensor, y: Tensor) -> Scores:
    """What the most frequent class scores.

    Args:
        counts: training series of each class
        y: [N] class index
    """
    return {"majority class": classified(y, counts.argmax().expand(len(y)))}


def last_value(series: Series) -> Tensor:
    """[B, C, 1], each channel's latest sample that was observed; 0 if none was."""
    steps = torch.arange(series.x.shape[-1])
    last = torch.where(series.mask, steps, -1).amax(-1, keepdim=True)
    return series.x.gather(-1, last.clamp(min=0)) * (last >= 0)


def last_season(series: Series, lag: int) -> Tensor:
    """[B, C, H], the last `lag` samples over and over; for a missing one the latest that was observed."""
    assert series.y is not None
    at = series.x.shape[-1] - lag + torch.arange(series.y.shape[-1]) % lag
    return torch.where(series.mask, series.x, last_value(series))[..., at]


def period(part: Part, windows: int = 256) -> int:
    """Of all periods that the context holds, the one whose repetition has the least absolute error.

    A multiple of the period does about as well, so of those better than their neighbours the shortest is taken that
    comes within a twentieth of the best.

    Args:
        part: windows with their future
        windows: as many of them, evenly spaced, are looked at
    """
    series = part.batch(torch.linspace(0, len(part) - 1, min(windows, len(part))).long())
    assert series.y is not None
    scale = series.x.std((0, 2), keepdim=True).clamp(min=1e-8)
    lags = range(1, series.x.shape[-1] + 1)
    errors = torch.stack([((last_season(series, lag) - series.y) / scale).abs().nanmean() for lag in lags])
    lowest_around = -F.max_pool1d(-errors[None], 3, 1, 1)[0]
    return lags[int(((errors == lowest_around) & (errors <= 1.05 * errors.min())).int().argmax())]


def _errors(answer: Answer, part: Part, std: Tensor, batch_size: int) -> dict[str, float]:
    """Mean square and mean absolute error, in deviations of the training data."""
    squares = absolutes = count = torch.zeros((), dtype=torch.float64)
    for series in in_order(part, batch_size, "cpu"):
        if series.y is not None:
            error = ((series.y - answer(series)) / std).double()
            known = error.isfinite()
            squares, absolutes = squares + error[known].square().sum(), absolutes + error[known].abs().sum()
            count = count + known.sum()
    return {"mse": float(squares / count), "mae": float(absolutes / count)}
