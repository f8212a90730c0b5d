"""The specification: distances written out, in float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LARGEST = 2.0**125
"""Square of the largest distance from the mean of the codes that is served: up to it no score overflows in float32."""


def nearest_code(z: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """As `tstk.kernels.nearest_code`."""
    with torch.no_grad():
        exact, ids = _squares(z, codes).min(-1)
        middle = codes.float().mean(0)
        far, farthest = (_squares(t, middle[None])[..., 0] for t in (z, codes))
        served = (far <= LARGEST) & (farthest <= LARGEST).all()
        return ids.where(served, 0), exact.float().where(served, torch.nan)


def soft_assignment(
    z: Tensor, codes: Tensor, weight: Tensor, temperature: float, log_floor: float
) -> tuple[Tensor, Tensor]:
    """As `tstk.kernels.nearest_code.soft_assignment`, for z [N, d] and weight [N]."""
    log_p = (-_squares(z, codes) / temperature).log_softmax(-1)
    p = log_p.exp()
    floor = math.log(log_floor) if log_floor else -math.inf
    # exp(-inf) * -inf is no entropy at all
    entropy = -(p * log_p.clamp(min=floor).where(p > 0, 0)).sum(-1)
    return (weight * entropy).sum().float(), (weight[:, None] * p).sum(0).float()


def _squares(z: Tensor, codes: Tensor) -> Tensor:
    return (z.double()[..., None, :] - codes.double()).square().sum(-1)
