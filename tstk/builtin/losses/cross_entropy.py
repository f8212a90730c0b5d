"""Which class is it?"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tstk.nn.reduce import mean
from tstk.records import Flow, Spec
from tstk.slots import Loss


class CrossEntropy(Loss):
    """Cross-entropy of a head's logits with the class labels.

    Args:
        smoothing: label smoothing (Szegedy et al. 2016), the share of probability spread over all classes
        balanced: weight each class by the inverse of its frequency in the training data, clamped to 0.1-10
    """

    needs = ("classes",)
    reads = "head"
    weight: Tensor

    def __init__(self, spec: Spec, *, smoothing: float = 0.0, balanced: bool = False) -> None:
        super().__init__(spec)
        self.smoothing = smoothing
        weight = torch.ones(spec.classes or 0)
        if balanced and spec.counts:
            counts = torch.tensor(spec.counts, dtype=weight.dtype).clamp(min=1)
            weight = (counts.sum() / (len(counts) * counts)).clamp(0.1, 10)
        self.register_buffer("weight", weight)

    def forward(self, flow: Flow) -> dict[str, Tensor]:
        """Mean over the labelled series of the batch."""
        assert flow.output is not None
        assert flow.truth is not None
        each = F.cross_entropy(
            flow.output,
            flow.truth,
            self.weight,
            reduction="none",
            label_smoothing=self.smoothing,
            ignore_index=-1,
        )
        return {"cross_entropy": mean(each, flow.truth >= 0)}
