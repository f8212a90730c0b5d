"""For any device, and meant for the CPU: rotation as a product of complex numbers, then torch's fused attention.

Scores do not change when the channels of queries and keys change places together. So turned pairs stay side by side,
as complex numbers have them, and nobody brings them back to half-split order.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tstk.kernels.rope_attention import Angles

SHORT = 384
"""Up to so many keys, CPUs train bfloat16 attention faster in three steps than with torch's fused backward."""
NARROW = 16
"""With heads of at most so many channels, nearly all the work is on the scores, and fused float32 is faster still."""

TINY = torch.finfo(torch.float32).tiny
"""Smaller scales may be 0 to a kernel that computes in float32."""


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
    if torch.compiler.is_compiling() and not q.is_complex():  # no complex numbers, and it fuses this into one pass
        q, k = rotate(q, angles), rotate(k, angles)
    else:
        table = torch.complex(*angles)
        q, k = (torch.view_as_real(_turn(x, table)).flatten(-2).to(v.dtype) for x in (q, k))
    return attend(q, k, v, None if valid is None else valid[:, None, None], causal=causal, scale=scale)


def rotate(x: Tensor, angles: Angles) -> Tensor:
    """Turn channel i of each head together with channel i + head_dim / 2 (half-split pairing).

    Args:
        x: [B, H, N, head_dim]
        angles: of the N tokens; the turning itself is done in float32 at least
    """
    cos, sin = angles
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)


def _turn(x: Tensor, table: Tensor) -> Tensor:
    if x.is_complex():
        return x * table
    return torch.complex(*x.to(torch.promote_types(x.dtype, torch.float32)).chunk(2, -1)).mul_(table)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Scaled dot-product attention, [B, H, N, D]; exactly 0 for a query that may see no key.

    Args:
        q: [B, H, N, D]
        k: [B, H, M, D]
        v: [B, H, M, D]
        mask: [B, 1, 1 or N, M] bool, True where a key may be seen
        causal: the last query sees all keys, the one before all but the last, ...
        scale: of the scores; D ** -0.5 unless given
        dropout: of attention probabilities
    """
    if scale is not None and scale < TINY:
        # Fused kernels scale what they have masked: -inf times 0 would be NaN, and times a negative number inf.
        q, scale = (-q, -scale) if scale <= -TINY else (q * scale, 1.0)
    n, m = q.shape[2], k.shape[2]
    steps = (
        (q.device.type, q.dtype) == ("cpu", torch.bfloat16)
        and m <= SHORT
        and not dropout
        and torch.is_grad_enabled()
        and (q.requires_grad or k.requires_grad or v.requires_grad)
    )
    if steps and q.shape[-1] <= NARROW:
        with torch.autocast("cpu", enabled=False):
            return attend(q.float(), k.float(), v.float(), mask, causal=causal, scale=scale).to(q.dtype)
    # The fused kernel's own causal flag excludes a mask and counts from the first key, so it serves one case.
    flag = causal and mask is None and n == m and not steps
    if causal and not flag:
        order = torch.ones(1, 1, n, m, dtype=torch.bool, device=q.device).tril(m - n)
        mask = order if mask is None else mask & order
    some = None
    if mask is not None:
        # A softmax over nothing is NaN in some kernels: such a row looks at everything, then counts as 0.
        some = mask.any(-1, keepdim=True)
        mask = mask | ~some
    if steps:
        scores = q * (q.shape[-1] ** -0.5 if scale is None else scale) @ k.transpose(-1, -2)
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        y = scores.softmax(-1) @ v
    else:
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=flag, scale=scale)
    return y if some is None else y.masked_fill(~some, 0.0)
