"""Regression losses of a forecasting head."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from tstk.core.interfaces import Loss
from tstk.core.types import Spec, StepOutput
from tstk.nn.reduce import masked_mean


class Forecast(Loss):
    """Error of a head's forecast, in units of the standard deviation of the training data.

    Args:
        distance: mse, mean squared error; mae, mean absolute error; huber, squared below `delta` and linear above
        delta: error above which huber is linear
    """

    needs = ("horizon",)
    target_types = ("future",)
    consumes = "head"
    default_head = "forecast"

    def __init__(self, spec: Spec, *, distance: Literal["mse", "mae", "huber"] = "mse", delta: float = 1.0) -> None:
        super().__init__(spec)
        self.distance, self.delta = distance, delta

    def forward(self, step_output: StepOutput) -> dict[str, Tensor]:
        """Return the mean over the observed samples of the future."""
        assert step_output.head_output is not None
        assert step_output.targets is not None
        observed = step_output.targets.isfinite()
        targets = step_output.targets.nan_to_num()
        if self.distance == "mse":
            errors = (step_output.head_output - targets).square()
        elif self.distance == "mae":
            errors = (step_output.head_output - targets).abs()
        else:
            errors = F.huber_loss(step_output.head_output, targets, reduction="none", delta=self.delta)
        return {self.distance: masked_mean(errors, observed)}
