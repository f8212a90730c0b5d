"""Reference implementation: all distances, in float64."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_SQUARED_DISTANCE = 2.0**125
"""Square of the largest supported distance from the mean of the codes, up to which no score overflows in float32."""


def nearest_code(z: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """See `tstk.kernels.nearest_code`."""
    with torch.no_grad():
        distances, ids = compute_squared_distances(z, codes).min(-1)
        code_mean = codes.float().mean(0)
        z_norms, code_norms = (compute_squared_distances(t, code_mean[None])[..., 0] for t in (z, codes))
        in_range = (z_norms <= MAX_SQUARED_DISTANCE) & (code_norms <= MAX_SQUARED_DISTANCE).all()
        return ids.where(in_range, 0), distances.float().where(in_range, torch.nan)


def compute_squared_distances(z: Tensor, codes: Tensor) -> Tensor:
    """Return |z - c|^2 in float64, [..., K]."""
    return (z.double()[..., None, :] - codes.double()).square().sum(-1)
