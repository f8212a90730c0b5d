"""Regression: one or several numbers per series."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from tstk.core.standardization import StandardizedModel
from tstk.core.task import Baselines, Prediction, Task
from tstk.core.types import Split
from tstk.evaluation.baselines import score_fitted
from tstk.evaluation.metrics import regression_metrics
from tstk.evaluation.simple_regressors import NearestNeighborRegressor, SummaryRidge

REGRESSORS = {"1-NN": NearestNeighborRegressor, "ridge": SummaryRidge}
"""Baselines by the name used in results."""


class Regression(Task):
    """Predict numbers that belong to a series; training standardizes them, predictions are in the units of the data."""

    target_type = "numbers"
    default_loss = "mse"
    default_probe = "ridge"
    main_metric = "r2"
    requirement = "numbers to predict"
    remedy = "name their columns with --target-columns, or give other data with --data"

    def decode(self, pipeline: StandardizedModel, outputs: Tensor, sample_paths: Tensor | None = None) -> Prediction:
        """Return the numbers in the units of the data."""
        assert pipeline.target_mean is not None
        assert pipeline.target_std is not None
        values = outputs.double() * pipeline.target_std.cpu() + pipeline.target_mean.cpu()
        return Prediction(values=values.numpy(), target_names=pipeline.target_names)

    def score(
        self, outputs: Tensor, targets: Tensor, names: Sequence[str], groups: list[str] | None = None
    ) -> dict[str, float]:
        """Compute MAE, RMSE and R2, averaged over targets, and those of each target if there are several."""
        return regression_metrics(outputs, targets, names)

    def score_baselines(self, pipeline: StandardizedModel, data: Any, split: Split, batch_size: int = 256) -> Baselines:
        """Score the mean of the training split, the nearest neighbour, and ridge regression on summary features."""
        names = data.target_names
        if unknown := [name for name, values in zip(names, data.train.y.T, strict=True) if values.isnan().all()]:
            reason = f"no training series has a known {', '.join(unknown)}"
            return Baselines({}, dict.fromkeys(("mean", *REGRESSORS), reason))
        return Baselines(self._score_mean(data.train.y.nanmean(0), split, names)) | score_fitted(
            REGRESSORS, data.training_splits, split, data.spec, lambda outputs, y: self.score(outputs, y, names)
        )

    def score_fitted_baselines(self, pipeline: StandardizedModel, split: Split, reason: str) -> Baselines:
        """Score the mean of the training split."""
        assert pipeline.target_mean is not None
        mean = self._score_mean(pipeline.target_mean.cpu(), split, pipeline.target_names)
        return Baselines(mean, dict.fromkeys(REGRESSORS, reason))

    def _score_mean(self, mean: Tensor, split: Split, names: Sequence[str]) -> dict[str, dict[str, float]]:
        assert split.y is not None
        metrics = self.score(mean.expand(len(split.y), -1), split.y, names)
        return {"mean": metrics} if metrics else {}
