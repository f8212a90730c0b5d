"""Baselines, to be shown beside every score.

Classification: the majority class, the nearest neighbour, a logistic regression on summary features. Forecasting: the
last value, the last season, a linear map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tstk.core.types import Series
from tstk.data.datasets import Windows
from tstk.evaluation import linear_forecast
from tstk.evaluation.evaluate import classified, in_order
from tstk.evaluation.linear_forecast import fit_linear_map
from tstk.evaluation.metrics import Measures
from tstk.evaluation.simple_classifiers import CLASSIFIERS, labelled_arrays, why_too_large
from tstk.nn.linear_map import last_value

if TYPE_CHECKING:
    from tstk.core.pipeline import Pipeline
    from tstk.core.types import Spec
    from tstk.data.data_module import Dataset
    from tstk.data.datasets import Part

Scores = dict[str, dict[str, float]]
Answer = Callable[[Series], Tensor]
MAX_COMPARED = 2 * 10**8
"""Samples of futures that the search for a period compares with the context."""


@dataclass
class Baselines:
    """Scores of the baselines, why some were left out, and what was chosen for them.

    Args:
        scores: by the baseline's name
        skipped: name -> the reason
        details: name -> what validation chose for it
    """

    scores: Scores = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    details: dict[str, str] = field(default_factory=dict)

    def as_result(self) -> dict[str, Any]:
        """What result.json has of them."""
        return {
            "baselines": self.scores,
            "baselines_skipped": self.skipped,
            "baselines_details": self.details,
        }


def baselines(pipeline: Pipeline, data: Dataset, part: Part, batch_size: int = 256) -> Baselines:
    """Score the baselines of the pipeline's task; nothing for pretraining.

    Args:
        data: what they learn from: classifiers from all training parts, forecasts from the training part alone
        part: what to predict
    """
    if pipeline.spec.horizon is not None:
        if pipeline.head is None and not pipeline.foretells:
            return Baselines()
        return forecast_baselines(data, part, pipeline.mean.cpu(), pipeline.std.cpu(), batch_size)
    train = data.training_parts
    if pipeline.head is None or part.y is None or any(one.y is None for one in train):
        return Baselines()
    return classification_baselines(train, part, pipeline.spec)


def forecast_baselines(data: Dataset, part: Part, mean: Tensor, std: Tensor, batch_size: int = 256) -> Baselines:
    """Score the last value repeated, the last season repeated, and a linear map of the context.

    The period of the season is the one that fits the training part best. The map is skipped where it would take too
    long, and where the validation part, by which it is chosen, is the part to forecast.

    Args:
        data: whose training and validation part are learnt from
        part: windows with their future
        mean: [C, 1] of the units of errors
        std: [C, 1] likewise
    """
    assert isinstance(data.train, Windows)
    assert isinstance(data.val, Windows)
    answers: dict[str, Answer] = {"last value": last_value}
    if (lag := period(data.train)) > 1:
        answers[f"last {lag} values"] = lambda series: last_season(series, lag)
    found = Baselines()
    reason = linear_forecast.why_too_large(data.spec)
    if data.val is data.test:
        reason = "it is chosen by the validation part, which is the test part here"
    if reason:
        found.skipped["linear"] = reason
    else:
        fit = fit_linear_map(data.train, data.val, std)
        answers["linear"], found.details["linear"] = fit.forecaster, fit.choice
    for name, answer in answers.items():
        found.scores[name] = forecast_errors(answer, part, mean, std, batch_size)
    return found


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


def last_season(series: Series, lag: int) -> Tensor:
    """[B, C, H], the last `lag` samples over and over; for a missing one the latest that was observed."""
    assert series.y is not None
    at = series.x.shape[-1] - lag + torch.arange(series.y.shape[-1]) % lag
    return torch.where(series.mask, series.x, last_value(series))[..., at]


def period(part: Part, windows: int = 256) -> int:
    """Of all periods that the context holds, the one whose repetition has the least absolute error.

    A multiple of the period does about as well, so of those better than their neighbours the shortest is taken that
    comes within a twentieth of the best. Fewer windows are looked at where context and horizon are long.

    Args:
        part: windows with their future
        windows: as many of them, evenly spaced, are looked at
    """
    first = part.batch(torch.tensor([0]))
    assert first.y is not None
    windows = min(windows, max(16, MAX_COMPARED // (first.y.numel() * first.x.shape[-1])))
    series = part.batch(torch.linspace(0, len(part) - 1, min(windows, len(part))).long())
    assert series.y is not None
    scale = series.x.std((0, 2), keepdim=True).clamp(min=1e-8)
    lags = range(1, series.x.shape[-1] + 1)
    errors = torch.stack([((last_season(series, lag) - series.y) / scale).abs().nanmean() for lag in lags])
    lowest_around = -F.max_pool1d(-errors[None], 3, 1, 1)[0]
    return lags[int(((errors == lowest_around) & (errors <= 1.05 * errors.min())).int().argmax())]


def forecast_errors(answer: Answer, part: Part, mean: Tensor, std: Tensor, batch_size: int = 256) -> dict[str, float]:
    """Score forecasts as those of a model are scored.

    Args:
        answer: the forecast [B, C, H] of a batch, in the units of the data
        part: windows with their future
        mean: [C, 1] of the units of errors
        std: [C, 1] likewise
    """
    measures = Measures(mean, std)
    for series in in_order(part, batch_size, "cpu"):
        if series.y is not None:
            past = series.x.where(series.mask, torch.nan)
            measures.add(*((t - mean) / std for t in (answer(series).expand_as(series.y), series.y, past)))
    return measures.scores()
