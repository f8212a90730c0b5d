"""Baselines, to be shown beside every score.

Classification: the majority class, the nearest neighbour, a logistic regression on summary features. Forecasting: the
last value, the last season, a linear map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from tstk.records import Series
from tstk.scoring.evaluate import classified, in_order
from tstk.scoring.measures import Measures
from tstk.scoring.simple_classifiers import CLASSIFIERS, labelled_arrays, why_too_large

if TYPE_CHECKING:
    from tstk.data.parts import Part
    from tstk.pipeline import Pipeline
    from tstk.records import Spec

Scores = dict[str, dict[str, float]]
Answer = Callable[[Series], Tensor]


@dataclass
class Baselines:
    """Scores of the baselines, and why some were left out.

    Args:
        scores: by the baseline's name
        skipped: name -> the reason
    """

    scores: Scores = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def baselines(pipeline: Pipeline, train: Sequence[Part], part: Part, batch_size: int = 256) -> Baselines:
    """Score the baselines of the pipeline's task.

    Classification: the majority class, and the classifiers of `simple_classifiers`, which learn from all training
    parts. Forecasting: the last value repeated; the last season repeated, whose period is the one that fits the first
    training part best; and a linear map, unless the training part is the part to forecast.

    Args:
        train: labelled series of training and those split off it for validation; of tables the first part counts
        part: what to predict
    """
    if pipeline.spec.horizon is not None and (pipeline.head is not None or pipeline.foretells):
        lag = period(train[0])
        answers: dict[str, Answer] = {"last value": last_value}
        if lag > 1:
            answers[f"last {lag} values"] = lambda series: last_season(series, lag)
        if train[0] is not part:
            answers["linear"] = linear(train[0], pipeline.std.cpu())
        return Baselines({what: _errors(answer, part, pipeline, batch_size) for what, answer in answers.items()})
    if pipeline.head is None or part.y is None or any(one.y is None for one in train):
        return Baselines()
    return classification_baselines(train, part, pipeline.spec)


def classification_baselines(train: Sequence[Part], part: Part, spec: Spec) -> Baselines:
    """Score the majority class and the simple classifiers; those that would take too long are skipped.

    Args:
        train: labelled parts to learn from; the majority is that of the first
        part: labelled, what to predict
        spec: of the data
    """
    assert train[0].y is not None
    assert part.y is not None
    found = Baselines(majority(torch.bincount(train[0].y), part.y))
    if not found.scores:
        return found
    reasons = {name: why_too_large(name, train, part, spec) for name in CLASSIFIERS}
    found.skipped = {name: reason for name, reason in reasons.items() if reason}
    if chosen := [name for name in CLASSIFIERS if not reasons[name]]:
        known, test = labelled_arrays(train, spec.length), labelled_arrays([part], spec.length)
        for name in chosen:
            found.scores[name] = classified(test.y, CLASSIFIERS[name]().fit(known).predict(test))
    return found


def majority(counts: Tensor, y: Tensor) -> Scores:
    """What the most frequent class scores; nothing, if no class is known.

    Args:
        counts: training series of each class
        y: [N] class index, -1 where unknown
    """
    found = classified(y, counts.argmax().expand(len(y)))
    return {"majority class": found} if found else {}


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


def linear(train: Part, std: Tensor, windows: int = 4096) -> Answer:
    """One matrix from context to future for all channels, both less the context's last value, by least squares.

    The linear forecaster of Zeng et al. 2023 ("NLinear", arXiv:2205.13504), solved and not trained. The weight of the
    squared matrix is the one that answers best for the last fifth of the training windows, learnt from the others.

    Args:
        train: windows with their future
        std: [C, 1] in whose units channels are weighted alike
        windows: as many of them, evenly spaced, are learnt from
    """
    series = train.batch(torch.linspace(0, len(train) - 1, min(windows, len(train))).long())
    assert series.y is not None
    last = last_value(series)
    x = (torch.where(series.mask, series.x, last) - last) / std
    y = (series.y - last) / std

    def sums(rows: slice) -> tuple[Tensor, Tensor]:
        past, future = x[rows].flatten(0, 1).double(), y[rows].flatten(0, 1).double()
        known = future.isfinite().all(1)
        past, future = past[known], future[known]
        return past.T @ past, past.T @ future

    def solved(gram: Tensor, cross: Tensor, weight: float) -> Tensor:
        ridge = weight * gram.diagonal().mean().clamp(min=1e-12) * torch.eye(len(gram), dtype=gram.dtype)
        return torch.linalg.solve(gram + ridge, cross).float()

    cut = max(1, len(x) * 4 // 5)
    (gram, cross), (late_gram, late_cross) = sums(slice(cut)), sums(slice(cut, None))

    def missed(weight: float) -> float:
        return float((x[cut:] @ solved(gram, cross, weight) - y[cut:]).square().nanmean())

    best = min((10.0**e for e in range(-6, 3)), key=missed)
    matrix = solved(gram + late_gram, cross + late_cross, best)

    def answer(series: Series) -> Tensor:
        last = last_value(series)
        return last + (torch.where(series.mask, series.x, last) - last) @ matrix

    return answer


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


def _errors(answer: Answer, part: Part, pipeline: Pipeline, batch_size: int) -> dict[str, float]:
    """As a forecast is scored, in deviations of the training data."""
    mean, std = pipeline.mean.cpu(), pipeline.std.cpu()
    measures = Measures(mean, std)
    for series in in_order(part, batch_size, "cpu"):
        if series.y is not None:
            past = series.x.where(series.mask, torch.nan)
            measures.add(*((t - mean) / std for t in (answer(series).expand_as(series.y), series.y, past)))
    return measures.scores()
