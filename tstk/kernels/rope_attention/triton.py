"""Triton backend: short rows in one kernel per direction; long rows rotated, then torch's fused attention.

For a few hundred tokens, launches and memory passes cost more than arithmetic, so one kernel does everything; for more,
torch's fused attention is faster and the rotation a small part of the cost. Queries and keys are taken in tiles of up
to 64, so a program needs as many registers for 188 tokens, which fill three tiles, as for 64.

Layout: inputs [B, H, N, D] with stride 1 in the last dimension and any strides in the others; outputs are contiguous as
[B, N, H, D], as the projections before and after attention have it. Tables of angles are contiguous, [B or 1, 1, N,
D / 2]. A rotated tile is kept as two halves, channels below D / 2 and from D / 2 on; scores sum two products.
"""
# mypy: disallow-untyped-defs=False

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from tstk.kernels.attention import Angles, attend, count_spanned_numbers
from tstk.kernels.dispatch import is_triton_interpreted
from tstk.kernels.operators import register_operator
from tstk.kernels.tuning import ceil_div, load_tuned_sizes, next_power_of_2

LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)
LN2: tl.constexpr = tl.constexpr(0.6931471805599453)


class TileConfig(NamedTuple):
    """Sizes of a kernel for short rows: queries and keys per tile, and warps per program."""

    tile: int
    num_warps: int


MAX_SHORT_TOKENS = 256
"""Rows of more tokens are long."""


def _choose_configs(tokens: int, width: int, bytes_per_value: int) -> tuple[TileConfig, TileConfig]:
    """Return default sizes of the forward and backward kernels.

    Chosen for few or no register spills as compiled for compute capability 8.0 to 10.0; not measured on any GPU yet.
    """
    if bytes_per_value == 4:
        return TileConfig(min(tokens, 32), min(4, max(1, tokens * width // 512))), TileConfig(
            min(tokens, 32 if width <= 32 else 16), 4 if width > 16 else 2
        )
    tile = min(tokens, 64)
    smaller = tile if width <= 32 else min(tile, 32)
    return TileConfig(tile, tile // 16), TileConfig(smaller, min(8, max(smaller // 16, smaller * width // 512)))


CONFIGS: dict[tuple[int, int, int], tuple[TileConfig, TileConfig]] = load_tuned_sizes(
    "rope_attention",
    {key: _choose_configs(*key) for key in product((16, 32, 64), (16, 32, 64, 128), (2, 4))},
)
"""Forward and backward sizes by (tokens, head width, bytes per value), the first two rounded up to powers of two.

64 stands for 33 to MAX_SHORT_TOKENS tokens.
"""


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
    cos, sin = (t.contiguous() for t in angles)
    if q.shape[2] <= MAX_SHORT_TOKENS:
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        out: Tensor = _FusedRopeAttention.apply(
            _make_addressable(q),
            _make_addressable(k),
            _make_addressable(v),
            cos,
            sin,
            valid,
            causal,
            scale,
        )
        return out
    q, k = _Rotate.apply(_make_addressable(q), _make_addressable(k), cos, sin, 1.0)
    return attend(q, k, v, None if valid is None else valid[:, None, None], causal=causal, scale=scale)


def _bucket(q: Tensor) -> tuple[int, int, int]:
    n, d = q.shape[-2:]
    return min(64, max(16, next_power_of_2(n))), max(16, next_power_of_2(d)), q.element_size()


def _make_addressable(x: Tensor) -> Tensor:
    """Return x with stride 1 in the last dimension and each series within 2^31 numbers, as a gradient may not be."""
    return x if x.stride(-1) == 1 and count_spanned_numbers(x) < 2**31 else x.contiguous()


class _FusedRopeAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, *options: Any) -> Tensor:
        cos, sin, valid, ctx.causal, ctx.scale = options
        out, lse = torch.ops.tstk.rope_attention(q, k, v, *options)
        ctx.save_for_backward(q, k, v, cos, sin, valid, out, lse)
        return out

    @staticmethod
    def backward(ctx: Any, do: Tensor) -> tuple[Tensor | None, ...]:
        grads = torch.ops.tstk.rope_attention_backward(_make_addressable(do), *ctx.saved_tensors, ctx.causal, ctx.scale)
        return (*grads, None, None, None, None, None)


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, sign: float) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        ctx.sign = sign
        return torch.ops.tstk.rope_rotate(q, k, cos, sin, sign)

    @staticmethod
    def backward(ctx: Any, grad_q: Tensor, grad_k: Tensor) -> tuple[Tensor | None, ...]:
        return (
            *_Rotate.apply(_make_addressable(grad_q), _make_addressable(grad_k), *ctx.saved_tensors, -ctx.sign),
            None,
            None,
            None,
        )


def _empty_bnhd(x: Tensor) -> Tensor:
    b, h, n, d = x.shape
    return x.new_empty(b, n, h, d).transpose(1, 2)


def _list_strides(*tensors):
    return [s for x in tensors for s in x.stride()[:3]]


def _launch(kernel, config, tensors, q, cos, causal, scale):
    b, h, n, d = q.shape
    width = max(16, next_power_of_2(d))
    with torch.cuda.device_of(q):
        kernel[b * h, ceil_div(n, config.tile)](
            *tensors, cos.stride(0) if len(cos) > 1 else 0, h, n, scale,
            D=d, HALF=max(16, width // 2), WIDTH=width, TILE=config.tile, ONE_TILE=n <= config.tile,
            CAUSAL=causal, UPCAST=is_triton_interpreted(), num_warps=config.num_warps, num_stages=1,
        )  # fmt: skip


def _launch_forward(q, k, v, cos, sin, valid, causal, scale):
    out, lse = _empty_bnhd(q), q.new_empty(q.shape[:3], dtype=torch.float32)
    valid = None if valid is None else valid.contiguous().view(torch.uint8)
    tensors = (q, k, v, cos, sin, valid, out, lse, *_list_strides(q, k, v))
    _launch(_forward_kernel, CONFIGS[_bucket(q)][0], tensors, q, cos, causal, scale)
    return out, lse


def _launch_backward(do, q, k, v, cos, sin, valid, out, lse, causal, scale):
    grads = _empty_bnhd(q), _empty_bnhd(k), _empty_bnhd(v)
    valid = None if valid is None else valid.contiguous().view(torch.uint8)
    tensors = (q, k, v, cos, sin, valid, out, lse, do, *grads, *_list_strides(q, k, v, do))
    _launch(_backward_kernel, CONFIGS[_bucket(q)][1], tensors, q, cos, causal, scale)
    return grads


def _launch_rotate(q, k, cos, sin, sign):
    rotated = _empty_bnhd(q), _empty_bnhd(k)
    b, h, n, d = q.shape
    rows, heads = 16, 8
    with torch.cuda.device_of(q):
        _rotate_kernel[(2 * b, ceil_div(n, rows), ceil_div(h, heads))](
            q, k, cos, sin, *rotated, *_list_strides(q, k), cos.stride(0) if len(cos) > 1 else 0, h, n, sign,
            D=d, HALF=next_power_of_2(d // 2), ROWS=rows, HEADS=heads, num_warps=2,
        )  # fmt: skip
    return rotated


register_operator(
    "rope_attention(Tensor q, Tensor k, Tensor v, Tensor cos, Tensor sin, Tensor? valid, bool causal, float scale)"
    " -> (Tensor, Tensor)",
    _launch_forward,
    lambda q, *args: (_empty_bnhd(q), q.new_empty(q.shape[:3], dtype=torch.float32)),
)
register_operator(
    "rope_attention_backward(Tensor do, Tensor q, Tensor k, Tensor v, Tensor cos, Tensor sin, Tensor? valid, "
    "Tensor out, Tensor lse, bool causal, float scale) -> (Tensor, Tensor, Tensor)",
    _launch_backward,
    lambda do, q, k, v, *args: (_empty_bnhd(q), _empty_bnhd(k), _empty_bnhd(v)),
)
register_operator(
    "rope_rotate(Tensor q, Tensor k, Tensor cos, Tensor sin, float sign) -> (Tensor, Tensor)",
    _launch_rotate,
    lambda q, k, *args: (_empty_bnhd(q), _empty_bnhd(k)),
)


@triton.jit
def _dot(a, b, UPCAST: tl.constexpr):
    if UPCAST:  # the interpreter multiplies bfloat16 as if they were integers
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision="tf32x3")


@triton.jit
def _load_rotated(x, rows, stride, inside, c, s, scale, D: tl.constexpr, HALF: tl.constexpr):
    """Load a tile, rotate and scale it: channels below D / 2 and from D / 2 on, [rows, HALF] each; 0 if not inside."""
    half = tl.arange(0, HALF)
    ptrs = x + rows[:, None] * stride + half[None, :]
    mask = inside[:, None] & (half < D // 2)[None, :]
    a, b = tl.load(ptrs, mask, 0.0).to(tl.float32) * scale, tl.load(ptrs + D // 2, mask, 0.0).to(tl.float32) * scale
    return (a * c - b * s).to(x.dtype.element_ty), (b * c + a * s).to(x.dtype.element_ty)


@triton.jit
def _load_angles(cos, sin, rows, inside, D: tl.constexpr, HALF: tl.constexpr):
    half = tl.arange(0, HALF)
    offsets = rows[:, None] * (D // 2) + half[None, :]
    mask = inside[:, None] & (half < D // 2)[None, :]
    return tl.load(cos + offsets, mask, 0.0), tl.load(sin + offsets, mask, 0.0)


@triton.jit
def _store_halves(x, a, b, rows, stride, inside, D: tl.constexpr, HALF: tl.constexpr):
    half = tl.arange(0, HALF)
    ptrs = x + rows[:, None] * stride + half[None, :]
    mask = inside[:, None] & (half < D // 2)[None, :]
    tl.store(ptrs, a.to(x.dtype.element_ty), mask)
    tl.store(ptrs + D // 2, b.to(x.dtype.element_ty), mask)


@triton.jit
def _load_tile(x, rows, stride, inside, D: tl.constexpr, WIDTH: tl.constexpr):
    """Load [rows, WIDTH] in the stored dtype; 0 where not inside."""
    cols = tl.arange(0, WIDTH)
    return tl.load(x + rows[:, None] * stride + cols[None, :], inside[:, None] & (cols < D)[None, :], 0.0)


@triton.jit
def _store_tile(x, y, rows, stride, inside, D: tl.constexpr, WIDTH: tl.constexpr):
    cols = tl.arange(0, WIDTH)
    ptrs = x + rows[:, None] * stride + cols[None, :]
    tl.store(ptrs, y.to(x.dtype.element_ty), inside[:, None] & (cols < D)[None, :])


@triton.jit
def _load_visible(valid, b, n, keys):
    """Return which keys can be attended to, [keys]."""
    visible = keys < n
    if valid is not None:
        visible = visible & (tl.load(valid + b * n + keys, visible, 0) != 0)
    return visible


@triton.jit
def _is_visible(rows, keys, visible, CAUSAL: tl.constexpr):
    """Return where a query attends to a key."""
    if CAUSAL:
        return visible & (keys <= rows)
    return visible & (rows >= 0)


@triton.jit
def _forward_kernel(
    q, k, v, cos, sin, valid, out, lse,
    stride_qb, stride_qh, stride_qn, stride_kb, stride_kh, stride_kn, stride_vb, stride_vh, stride_vn, stride_angles,
    heads, n, scale,
    D: tl.constexpr, HALF: tl.constexpr, WIDTH: tl.constexpr, TILE: tl.constexpr, ONE_TILE: tl.constexpr,
    CAUSAL: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Each program computes one tile of queries of a head, over all tiles of keys, rotating them as they come."""
    b, h = (tl.program_id(0) // heads).to(tl.int64), tl.program_id(0) % heads
    k, v = k + b * stride_kb + h * stride_kh, v + b * stride_vb + h * stride_vh
    cos, sin = cos + b * stride_angles, sin + b * stride_angles
    start = tl.program_id(1) * TILE
    rows = start + tl.arange(0, TILE)
    inside = rows < n
    c, s = _load_angles(cos, sin, rows, inside, D, HALF)
    q1, q2 = _load_rotated(q + b * stride_qb + h * stride_qh, rows, stride_qn, inside, c, s, scale * LOG2E, D, HALF)
    m_i = tl.full((TILE,), float("-inf"), tl.float32)
    l_i = tl.zeros((TILE,), tl.float32)
    acc = tl.zeros((TILE, WIDTH), tl.float32)
    for first in range(0, tl.minimum(start + TILE, n) if CAUSAL else n, TILE):
        keys = first + tl.arange(0, TILE)
        visible = _load_visible(valid, b, n, keys)
        c, s = _load_angles(cos, sin, keys, visible, D, HALF)
        k1, k2 = _load_rotated(k, keys, stride_kn, visible, c, s, 1.0, D, HALF)
        scores = _dot(q1, tl.trans(k1), UPCAST) + _dot(q2, tl.trans(k2), UPCAST)
        is_visible = _is_visible(rows[:, None], keys[None, :], visible[None, :], CAUSAL)
        scores = tl.where(is_visible, scores, float("-inf"))
        m_new = tl.maximum(m_i, tl.max(scores, 1))
        shift = tl.where(m_new == float("-inf"), 0.0, m_new)
        p = tl.exp2(scores - shift[:, None])
        alpha = tl.exp2(m_i - shift)
        l_i = l_i * alpha + tl.sum(p, 1)
        values = _load_tile(v, keys, stride_vn, visible, D, WIDTH)
        acc = acc * alpha[:, None] + _dot(p.to(values.dtype), values, UPCAST)
        m_i = m_new
    m_i = tl.where(m_i == float("-inf"), 0.0, m_i)
    l_i = tl.where(l_i == 0.0, 1.0, l_i)
    _store_tile(out + (b * n * heads + h) * D, acc / l_i[:, None], rows, heads * D, inside, D, WIDTH)
    tl.store(lse + (b * heads + h) * n + rows, m_i + tl.log2(l_i), inside)


@triton.jit
def _load_output_gradient(do, stride_don, out, lse, rows, inside, heads, D: tl.constexpr, WIDTH: tl.constexpr):
    """Return the gradient of a tile of the output, its inner product with the output, and the log-sum-exp.

    Rows from n on have p = 1 at all visible keys, but add nothing, since their gradient and inner product are 0.
    """
    do_tile = _load_tile(do, rows, stride_don, inside, D, WIDTH)
    o = _load_tile(out, rows, heads * D, inside, D, WIDTH)
    return do_tile, tl.sum(do_tile.to(tl.float32) * o.to(tl.float32), 1), tl.load(lse + rows, inside, 0.0)


@triton.jit
def _backward_kernel(
    q, k, v, cos, sin, valid, out, lse, do, dq, dk, dv,
    stride_qb, stride_qh, stride_qn, stride_kb, stride_kh, stride_kn, stride_vb, stride_vh, stride_vn,
    stride_dob, stride_doh, stride_don, stride_angles, heads, n, scale,
    D: tl.constexpr, HALF: tl.constexpr, WIDTH: tl.constexpr, TILE: tl.constexpr, ONE_TILE: tl.constexpr,
    CAUSAL: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Each program computes the gradients of one tile of keys and values, and then those of one tile of queries.

    Scores are computed twice unless one tile holds the row, but no sum needs atomics, so all have a fixed order.
    """
    b, h = (tl.program_id(0) // heads).to(tl.int64), tl.program_id(0) % heads
    q, k, v = q + b * stride_qb + h * stride_qh, k + b * stride_kb + h * stride_kh, v + b * stride_vb + h * stride_vh
    do, lse = do + b * stride_dob + h * stride_doh, lse + (b * heads + h) * n
    offset = (b * n * heads + h) * D
    out, dq, dk, dv = out + offset, dq + offset, dk + offset, dv + offset
    cos, sin = cos + b * stride_angles, sin + b * stride_angles
    own = tl.program_id(1) * TILE + tl.arange(0, TILE)
    in_row = own < n
    visible = _load_visible(valid, b, n, own)
    ck, sk = _load_angles(cos, sin, own, visible, D, HALF)
    k1, k2 = _load_rotated(k, own, stride_kn, visible, ck, sk, 1.0, D, HALF)
    values = _load_tile(v, own, stride_vn, visible, D, WIDTH)
    dk1 = tl.zeros((TILE, HALF), tl.float32)
    dk2 = tl.zeros((TILE, HALF), tl.float32)
    dv_acc = tl.zeros((TILE, WIDTH), tl.float32)
    for start in range(tl.program_id(1) * TILE if CAUSAL else 0, n, TILE):
        rows = start + tl.arange(0, TILE)
        inside = rows < n
        c, s = _load_angles(cos, sin, rows, inside, D, HALF)
        q1, q2 = _load_rotated(q, rows, stride_qn, inside, c, s, scale * LOG2E, D, HALF)
        do_tile, delta, lse_i = _load_output_gradient(do, stride_don, out, lse, rows, inside, heads, D, WIDTH)
        # Transposed, [keys, rows]: the accumulators are then divided among the warps instead of held by each.
        scores = _dot(k1, tl.trans(q1), UPCAST) + _dot(k2, tl.trans(q2), UPCAST)
        is_visible = _is_visible(rows[None, :], own[:, None], visible[:, None], CAUSAL)
        p = tl.where(is_visible, tl.exp2(scores - lse_i[None, :]), 0.0)
        dv_acc += _dot(p.to(values.dtype), do_tile, UPCAST)
        ds = (p * (_dot(values, tl.trans(do_tile), UPCAST) - delta[None, :])).to(values.dtype)
        dk1 += _dot(ds, q1, UPCAST)
        dk2 += _dot(ds, q2, UPCAST)
        if ONE_TILE:
            dq1, dq2 = _dot(tl.trans(ds), k1, UPCAST) * scale, _dot(tl.trans(ds), k2, UPCAST) * scale
            _store_halves(dq, dq1 * c + dq2 * s, dq2 * c - dq1 * s, rows, heads * D, inside, D, HALF)
    # Loaded again, since there are too few registers to keep the angles over the loop.
    ck, sk = _load_angles(cos, sin, own, visible, D, HALF)
    dk1, dk2 = dk1 * LN2, dk2 * LN2  # the queries were scaled by LOG2E
    _store_halves(dk, dk1 * ck + dk2 * sk, dk2 * ck - dk1 * sk, own, heads * D, in_row, D, HALF)
    _store_tile(dv, dv_acc, own, heads * D, in_row, D, WIDTH)
    if not ONE_TILE:
        do_tile, delta, lse_i = _load_output_gradient(do, stride_don, out, lse, own, in_row, heads, D, WIDTH)
        c, s = _load_angles(cos, sin, own, in_row, D, HALF)
        q1, q2 = _load_rotated(q, own, stride_qn, in_row, c, s, scale * LOG2E, D, HALF)
        dq1 = tl.zeros((TILE, HALF), tl.float32)
        dq2 = tl.zeros((TILE, HALF), tl.float32)
        for first in range(0, tl.minimum((tl.program_id(1) + 1) * TILE, n) if CAUSAL else n, TILE):
            keys = first + tl.arange(0, TILE)
            visible = _load_visible(valid, b, n, keys)
            ck, sk = _load_angles(cos, sin, keys, visible, D, HALF)
            k1, k2 = _load_rotated(k, keys, stride_kn, visible, ck, sk, 1.0, D, HALF)
            values = _load_tile(v, keys, stride_vn, visible, D, WIDTH)
            scores = _dot(q1, tl.trans(k1), UPCAST) + _dot(q2, tl.trans(k2), UPCAST)
            is_visible = _is_visible(own[:, None], keys[None, :], visible[None, :], CAUSAL)
            p = tl.where(is_visible, tl.exp2(scores - lse_i[:, None]), 0.0)
            ds = (p * (_dot(do_tile, tl.trans(values), UPCAST) - delta[:, None])).to(values.dtype)
            dq1 += _dot(ds, k1, UPCAST)
            dq2 += _dot(ds, k2, UPCAST)
        c, s = _load_angles(cos, sin, own, in_row, D, HALF)
        dq1, dq2 = dq1 * scale, dq2 * scale
        _store_halves(dq, dq1 * c + dq2 * s, dq2 * c - dq1 * s, own, heads * D, in_row, D, HALF)


@triton.jit
def _rotate_kernel(
    q, k, cos, sin, q_out, k_out,
    stride_qb, stride_qh, stride_qn, stride_kb, stride_kh, stride_kn, stride_angles, heads, n, sign,
    D: tl.constexpr, HALF: tl.constexpr, ROWS: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    """Each program rotates HEADS heads of ROWS tokens of one series, queries or keys; sign -1 inverts the rotation."""
    b = (tl.program_id(0) // 2).to(tl.int64)
    x_in, x_out, stride_b, stride_h, stride_n = q, q_out, stride_qb, stride_qh, stride_qn
    if tl.program_id(0) % 2 == 1:
        x_in, x_out, stride_b, stride_h, stride_n = k, k_out, stride_kb, stride_kh, stride_kn
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    inside = rows < n
    c, s = _load_angles(cos + b * stride_angles, sin + b * stride_angles, rows, inside, D, HALF)
    s = s * sign
    first = tl.program_id(2) * HEADS
    for h in range(first, tl.minimum(first + HEADS, heads)):
        x1, x2 = _load_rotated(x_in + b * stride_b + h * stride_h, rows, stride_n, inside, c, s, 1.0, D, HALF)
        _store_halves(x_out + (b * n * heads + h) * D, x1, x2, rows, heads * D, inside, D, HALF)
