"""Reference implementation: all distances, in float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor

MAX_SQUARED_DISTANCE = 2.0**125
"""Square of the largest supported distance from the mean of the codes, up to which no score overflows in float32."""


def nearest_code(z: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """See `tstk.kernels.nearest_code`."""
    with torch.no_grad():
        distances, ids = _squared_distances(z, codes).min(-1)
        code_mean = codes.float().mean(0)
        z_norms, code_norms = (_squared_distances(t, code_mean[None])[..., 0] for t in (z, codes))
        in_range = (z_norms <= MAX_SQUARED_DISTANCE) & (code_norms <= MAX_SQUARED_DISTANCE).all()
        return ids.where(in_range, 0), distances.float().where(in_range, torch.nan)


def soft_assignment(
    z: Tensor, codes: Tensor, weight: Tensor, temperature: float, log_floor: float
) -> tuple[Tensor, Tensor]:
    """See `tstk.kernels.nearest_code.soft_assignment`, for z [N, d] and weight [N]."""
    log_p = (-_squared_distances(z, codes) / temperature).log_softmax(-1)
    p = log_p.exp()
    floor = math.log(log_floor) if log_floor else -math.inf
    # exp(-inf) * -inf would be NaN, and contributes 0 to the entropy
    entropy = -(p * log_p.clamp(min=floor).where(p > 0, 0)).sum(-1)
    return (weight * entropy).sum().float(), (weight[:, None] * p).sum(0).float()


def _squared_distances(z: Tensor, codes: Tensor) -> Tensor:
    return (z.double()[..., None, :] - codes.double()).square().sum(-1)
