"""PyTorch backend: torch's fused attention, or its parts one after another where that takes less time."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tstk.kernels.dropout import apply_dropout
from tstk.kernels.eager import is_traced, runs_eagerly

MAX_UNFUSED_KEYS = 384
"""Up to this many keys, training bfloat16 attention on a CPU is faster unfused than with torch's fused backward."""
MAX_NARROW_HEAD_DIM = 16
"""Up to this head width, nearly all the work is on the scores, and bfloat16 attention is faster in float32."""
MAX_CACHED_SCORES = 1 << 19
"""This many scores fit into a CPU's cache; the arithmetic on them then takes less time unfused, if heads are narrow."""
MIN_VECTOR = 16
"""Numbers in the longest vector register of a CPU."""

MIN_SCALE = torch.finfo(torch.float32).tiny
"""Smaller scales may be flushed to 0 by kernels that compute in float32."""


def softmax(scores: Tensor) -> Tensor:
    """Compute the softmax of rows [..., M] that are not all -inf.

    On a CPU torch's own works on single numbers in rows that do not fill a vector register.
    """
    if scores.device.type != "cpu" or not 0 < scores.shape[-1] < MIN_VECTOR:
        return scores.softmax(-1)
    weights = scores.to(torch.promote_types(scores.dtype, torch.float32))
    weights = (weights - weights.detach().amax(-1, keepdim=True)).exp()
    return (weights / weights.sum(-1, keepdim=True)).to(scores.dtype)


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
    if scale is not None and scale < MIN_SCALE:
        # Fused kernels scale after masking: -inf times 0 would be NaN, and times a negative number inf.
        q, scale = (-q, -scale) if scale <= -MIN_SCALE else (q * scale, 1.0)
    n, m = q.shape[2], k.shape[2]
    trains_bfloat16 = (
        (q.device.type, q.dtype) == ("cpu", torch.bfloat16)
        and m <= MAX_UNFUSED_KEYS
        and torch.is_grad_enabled()
        and (q.requires_grad or k.requires_grad or v.requires_grad)
    )
    if trains_bfloat16 and not dropout and q.shape[-1] <= MAX_NARROW_HEAD_DIM:
        with torch.autocast("cpu", enabled=False):
            return attend(q.float(), k.float(), v.float(), mask, causal=causal, scale=scale).to(q.dtype)
    is_narrow = (  # asked in this order, since a comparison of sizes would fix them in a compiled graph
        runs_eagerly(q, k, v) and q.dtype == torch.float32 and q.shape[-1] <= MAX_NARROW_HEAD_DIM and m >= MIN_VECTOR
    )
    # torch has no fused attention with dropout on a CPU
    unfused = trains_bfloat16 or (q.device.type == "cpu" and dropout > 0)
    unfused = unfused or (is_narrow and q.shape[:3].numel() * m <= MAX_CACHED_SCORES)
    if is_narrow and not unfused and not causal and mask is None and max(q.shape[-1], v.shape[-1]) < MIN_VECTOR:
        y: Tensor = _NarrowAttention.apply(q, k, v, q.shape[-1] ** -0.5 if scale is None else scale)
        return y
    # The fused kernel's causal flag excludes a mask and aligns the first query with the first key.
    is_causal = causal and mask is None and n == m and not unfused
    if causal and not is_causal:
        causal_mask = torch.ones(1, 1, n, m, dtype=torch.bool, device=q.device).tril(m - n)
        mask = causal_mask if mask is None else mask & causal_mask
    has_key = None
    if mask is not None:
        # A softmax over nothing is NaN in some kernels: such a row attends to everything and is then filled with 0.
        has_key = mask.any(-1, keepdim=True)
        mask = mask | ~has_key
    if unfused:
        scores = q * (q.shape[-1] ** -0.5 if scale is None else scale) @ k.transpose(-1, -2)
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        y = apply_dropout(softmax(scores), dropout) @ v
    else:
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=is_causal, scale=scale)
    return y if has_key is None else y.masked_fill(~has_key, 0.0)


class _NarrowAttention(torch.autograd.Function):
    """Attention of float32 heads narrower than a vector register, on a CPU.

    torch's fused kernel multiplies matrices with so few columns, for which its library is three times slower than for
    as few rows. Here such products are computed transposed, and the scores of some heads at a time stay in the cache.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.scale, heads = scale, q.shape[:2]
        q, k, v = (t.flatten(0, 1) for t in (q * scale, k, v))
        y = q.new_empty(len(q), v.shape[-1], q.shape[1])
        (buffer,) = _allocate_scores(q, k, 1)
        for i in range(0, len(q), len(buffer)):
            part = slice(i, i + len(buffer))
            probs = _compute_probs(q[part], k[part], buffer)
            torch.bmm(v[part].mT, probs.mT, out=y[part])
        return y.mT.unflatten(0, heads)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v = inputs = ctx.saved_tensors
        if torch.is_grad_enabled() or is_traced(grad):  # the gradient will be differentiated in turn, or is one of many
            with torch.enable_grad():
                y = (q * ctx.scale @ k.mT).softmax(-1) @ v
            needed = [t for t, is_needed in zip(inputs, ctx.needs_input_grad, strict=False) if is_needed]
            found = iter(torch.autograd.grad(y, needed, grad, create_graph=torch.is_grad_enabled()))
            return tuple(next(found) if is_needed else None for is_needed in ctx.needs_input_grad)
        heads = q.shape[:2]
        q, k, v, grad = (t.flatten(0, 1) for t in (q * ctx.scale, k, v, grad))
        grads = [torch.empty_like(t.mT, memory_format=torch.contiguous_format) for t in (q, k, v)]
        buffer, buffer2 = _allocate_scores(q, k, 2)
        for i in range(0, len(q), len(buffer)):
            part = slice(i, i + len(buffer))
            dq, dk, dv = (t[part] for t in grads)
            probs = _compute_probs(q[part], k[part], buffer)
            torch.bmm(grad[part].mT, probs, out=dv)
            scores = torch.bmm(grad[part], v[part].mT, out=buffer2[: len(dq)])
            torch.ops.aten._softmax_backward_data.out(scores, probs, -1, scores.dtype, grad_input=scores)
            torch.bmm(k[part].mT, scores.mT, out=dq)
            torch.bmm(q[part].mT, scores, out=dk)
        grads[0].mul_(ctx.scale)
        return *(t.mT.unflatten(0, heads) for t in grads), None


def _allocate_scores(q: Tensor, k: Tensor, count: int) -> Tensor:
    """Return `count` buffers for the scores of as many of the matrices q [L, N, D], k [L, M, D] as fit into the cache.

    Threads work on different matrices, so there are as many for each.
    """
    threads = torch.get_num_threads()
    per_thread = max(MAX_CACHED_SCORES // (q.shape[1] * k.shape[1] * threads), 1)
    return q.new_empty(count, min(per_thread * threads, len(q)), q.shape[1], k.shape[1])


def _compute_probs(q: Tensor, k: Tensor, buffer: Tensor) -> Tensor:
    """Return the softmax of q k^T of some matrices, in a buffer for at least as many."""
    scores = torch.bmm(q, k.mT, out=buffer[: len(q)])
    return torch.softmax(scores, -1, out=scores)
