"""The cross-entropy loss of classification, and of a class per sample."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tstk.core.interfaces import Loss
from tstk.core.masking import mask_random
from tstk.core.rng import SampleRNG
from tstk.core.types import Spec, StepOutput, Tokens
from tstk.nn.reduce import masked_mean
from tstk.plugins.ranges import Fraction


class CrossEntropy(Loss):
    """Cross-entropy of a head's logits with the class labels, of series or of each of their samples.

    Args:
        smoothing: label smoothing (Szegedy et al. 2016), the probability mass spread over all classes
        hide: fraction of tokens to drop at random before the encoder in training (PatchDropout, Liu et al. 2023); a
            strong regulariser that also saves time
        balanced: weight each class by the inverse of its frequency in the training data, clamped to 0.1-10
    """

    needs = ("num_outputs",)
    target_types = ("class", "sample-class")
    consumes = "head"
    default_tokenizer = "inception"
    weights_series = True
    weight: Tensor

    def __init__(self, spec: Spec, *, smoothing: Fraction = 0.0, hide: Fraction = 0.0, balanced: bool = False) -> None:
        super().__init__(spec)
        self.smoothing, self.hide = smoothing, hide
        weight = torch.ones(spec.num_outputs or 0)
        if balanced and spec.class_counts:
            counts = torch.tensor(spec.class_counts, dtype=weight.dtype).clamp(min=1)
            weight = (counts.sum() / (len(counts) * counts)).clamp(0.1, 10)
        self.register_buffer("weight", weight)

    def split(self, tokens: Tokens, rng: SampleRNG) -> tuple[Tokens, Tokens]:
        """Return the visible tokens twice: all, or in training those that are not dropped."""
        if self.hide and self.training:
            tokens = tokens.select(tokens.valid & ~mask_random(tokens, self.hide, rng))
        return tokens, tokens

    def forward(self, step_output: StepOutput) -> dict[str, Tensor]:
        """Return the mean over the labelled series or samples of the batch.

        Targets are class indices [B] or, per sample, [B, T], -1 where unlabelled; or class probabilities [B, K], all 0
        where unlabelled.
        """
        assert step_output.head_output is not None
        assert step_output.targets is not None
        targets = step_output.targets
        has_indices = not targets.is_floating_point()
        losses = F.cross_entropy(
            step_output.head_output,
            targets,
            self.weight,
            reduction="none",
            label_smoothing=self.smoothing,
            ignore_index=-1 if has_indices else -100,  # torch refuses others with class probabilities
        )
        if step_output.weight is not None:
            losses = losses * step_output.weight.view(-1, *[1] * (losses.ndim - 1))
        return {"cross_entropy": masked_mean(losses, targets >= 0 if has_indices else targets.sum(1) > 0)}
