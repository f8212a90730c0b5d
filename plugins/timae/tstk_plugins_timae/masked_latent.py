"""Masked autoencoding in which tokens are hidden from the decoder only."""

from __future__ import annotations

from tstk.builtin.losses.masked import Masked
from tstk.core.rng import SampleRNG
from tstk.core.types import Spec, Tokens
from tstk.plugins.ranges import MaskCount, MaskingName


class MaskedLatent(Masked):
    """Masked autoencoding in which all tokens are encoded and masked afterwards (published Mamba variant of Ti-MAE).

    The decoder does not receive the masked tokens, but the encoder has already mixed their content into the others, so
    the task is easier than `masked`. If the future is masked (policy tail with a horizon), the encoder does not
    receive it either.

    Args:
        ratio: share of valid tokens to mask
        round_up: round the number of masked tokens up, as published, so that int(N (1 - ratio)) of N are visible to the
            decoder; otherwise down
        policy: masking policy: random; block, one stretch of time; tail, the latest tokens (with a horizon: the
            future); column, whole columns of a two-axis grid; per-batch, random but equal for the batch
        num_masks: masks per series in each step; the series are encoded once
    """

    def __init__(
        self,
        spec: Spec,
        *,
        ratio: float = 0.75,
        round_up: bool = False,
        policy: MaskingName = "random",
        num_masks: MaskCount = 1,
    ) -> None:
        super().__init__(spec, ratio=ratio, round_up=round_up, policy=policy, num_masks=num_masks)

    def split(self, tokens: Tokens, rng: SampleRNG) -> tuple[Tokens, Tokens]:
        """Return all tokens as visible (all but a masked future), and the masked tokens as queries."""
        visible, queries = super().split(tokens, rng)
        return (visible if self.masks_future else tokens), queries

    def decoder_context(self, encoded: Tokens, queries: Tokens) -> Tokens:
        """Return the encoded tokens that are not queries, once for each mask."""
        encoded = encoded.repeat(len(queries.grid_index) // len(encoded.grid_index))
        masked = queries.grid_mask((self.spec.num_tokens,))
        return encoded.select(encoded.valid & ~masked.gather(1, encoded.grid_index))
