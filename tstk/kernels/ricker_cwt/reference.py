"""Reference implementation: one correlation with the sampled wavelet per scale, in float64."""

from __future__ import annotations

from math import ceil, pi, sqrt

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def ricker_cwt(
    x: Tensor,
    scales: tuple[float, ...],
    *,
    padding: str = "zero",
    kernel: str = "odd",
    patch: tuple[int, int] | None = None,
) -> Tensor:
    """See `tstk.kernels.ricker_cwt`."""
    length = x.shape[-1]
    rows = x.double().reshape(-1, 1, length)
    out = torch.cat([_correlate_at_scale(rows, a, max(scales), padding, kernel) for a in scales], 1)
    if patch is not None:
        high, wide = patch
        out = out.reshape(-1, len(scales) // high, high, length // wide, wide).transpose(2, 3).flatten(3).contiguous()
    return out.reshape(*x.shape[:-1], *out.shape[1:]).to(torch.float64 if x.dtype == torch.float64 else torch.float32)


def _correlate_at_scale(rows: Tensor, scale: float, max_scale: float, padding: str, kernel: str) -> Tensor:
    """Return the transform at one scale, [rows, 1, length]."""
    length = rows.shape[-1]
    if kernel == "published":
        # CWT-MAE: one number of taps for all scales, ten times the largest (a float32) or the length, odd unless that
        # product is no whole number; an even kernel has its centre half a sample after the sample it answers for.
        taps = min(10 * float(np.float32(max_scale)), length)
        taps = int(taps + 1 if taps % 2 == 0 else taps)
        before, height = taps // 2, 2 / (sqrt(3 * scale) * pi**0.25 + 1e-6)
    else:
        before = ceil(10 * scale)  # beyond lies less than 1e-19 of the peak
        taps, height = 2 * before + 1, 2 / (sqrt(3 * scale) * pi**0.25)
    t = (torch.arange(taps, dtype=torch.float64, device=rows.device) - (taps - 1) / 2) / scale
    wavelet = height * (1 - t**2) * torch.exp(-(t**2) / 2)
    if padding == "zero":
        rows = F.pad(rows, (before, before))
    else:
        index = np.pad(np.arange(length), before, mode="reflect" if padding == "reflect" else "edge")
        rows = rows[..., torch.from_numpy(index).to(rows.device)]
    return F.conv1d(rows, wavelet[None, None])[..., :length]
