"""How far is the forecast from what came?"""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from tstk.core.interfaces import Loss
from tstk.core.types import Flow, Spec
from tstk.nn.reduce import mean


class Forecast(Loss):
    """Distance of a head's forecast from the future, in units of the training data's deviation.

    Args:
        distance: mse, mean square; mae, mean absolute; huber, square below `delta` and linear above
        delta: where huber turns linear
    """

    needs = ("horizon",)
    reads = "head"

    def __init__(self, spec: Spec, *, distance: Literal["mse", "mae", "huber"] = "mse", delta: float = 1.0) -> None:
        super().__init__(spec)
        self.distance, self.delta = distance, delta

    def forward(self, flow: Flow) -> dict[str, Tensor]:
        """Mean over the observed samples of the future."""
        assert flow.output is not None
        assert flow.truth is not None
        known = flow.truth.isfinite()
        truth = flow.truth.nan_to_num()
        if self.distance == "mse":
            each = (flow.output - truth).square()
        elif self.distance == "mae":
            each = (flow.output - truth).abs()
        else:
            each = F.huber_loss(flow.output, truth, reduction="none", delta=self.delta)
        return {self.distance: mean(each, known)}
