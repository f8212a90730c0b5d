"""The specification: one step after the other, in float32 at least."""

from __future__ import annotations

import torch
from torch import Tensor

from tstk.kernels.rope_attention import Angles


def rope_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    angles: Angles,
    *,
    valid: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """See `tstk.kernels.rope_attention`."""
    wide = torch.promote_types(v.dtype, torch.float32)
    n, d = v.shape[-2:]
    q, k = (_turn(x, angles, wide) for x in (q, k))
    scores = (d**-0.5 if scale is None else scale) * torch.einsum("bhnd,bhmd->bhnm", q, k)
    seen = torch.ones(n, n, dtype=torch.bool, device=v.device)
    if causal:
        seen = seen.tril()
    if valid is not None:
        seen = seen & valid[:, None, None, :]
    # Not -inf: a row of nothing else would be NaN. Such a row becomes uniform here, and 0 in the end.
    share = scores.masked_fill(~seen, torch.finfo(wide).min).softmax(-1).masked_fill(~seen, 0.0)
    return torch.einsum("bhnm,bhmd->bhnd", share, v.to(wide)).to(v.dtype)


def _turn(x: Tensor, angles: Angles, wide: torch.dtype) -> Tensor:
    cos, sin = (t.to(wide) for t in angles)
    a, b = (x.real, x.imag) if x.is_complex() else x.to(wide).chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
