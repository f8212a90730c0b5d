"""The losses of regression: errors of a head's numbers, standardized by the training data."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from tstk.core.interfaces import Loss
from tstk.core.types import Spec, StepOutput
from tstk.nn.reduce import masked_mean
from tstk.plugins.ranges import PositiveFloat


class RegressionLoss(Loss):
    """Base class: the mean error over the targets that are known, in units of their standard deviations."""

    needs = ("num_outputs",)
    target_types = ("numbers",)
    consumes = "head"
    default_tokenizer = "inception"
    weights_series = True
    term: str

    def compute_errors(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the error of each output [B, K]."""
        raise NotImplementedError

    def forward(self, step_output: StepOutput) -> dict[str, Tensor]:
        """Return the mean error; targets [B, K] are NaN where unknown."""
        assert step_output.head_output is not None
        assert step_output.targets is not None
        known = step_output.targets.isfinite()
        targets = step_output.targets.nan_to_num().to(step_output.head_output.dtype)
        errors = self.compute_errors(step_output.head_output, targets)
        if step_output.weight is not None:
            errors = errors * step_output.weight[:, None]
        return {self.term: masked_mean(errors, known)}


class MSE(RegressionLoss):
    """Mean squared error of standardized numbers."""

    term = "squared_error"

    def compute_errors(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the squared errors."""
        return (outputs - targets).square()


class MAE(RegressionLoss):
    """Mean absolute error of standardized numbers; outliers count less than with `mse`."""

    term = "absolute_error"

    def compute_errors(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the absolute errors."""
        return (outputs - targets).abs()


class Huber(RegressionLoss):
    """Huber error of standardized numbers: squared below `delta` and linear above.

    Args:
        delta: error above which the loss is linear, in standard deviations of the targets
    """

    term = "huber_error"

    def __init__(self, spec: Spec, *, delta: PositiveFloat = 1.0) -> None:
        super().__init__(spec)
        self.delta = delta

    def compute_errors(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the Huber errors."""
        return F.huber_loss(outputs, targets, reduction="none", delta=self.delta)
