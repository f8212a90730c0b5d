"""C++ backend for AVX2 and AVX-512: queries and keys are rotated in one pass each, then torch's fused attention.

The torch backend needs two passes, one to arrange the pairs as complex numbers and one to multiply them.
"""

from __future__ import annotations

from ctypes import c_int64, c_void_p
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tstk.kernels.attention import Angles, attend
from tstk.kernels.cpp import Library
from tstk.kernels.eager import is_traced
from tstk.kernels.threads import map_row_slices

_ARGUMENTS = (*(c_void_p,) * 3, *(c_int64,) * 2, c_void_p, c_void_p)
LIBRARY = Library(
    Path(__file__).with_name("rotate.cpp"), {"rotate": (None, _ARGUMENTS), "rotate_back": (None, _ARGUMENTS)}
)


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
    cos, sin = (t.detach().resolve_neg().contiguous() for t in angles)
    q, k = (_Rotate.apply(x, cos, sin, False) for x in (q, k))
    return attend(q, k, v, None if valid is None else valid[:, None, None], causal=causal, scale=scale)


class _Rotate(torch.autograd.Function):
    """Rotation of [B, H, N, D] from halves to neighbouring pairs, or back, which is also its derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, back: bool) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.back = back
        return _rotate(x, cos, sin, back)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors
        if not is_traced(grad):
            return _Rotate.apply(grad, cos, sin, not ctx.back), None, None, None
        if ctx.back:
            a, b = grad.chunk(2, -1)
            pairs = torch.stack([a * cos - b * sin, b * cos + a * sin], -1)
            return pairs.reshape(grad.shape), None, None, None
        a, b = grad[..., ::2], grad[..., 1::2]
        return torch.cat([a * cos + b * sin, b * cos - a * sin], -1), None, None, None


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, back: bool) -> Tensor:
    library = LIBRARY.load()
    x = x.resolve_neg()
    if x.stride(-1) != 1:
        x = x.contiguous()
    b, h, n, d = x.shape
    # As projections want gradients, and as attention reads narrow heads fastest.
    out = x.new_empty(b, n, h, d).transpose(1, 2) if back else x.new_empty(x.shape)
    strides = [t.stride(i) for t in (x, out) for i in (0, 2, 1)]
    sizes = (n, h, d // 2, *strides, cos.stride(0) if len(cos) > 1 else 0)
    c_sizes = (c_int64 * len(sizes))(*sizes)
    function, pointers = library.rotate_back if back else library.rotate, [t.data_ptr() for t in (x, cos, sin)]
    map_row_slices(
        lambda rows: function(*pointers, rows.start, rows.stop, c_sizes, out.data_ptr()), b * n, x.numel(), x.device
    )
    return out
