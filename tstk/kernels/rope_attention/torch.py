"""PyTorch backend, optimised for the CPU: rotation by complex multiplication, then torch's fused attention.

Scores are invariant to a common permutation of the channels of queries and keys, so rotated pairs are left interleaved,
as complex numbers store them, instead of brought back to half-split order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tstk.kernels.attention import Angles, attend, rotate


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
    # The compiler does not support complex numbers, and fuses the real rotation into one pass.
    if torch.compiler.is_compiling():
        q, k = rotate(q, angles), rotate(k, angles)
    else:
        table = torch.complex(*angles)
        q, k = (torch.view_as_real(_rotate_complex(x, table)).flatten(-2).to(v.dtype) for x in (q, k))
    return attend(q, k, v, None if valid is None else valid[:, None, None], causal=causal, scale=scale)


def _rotate_complex(x: Tensor, cos_sin: Tensor) -> Tensor:
    return torch.complex(*x.to(torch.promote_types(x.dtype, torch.float32)).chunk(2, -1)).mul_(cos_sin)
