"""Hide tokens, ask for them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from tstk.core.interfaces import Loss
from tstk.core.masking import POLICIES
from tstk.core.rng import Draws
from tstk.core.types import Flow, Spec, Tokens
from tstk.errors import OptionError
from tstk.nn.reduce import mean


class Masked(Loss):
    """Masked autoencoding: mean square of the hidden tokens' samples (He et al. 2022; Ti-MAE section 3).

    Args:
        ratio: share of valid tokens to hide, rounded down
        policy: which: random, one block, the tail (with a horizon: the future), whole columns of a two-axis grid,
            or random but equal for the batch
        draws: masks per series in each step (Ti-MAE's sampling time)
    """

    needs = ("target",)
    decoder = "transformer"

    def __init__(
        self,
        spec: Spec,
        *,
        ratio: float = 0.6,
        policy: Literal["random", "block", "tail", "column", "per_batch"] = "random",
        draws: int = 1,
    ) -> None:
        super().__init__(spec)
        if not 0 < ratio < 1:
            raise OptionError(f"loss.ratio={ratio}: expected a share between 0 and 1")
        if draws < 1:
            raise OptionError(f"loss.draws={draws}: expected at least 1")
        self.ratio, self.policy, self.draws = ratio, policy, draws
        self.blanks = policy == "tail" and spec.horizon is not None
        self.out = spec.but(aligned=False)

    def split(self, tokens: Tokens, draws: Draws) -> tuple[Tokens, Tokens]:
        """Seen: what the policy leaves; asked: what it hides."""
        if self.blanks:
            hidden = tokens.valid & (tokens.ends(self.spec) > self.spec.length - (self.spec.horizon or 0))
        else:
            hidden = torch.cat([POLICIES[self.policy](tokens, self.ratio, draws) for _ in range(self.draws)])
            tokens = tokens.repeat(self.draws)
        return tokens.keep(tokens.valid & ~hidden), tokens.keep(hidden)

    def forward(self, flow: Flow) -> dict[str, Tensor]:
        """Over observed samples of hidden tokens."""
        asked = flow.asked
        assert flow.decoded is not None
        assert asked.target is not None
        where = asked.valid[..., None] if asked.weight is None else asked.weight & asked.valid[..., None]
        return {"masked": mean((flow.decoded - asked.target).square(), where)}
