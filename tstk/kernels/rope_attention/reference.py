"""Reference implementation: unfused, in float32 at least."""

from __future__ import annotations

import torch
from torch import Tensor

from tstk.kernels.attention import Angles
from tstk.kernels.attention.reference import masked_softmax


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
    dtype = torch.promote_types(v.dtype, torch.float32)
    n, d = v.shape[-2:]
    q, k = (_rotate(x, angles, dtype) for x in (q, k))
    scores = (d**-0.5 if scale is None else scale) * torch.einsum("bhnd,bhmd->bhnm", q, k)
    visible = torch.ones(n, n, dtype=torch.bool, device=v.device)
    if causal:
        visible = visible.tril()
    if valid is not None:
        visible = visible & valid[:, None, None, :]
    return torch.einsum("bhnm,bhmd->bhnd", masked_softmax(scores, visible), v.to(dtype)).to(v.dtype)


def _rotate(x: Tensor, angles: Angles, dtype: torch.dtype) -> Tensor:
    cos, sin = (t.to(dtype) for t in angles)
    a, b = x.to(dtype).chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
