"""Forecasting: the samples that follow a series."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tstk.core.interfaces import HORIZON_REMEDY
from tstk.core.linear_map import get_last_value
from tstk.core.standardization import StandardizedModel
from tstk.core.task import Baselines, Prediction, Task
from tstk.core.types import Series, Split, StepOutput
from tstk.evaluation.baselines import score_forecast_baselines, score_forecaster
from tstk.evaluation.metrics import ForecastMetrics


class Forecasting(Task):
    """Predict the next samples of every channel.

    Errors are in units of the standard deviation of the training data, as the literature reports them.
    """

    target_type = "future"
    default_head = "forecast"
    default_loss = "forecast"
    main_metric = "mse"
    higher_is_better = False
    requirement = "a horizon to forecast"
    remedy = HORIZON_REMEDY

    def decode(self, pipeline: StandardizedModel, outputs: Tensor, sample_paths: Tensor | None = None) -> Prediction:
        """Return forecasts [N, C, H] in the units of the data."""
        mean, std = pipeline.raw_mean.cpu(), pipeline.std.cpu()
        forecast, samples = (None if t is None else (t * std + mean).numpy() for t in (outputs, sample_paths))
        return Prediction(forecast=forecast, forecast_samples=samples, channels=pipeline.channel_names)

    def create_metrics(self, pipeline: StandardizedModel) -> BatchForecastMetrics:
        """Return metrics that keep sums alone, since the forecasts of all windows may not fit memory."""
        return BatchForecastMetrics(pipeline)

    def score_baselines(self, pipeline: StandardizedModel, data: Any, split: Split, batch_size: int = 256) -> Baselines:
        """Score the last value, the last season, and a linear map of the context."""
        return score_forecast_baselines(data, split, pipeline.mean.cpu(), pipeline.std.cpu(), batch_size)

    def score_fitted_baselines(self, pipeline: StandardizedModel, split: Split, reason: str) -> Baselines:
        """Score the last value."""
        errors = score_forecaster(
            get_last_value, split, pipeline.mean.cpu(), pipeline.std.cpu(), offset=pipeline.offset
        )
        return Baselines({"last value": errors}, {"linear": reason})


class BatchForecastMetrics:
    """`ForecastMetrics` of the batches of a pipeline.

    Args:
        pipeline: standardizes the series
    """

    def __init__(self, pipeline: StandardizedModel) -> None:
        self.pipeline = pipeline
        self.metrics = ForecastMetrics(pipeline.raw_mean, pipeline.std)

    def update(self, series: Series, step_output: StepOutput) -> None:
        """Add a batch with its forecasts."""
        if step_output.head_output is None or step_output.targets is None:
            return
        pipeline = self.pipeline
        context = ((series.x - pipeline.mean) / pipeline.std).where(series.observed_mask, torch.nan)
        self.metrics.update(step_output.head_output, step_output.targets, context, step_output.forecast_samples)

    def compute(self, split: Split) -> dict[str, float]:
        """Return the metrics of all batches."""
        return self.metrics.compute()
