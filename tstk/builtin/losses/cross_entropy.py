"""Which class is it?"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tstk.core.interfaces import Loss
from tstk.core.masking import random
from tstk.core.rng import Draws
from tstk.core.types import Flow, Spec, Tokens
from tstk.errors import OptionError
from tstk.nn.reduce import mean


class CrossEntropy(Loss):
    """Cross-entropy of a head's logits with the class labels.

    Args:
        smoothing: label smoothing (Szegedy et al. 2016), the share of probability spread over all classes
        hide: share of tokens hidden from the encoder while training, drawn anew in each step (PatchDropout, Liu et
            al. 2023); a strong regulariser that also saves time
        balanced: weight each class by the inverse of its frequency in the training data, clamped to 0.1-10
    """

    needs = ("classes",)
    reads = "head"
    weight: Tensor

    def __init__(self, spec: Spec, *, smoothing: float = 0.0, hide: float = 0.0, balanced: bool = False) -> None:
        super().__init__(spec)
        if not 0 <= hide < 1:
            raise OptionError(f"loss.hide={hide}: expected a share of 0 or more and less than 1")
        self.smoothing, self.hide = smoothing, hide
        weight = torch.ones(spec.classes or 0)
        if balanced and spec.counts:
            counts = torch.tensor(spec.counts, dtype=weight.dtype).clamp(min=1)
            weight = (counts.sum() / (len(counts) * counts)).clamp(0.1, 10)
        self.register_buffer("weight", weight)

    def split(self, tokens: Tokens, draws: Draws) -> tuple[Tokens, Tokens]:
        """All tokens, but for those hidden while training; the same are asked, since a head answers."""
        if self.hide and self.training:
            tokens = tokens.keep(tokens.valid & ~random(tokens, self.hide, draws))
        return tokens, tokens

    def forward(self, flow: Flow) -> dict[str, Tensor]:
        """Mean over the labelled series of the batch; the truth is a class, or the shares of several ([B, K])."""
        assert flow.output is not None
        assert flow.truth is not None
        truth = flow.truth
        each = F.cross_entropy(
            flow.output,
            truth,
            self.weight,
            reduction="none",
            label_smoothing=self.smoothing,
            ignore_index=-1 if truth.ndim == 1 else -100,  # shares have no index
        )
        return {"cross_entropy": mean(each, truth >= 0 if truth.ndim == 1 else truth.sum(1) > 0)}
