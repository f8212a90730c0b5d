"""Baselines reported beside every score; which ones is decided by the task.

Classification: majority class, nearest neighbour, logistic regression on summary features. Forecasting: last value,
seasonal naive, linear map. Those of regression and of several labels are in `simple_regressors`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import functional as F

from tstk.core.linear_map import get_last_value
from tstk.core.task import Baselines
from tstk.core.types import Series
from tstk.data.datasets import WindowDataset
from tstk.evaluation import linear_forecast
from tstk.evaluation.classification import classification_metrics
from tstk.evaluation.evaluate import iter_batches
from tstk.evaluation.linear_forecast import fit_linear_map
from tstk.evaluation.metrics import ForecastMetrics
from tstk.evaluation.simple_classifiers import CLASSIFIERS, gather_labelled_arrays, why_classifier_too_large

if TYPE_CHECKING:
    from tstk.core.pipeline import Pipeline
    from tstk.core.types import Spec, Split
    from tstk.data.data_module import DataModule

Scores = dict[str, dict[str, float]]
Forecaster = Callable[[Series], Tensor]
MAX_PERIOD_SEARCH_SAMPLES = 2 * 10**8
"""Windows x target samples x candidate periods that the search for a period may compute."""


def score_baselines(pipeline: Pipeline, data: DataModule, split: Split, batch_size: int = 256) -> Baselines:
    """Score the baselines of the pipeline's task; return empty `Baselines` for pretraining.

    Args:
        pipeline: determines the task and the units of forecast errors
        data: training data; classifiers use all labelled splits but test, forecasters the training split alone
        split: the split to predict
        batch_size: series at a time; fewer where they are long
    """
    if pipeline.task is None or not pipeline.makes_predictions:
        return Baselines()
    if pipeline.spec.horizon is None and any(part.y is None for part in (*data.training_splits, split)):
        return Baselines()
    return pipeline.task.score_baselines(pipeline, data, split, batch_size)


def score_forecast_baselines(
    data: DataModule, split: Split, mean: Tensor, std: Tensor, batch_size: int = 256
) -> Baselines:
    """Score the last value repeated, the last season repeated, and a linear map of the context.

    The period is estimated on the training split. The linear map is skipped if it would take too long, or if the
    validation split that selects its hyperparameters is also the test split.

    Args:
        data: training and validation splits to fit on
        split: windows with targets
        mean: [C, 1] channel means that standardize errors
        std: [C, 1] channel standard deviations, likewise
        batch_size: windows at a time
    """
    assert isinstance(data.train, WindowDataset)
    assert isinstance(data.val, WindowDataset)
    forecasters: dict[str, Forecaster] = {"last value": get_last_value}
    if (period := estimate_period(data.train)) > 1:
        forecasters[f"last {period} values"] = lambda series: seasonal_naive(series, period)
    baselines = Baselines()
    reason = linear_forecast.why_linear_map_too_large(data.spec)
    if data.val is data.test:
        reason = "its hyperparameters are selected on the validation split, which is the test split here"
    if reason:
        baselines.skipped["linear"] = reason
    else:
        fit = fit_linear_map(data.train, data.val, std)
        forecasters["linear"], baselines.details["linear"] = fit.forecaster, fit.description
    for name, forecaster in forecasters.items():
        baselines.scores[name] = score_forecaster(forecaster, split, mean, std, batch_size, data.offset)
    return baselines


def score_classification_baselines(train: Sequence[Split], split: Split, spec: Spec) -> Baselines:
    """Score the majority class and the simple classifiers; skip those that would take too long.

    Args:
        train: labelled splits to fit on; the majority class is that of the first
        split: the labelled split to predict
        spec: spec of the data
    """
    assert train[0].y is not None
    assert split.y is not None
    baselines = Baselines(score_majority_class(torch.bincount(train[0].y), split.y))
    if not baselines.scores:
        return baselines

    def score(predictions: Tensor, y: Tensor) -> dict[str, float]:
        return classification_metrics(y, predictions)

    return baselines | score_fitted(CLASSIFIERS, train, split, spec, score)


def score_fitted(
    methods: Mapping[str, Callable[[], Any]],
    train: Sequence[Split],
    split: Split,
    spec: Spec,
    score: Callable[[Tensor, Tensor], dict[str, float]],
) -> Baselines:
    """Fit simple methods and score them; skip those that would take too long.

    Args:
        methods: name -> constructor of an object with `fit` and `predict`, such as a `Classifier`
        train: splits with targets to fit on
        split: the split to predict
        spec: spec of the data
        score: function of predictions and targets
    """
    baselines = Baselines()
    reasons = {name: why_classifier_too_large(name, train, split, spec) for name in methods}
    baselines.skipped = {name: reason for name, reason in reasons.items() if reason}
    if affordable := [name for name in methods if not reasons[name]]:
        train_arrays, test_arrays = (
            gather_labelled_arrays(train, spec.length),
            gather_labelled_arrays([split], spec.length),
        )
        for name in affordable:
            if metrics := score(methods[name]().fit(train_arrays).predict(test_arrays), test_arrays.y):
                baselines.scores[name] = metrics
    return baselines


def score_majority_class(class_counts: Tensor, y: Tensor) -> Scores:
    """Score a constant prediction of the most frequent training class; return {} if no label is known.

    Args:
        class_counts: [K] training series of each class
        y: [N] class index, -1 where unknown
    """
    metrics = classification_metrics(y, class_counts.argmax().expand(len(y)))
    return {"majority class": metrics} if metrics else {}


def seasonal_naive(series: Series, period: int) -> Tensor:
    """Repeat the last `period` samples over the horizon, [B, C, H]; missing samples become the last observed value."""
    assert series.y is not None
    index = series.x.shape[-1] - period + torch.arange(series.y.shape[-1]) % period
    return torch.where(series.observed_mask, series.x, get_last_value(series))[..., index]


def estimate_period(split: Split, max_windows: int = 256) -> int:
    """Estimate the seasonal period as the one whose seasonal naive forecast has the least absolute error.

    Multiples of a period fit about as well, so return the shortest local minimum within 5 % of the best error. Long
    contexts and horizons use fewer windows.

    Args:
        split: windows with targets
        max_windows: number of evenly spaced windows to use, at most
    """
    first_window = split.batch(torch.tensor([0]))
    assert first_window.y is not None
    max_windows = min(
        max_windows, max(16, MAX_PERIOD_SEARCH_SAMPLES // (first_window.y.numel() * first_window.x.shape[-1]))
    )
    series = split.batch(torch.linspace(0, len(split) - 1, min(max_windows, len(split))).long())
    assert series.y is not None
    scale = series.x.std((0, 2), keepdim=True).clamp(min=1e-8)
    periods = range(1, series.x.shape[-1] + 1)
    errors = torch.stack([((seasonal_naive(series, period) - series.y) / scale).abs().nanmean() for period in periods])
    lowest_around = -F.max_pool1d(-errors[None], 3, 1, 1)[0]
    return periods[int(((errors == lowest_around) & (errors <= 1.05 * errors.min())).int().argmax())]


def score_forecaster(
    forecaster: Forecaster,
    split: Split,
    mean: Tensor,
    std: Tensor,
    batch_size: int = 256,
    offset: ArrayLike | None = None,
) -> dict[str, float]:
    """Compute the metrics of a forecaster the way `evaluate` does for a model.

    Args:
        forecaster: maps a batch to forecasts [B, C, H] in the units of the data
        split: windows with targets
        mean: [C, 1] channel means that standardize errors
        std: [C, 1] channel standard deviations, likewise
        batch_size: windows at a time
        offset: [C] that was subtracted from the data; None if none was
    """
    metrics = ForecastMetrics(mean if offset is None else mean + torch.as_tensor(offset)[:, None], std)
    for series in iter_batches(split, batch_size, "cpu"):
        if series.y is not None:
            context = series.x.where(series.observed_mask, torch.nan)
            metrics.update(*((t - mean) / std for t in (forecaster(series).expand_as(series.y), series.y, context)))
    return metrics.compute()
