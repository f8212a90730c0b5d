"""A masking policy: hide the beginning of each series."""

import torch
from torch import Tensor

from tstk import SampleRNG, Tokens
from tstk.core.masking import round_fraction


def mask_earliest(tokens: Tokens, ratio: float, rng: SampleRNG, round_up: bool = False) -> Tensor:
    """Return [B, N] bool, True for the earliest valid tokens, floor(ratio * valid) of each series, or ceil.

    Draw what is random from `rng`, which is keyed by sample, such as `rng.uniform(N)`, [B, N].
    """
    time = tokens.pos[..., 0].masked_fill(~tokens.valid, torch.inf)
    count = round_fraction(tokens.valid.sum(1), ratio, round_up)
    return time.argsort(dim=1, stable=True).argsort(1) < count[:, None]
