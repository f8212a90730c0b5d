"""The masked autoencoding loss."""

from __future__ import annotations

import torch
from torch import Tensor

from tstk.core.interfaces import Loss
from tstk.core.masking import get_masking_policy, mask_tail
from tstk.core.rng import SampleRNG
from tstk.core.types import Spec, StepOutput, Tokens
from tstk.nn.reduce import masked_mse
from tstk.plugins.ranges import MaskCount, MaskingName, Ratio


class Masked(Loss):
    """Masked autoencoding: mean squared error of the masked tokens' samples (He et al. 2022; Ti-MAE section 3).

    Args:
        ratio: fraction of valid tokens to mask
        round_up: round the number of masked tokens up, so that int(N (1 - ratio)) of N tokens are visible as in MAE;
            otherwise down
        policy: masking policy: random; block, one stretch of time; tail, the latest tokens (with a horizon: the
            future); column, whole columns of a two-axis grid; per-batch, random but equal for the batch
        num_masks: masks per series in each step (Ti-MAE's sampling time)
    """

    needs = ("target_dim",)
    default_decoder = "transformer"

    def __init__(
        self,
        spec: Spec,
        *,
        ratio: Ratio = 0.6,
        round_up: bool = False,
        policy: MaskingName = "random",
        num_masks: MaskCount = 1,
    ) -> None:
        super().__init__(spec)
        self.ratio, self.round_up, self.num_masks = ratio, round_up, num_masks
        self.mask_tokens = get_masking_policy(policy)
        self.masks_future = self.mask_tokens is mask_tail and spec.horizon is not None
        self.out = spec.replace(predicts_in_place=False)

    def split(self, tokens: Tokens, rng: SampleRNG) -> tuple[Tokens, Tokens]:
        """Return the visible tokens, and the masked tokens as queries."""
        if self.masks_future:
            masked = tokens.valid & (tokens.end_positions(self.spec) > self.spec.length - (self.spec.horizon or 0))
        else:
            masks = [self.mask_tokens(tokens, self.ratio, rng, self.round_up) for _ in range(self.num_masks)]
            masked = torch.cat(masks)
            tokens = tokens.repeat(self.num_masks)
        return tokens.select(tokens.valid & ~masked), tokens.select(masked)

    def forward(self, step_output: StepOutput) -> dict[str, Tensor]:
        """Return the mean over the observed samples of masked tokens."""
        queries = step_output.queries
        assert step_output.predictions is not None
        assert queries.target is not None
        where = queries.valid[..., None]
        if queries.target_mask is not None:
            where = where & queries.target_mask
        return {"masked": masked_mse(step_output.predictions, queries.target, where)}
