"""The binary cross-entropy of several labels per series."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tstk.core.interfaces import BasePipeline, Loss
from tstk.core.types import Spec, Split, StepOutput
from tstk.nn.reduce import masked_mean


class BinaryCrossEntropy(Loss):
    """Binary cross-entropy of a head's logits, one per label.

    Args:
        balanced: weight the series that have a label by the ratio of series without it to those with it, in the
            training data, clamped to 0.1-10
    """

    needs = ("num_outputs",)
    target_types = ("labels",)
    consumes = "head"
    default_tokenizer = "inception"
    pos_weight: Tensor

    def __init__(self, spec: Spec, *, balanced: bool = False) -> None:
        super().__init__(spec)
        self.balanced = balanced
        self.register_buffer("pos_weight", torch.ones(spec.num_outputs or 0))

    def init_from_data(self, pipeline: BasePipeline, train_split: Split) -> str:
        """Set the weights of the labels, if `balanced`."""
        if self.balanced and train_split.y is not None:
            positive, negative = ((train_split.y == value).sum(0).clamp(min=1) for value in (1, 0))
            self.pos_weight.copy_((negative / positive).clamp(0.1, 10))
        return ""

    def forward(self, step_output: StepOutput) -> dict[str, Tensor]:
        """Return the mean over the known labels; targets [B, K] are 1, 0, or -1 where unknown."""
        assert step_output.head_output is not None
        assert step_output.targets is not None
        targets = step_output.targets
        losses = F.binary_cross_entropy_with_logits(
            step_output.head_output,
            targets.clamp(min=0).to(step_output.head_output.dtype),
            pos_weight=self.pos_weight,
            reduction="none",
        )
        return {"binary_cross_entropy": masked_mean(losses, targets >= 0)}
