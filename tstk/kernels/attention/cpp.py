"""C++ backend for AVX2 and AVX-512: scores and probabilities stay in the cache, forward and backward (`attend.cpp`).

torch's fused attention of heads this narrow spends most of its time around the matrix products, and it has none with
dropout on a CPU. Dropout draws the same numbers as in the torch backend.
"""

from __future__ import annotations

from ctypes import Array, c_float, c_int64, c_void_p
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tstk.kernels.attention.reference import masked_softmax
from tstk.kernels.cpp import Library
from tstk.kernels.dropout import LEVELS, draw_bits
from tstk.kernels.eager import is_traced
from tstk.kernels.threads import map_row_slices

MAX_LANES = 16
"""Numbers in the longest vector register, up to which rows are padded."""
BLOCK_SCORES, MIN_BLOCK, CAUSAL_BLOCK = 1 << 14, 8, 32
"""Scores of a block of queries, the fewest queries of one, and the most if later keys are left out."""

_FACTORS = c_float, c_float
LIBRARY = Library(
    Path(__file__).with_name("attend.cpp"),
    {
        "scratch_size": (c_int64, (c_void_p,)),
        "forward": (None, (*(c_void_p,) * 5, c_int64, c_int64, c_void_p, *_FACTORS, *(c_void_p,) * 3)),
        "backward": (None, (*(c_void_p,) * 7, c_int64, c_int64, *(c_void_p,) * 3, *_FACTORS, *(c_void_p,) * 4)),
    },
)


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
    """See `tstk.kernels.attention`."""
    keys = -(-k.shape[2] // MAX_LANES) * MAX_LANES
    bias = q.new_full((1 if mask is None else q.shape[0], keys), -torch.inf)
    bias[:, : k.shape[2]] = 0.0 if mask is None else torch.where(mask[:, 0, 0], 0.0, -torch.inf)
    threshold = round(dropout * LEVELS)
    bits = draw_bits(q.shape[:3].numel() * k.shape[2], slack=MAX_LANES) if threshold else None
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    call = _Call(causal, scale, threshold - LEVELS // 2, LEVELS / (LEVELS - threshold))
    y: Tensor = _Attention.apply(q, k, v, bias, bits, call)
    return y


class _Call(NamedTuple):
    """Options of a call: `threshold` is the lowest 16-bit number that keeps a probability, which `factor` scales."""

    causal: bool
    scale: float
    threshold: int
    factor: float


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, bits: Tensor | None, call: _Call) -> Tensor:
        q, k, v = map(_make_readable, (q, k, v))
        b, h, n, _ = q.shape
        out, stats = _allocate_like(q), q.new_empty(b, h, n, 2)
        sizes = _list_sizes(q, k, v, bias, out, call)
        library = LIBRARY.load()
        size = library.scratch_size(sizes)
        inputs = [t.data_ptr() for t in (q, k, v, bias)] + [0 if bits is None else bits.data_ptr()]
        factors, outputs = (call.scale, call.factor), (out.data_ptr(), stats.data_ptr())

        def compute(heads: slice) -> None:
            scratch = stats.new_empty(size)
            library.forward(*inputs, heads.start, heads.stop, sizes, *factors, *outputs, scratch.data_ptr())

        map_row_slices(compute, b * h, b * h * n * k.shape[2], q.device)
        ctx.save_for_backward(q, k, v, bias, bits, stats)
        ctx.call = call
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, bias, bits, stats = ctx.saved_tensors
        if torch.is_grad_enabled() or is_traced(grad):  # the gradient will be differentiated in turn, or is one of many
            return *_differentiate(ctx, grad), None, None, None
        q, k, v, grad = map(_make_readable, (q, k, v, grad))  # hooks on saved tensors may have changed their strides
        gradients = [_allocate_like(t) for t in (q, k, v)]
        strides = [(c_int64 * 3)(*_list_strides(t)) for t in gradients[:2]]
        b, h, n, _ = q.shape
        library, bits_pointer = LIBRARY.load(), 0 if bits is None else bits.data_ptr()
        sizes = _list_sizes(q, k, v, bias, grad, ctx.call)
        size = library.scratch_size(sizes)
        inputs = [*(t.data_ptr() for t in (q, k, v, bias)), bits_pointer, stats.data_ptr(), grad.data_ptr()]
        options = (sizes, *strides, ctx.call.scale, ctx.call.factor)
        outputs = [t.data_ptr() for t in gradients]

        def compute(heads: slice) -> None:
            scratch = stats.new_empty(size)
            library.backward(*inputs, heads.start, heads.stop, *options, *outputs, scratch.data_ptr())

        map_row_slices(compute, b * h, b * h * n * k.shape[2], q.device)
        return *gradients, None, None, None


def _make_readable(x: Tensor) -> Tensor:
    x = x.resolve_neg()
    return x if x.stride(-1) == 1 else x.contiguous()


def _allocate_like(x: Tensor) -> Tensor:
    """Return an empty [B, H, N, D] in the layout [B, N, H, D], as projections want outputs and gradients."""
    b, h, n, d = x.shape
    return x.new_empty(b, n, h, d).transpose(1, 2)


def _list_strides(x: Tensor) -> list[int]:
    return [x.stride(i) for i in (0, 2, 1)]


def _list_sizes(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, out: Tensor, call: _Call) -> Array[c_int64]:
    """Return the struct `Sizes` of the kernel; `out` is the output, or its gradient."""
    _, h, n, d = q.shape
    block = max(MIN_BLOCK, min(CAUSAL_BLOCK if call.causal else n, BLOCK_SCORES // bias.shape[1]))
    bias_stride = bias.shape[1] if len(bias) > 1 else 0
    numbers = [h, n, k.shape[2], d, block, int(call.causal), call.threshold, bias_stride]
    numbers += [stride for t in (q, k, v, out) for stride in _list_strides(t)]
    return (c_int64 * len(numbers))(*numbers)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Compute the gradients by operations of torch, from the same draws."""
    q, k, v, bias, bits, _ = ctx.saved_tensors
    n, m, call = q.shape[2], k.shape[2], ctx.call
    visible = (bias[:, None, None, :m] == 0).expand(-1, 1, n, m)
    if call.causal:
        visible = visible.tril(m - n)
    with torch.enable_grad():
        probs = masked_softmax(call.scale * q @ k.mT, visible)
        if bits is not None:
            kept = bits[: probs.numel()].view(probs.shape) >= call.threshold
            probs = probs * kept * call.factor
        needed = [t for t, is_needed in zip((q, k, v), ctx.needs_input_grad, strict=False) if is_needed]
        found = iter(torch.autograd.grad(probs @ v, needed, grad, create_graph=torch.is_grad_enabled()))
    return tuple(next(found) if is_needed else None for is_needed in ctx.needs_input_grad[:3])
