"""Hide tokens from the decoder alone."""

from __future__ import annotations

from typing import Literal

import torch

from tstk.builtin.losses.masked import Masked
from tstk.core.rng import Draws
from tstk.core.types import Spec, Tokens


class MaskedLatent(Masked):
    """Masked autoencoding in which the encoder reads everything and hiding comes after it, as in the published
    Mamba variant of Ti-MAE.

    The decoder does not get the hidden tokens, but their neighbours have read them: an easier question than
    `masked`. Where the future is hidden (`policy` tail with a horizon) the encoder does not read it either.

    Args:
        ratio: share of valid tokens to hide, rounded down
        policy: which: random, one block, the tail (with a horizon: the future), whole columns of a two-axis grid,
            or random but equal for the batch
        draws: masks per series in each step; the series are encoded once
    """

    def __init__(
        self,
        spec: Spec,
        *,
        ratio: float = 0.75,
        policy: Literal["random", "block", "tail", "column", "per_batch"] = "random",
        draws: int = 1,
    ) -> None:
        super().__init__(spec, ratio=ratio, policy=policy, draws=draws)

    def split(self, tokens: Tokens, draws: Draws) -> tuple[Tokens, Tokens]:
        """Seen: all; asked: what the policy hides."""
        seen, asked = super().split(tokens, draws)
        return (seen if self.blanks else tokens), asked

    def reveal(self, encoded: Tokens, asked: Tokens) -> Tokens:
        """The encoded tokens that are not asked for, once for each mask."""
        encoded = encoded.repeat(len(asked.index) // len(encoded.index))
        spare = self.spec.tokens  # questions that only fill up a row go to a slot that no token has
        at = asked.index.masked_fill(~asked.valid, spare)
        hidden = torch.zeros(len(at), spare + 1, dtype=torch.bool, device=at.device).scatter(1, at, True)
        return encoded.keep(encoded.valid & ~hidden.gather(1, encoded.index))
