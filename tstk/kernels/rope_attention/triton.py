"""For GPUs: short rows in one kernel each way, long ones turned in one pass and handed to torch's fused attention.

Where a few hundred tokens attend to each other, launches and memory passes cost more than arithmetic; where there are
more, no kernel of this size beats the library's, and turning is a small part of it.

Layout: tensors [B, H, N, D] with any strides but 1 for the last; what is made here lies as [B, N, H, D] in memory, as
the maps before and after attention have it. Tables of angles are [B or 1, 1, N, D / 2] without gaps. Turned tiles come
as two halves, channels below and from D / 2, which never meet: scores are the sum of two products.
"""
# mypy: disallow-untyped-defs=False

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from tstk.kernels.dispatch import interpreted
from tstk.kernels.rope_attention import Angles
from tstk.kernels.rope_attention.torch import attend
from tstk.kernels.tuning import tuned


class Config(NamedTuple):
    """How a short row is cut: queries at a time, heads per program, warps per program."""

    queries: int
    heads: int
    warps: int


def _configs(keys: int, width: int, size: int) -> tuple[Config, Config | None]:
    """Few or no spills on compute capability 8.0 to 10.0, as compiled; not measured on any GPU yet.

    With 16 queries at a time there are registers enough for the gradients of thousands of numbers.
    """
    numbers = keys * width
    forward = Config(min(keys, 64), 1, min(8, max(min(4 if size == 2 else 8, keys // 16), numbers // 1024)))
    if numbers > 8192 and width > 32:
        return forward, None
    queries = 16 if size == 4 or width > 64 or numbers >= 4096 else min(keys, 64)
    return forward, Config(queries, 1, min(8, max(keys // 16, numbers * size // 1024)))


CONFIGS: dict[tuple[int, int, int], tuple[Config, Config | None]] = tuned(
    "rope_attention",
    {
        key: _configs(*key)
        for key in product((16, 32, 64, 128, 256), (16, 32, 64, 128), (2, 4))
        if key[0] * key[1] <= (16384 if key[2] == 2 else 2048)
    },
)
"""(keys, width of a head, bytes per number), the first two rounded up to powers of two: forward and backward.

A program holds all keys and values of a head on chip; what has no entry here is long. The backward holds their
gradients too: where it has no sizes they do not fit, and a row is short only if no gradients are asked for.
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
    config = CONFIGS.get(_bucket(q))
    if config and (config[1] or not (torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)))):
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        out: Tensor = _Short.apply(_even(q), _even(k), _even(v), cos, sin, valid, causal, scale)
        return out
    q, k = _Turned.apply(_even(q), _even(k), cos, sin, 1.0)
    return attend(q, k, v, None if valid is None else valid[:, None, None], causal=causal, scale=scale)


def _bucket(q: Tensor) -> tuple[int, int, int]:
    n, d = q.shape[-2:]
    return max(16, triton.next_power_of_2(n)), max(16, triton.next_power_of_2(d)), q.element_size()


def _even(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


class _Short(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> Tensor:
        cos, sin, valid, ctx.causal, ctx.scale = rest
        out, lse = torch.ops.tstk.rope_attention(q, k, v, *rest)
        ctx.save_for_backward(q, k, v, cos, sin, valid, out, lse)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grads = torch.ops.tstk.rope_attention_backward(_even(grad), *ctx.saved_tensors, ctx.causal, ctx.scale)
        return (*grads, None, None, None, None, None)


class _Turned(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, sign: float) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        ctx.sign = sign
        return torch.ops.tstk.rope_turn(q, k, cos, sin, sign)

    @staticmethod
    def backward(ctx: Any, gq: Tensor, gk: Tensor) -> tuple[Tensor | None, ...]:
        return (*_Turned.apply(_even(gq), _even(gk), *ctx.saved_tensors, -ctx.sign), None, None, None)


def _like(x: Tensor) -> Tensor:
    b, h, n, d = x.shape
    return x.new_empty(b, n, h, d).transpose(1, 2)


def _strides(*tensors):
    return [s for x in tensors for s in x.stride()[:3]]


def _launch(kernel, config, tensors, q, cos, causal, scale):
    b, h, n, d = q.shape
    keys, width, _ = _bucket(q)
    with torch.cuda.device_of(q):
        kernel[(b * triton.cdiv(h, config.heads),)](
            *tensors, cos.stride(0) if len(cos) > 1 else 0, h, n, scale,
            D=d, HALF=max(16, width // 2), WIDTH=width, KEYS=keys, QUERIES=config.queries, HEADS=config.heads,
            CAUSAL=causal, UPCAST=interpreted(), num_warps=config.warps, num_stages=1,
        )  # fmt: skip


def _attention(q, k, v, cos, sin, valid, causal, scale):
    out, lse = _like(q), q.new_empty(q.shape[:3], dtype=torch.float32)
    valid = None if valid is None else valid.contiguous().view(torch.uint8)
    tensors = (q, k, v, cos, sin, valid, out, lse, *_strides(q, k, v))
    _launch(_forward, CONFIGS[_bucket(q)][0], tensors, q, cos, causal, scale)
    return out, lse


def _attention_backward(grad, q, k, v, cos, sin, valid, out, lse, causal, scale):
    made = _like(q), _like(k), _like(v)
    valid = None if valid is None else valid.contiguous().view(torch.uint8)
    tensors = (q, k, v, cos, sin, valid, out, lse, grad, *made, *_strides(q, k, v, grad))
    _launch(_backward, CONFIGS[_bucket(q)][1], tensors, q, cos, causal, scale)
    return made


def _turn(q, k, cos, sin, sign):
    made = _like(q), _like(k)
    b, h, n, d = q.shape
    rows, heads = 16, 8
    with torch.cuda.device_of(q):
        _turn_kernel[(2 * b, triton.cdiv(n, rows), triton.cdiv(h, heads))](
            q, k, cos, sin, *made, *_strides(q, k), cos.stride(0) if len(cos) > 1 else 0, h, n, sign,
            D=d, HALF=triton.next_power_of_2(d // 2), ROWS=rows, HEADS=heads, num_warps=2,
        )  # fmt: skip
    return made


_library = torch.library.Library("tstk", "FRAGMENT")
for _schema, _body, _shapes in (
    (
        "rope_attention(Tensor q, Tensor k, Tensor v, Tensor cos, Tensor sin, Tensor? valid, bool causal, float scale)"
        " -> (Tensor, Tensor)",
        _attention,
        lambda q, *rest: (_like(q), q.new_empty(q.shape[:3], dtype=torch.float32)),
    ),
    (
        "rope_attention_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor cos, Tensor sin, Tensor? valid, "
        "Tensor out, Tensor lse, bool causal, float scale) -> (Tensor, Tensor, Tensor)",
        _attention_backward,
        lambda grad, q, k, v, *rest: (_like(q), _like(k), _like(v)),
    ),
    (
        "rope_turn(Tensor q, Tensor k, Tensor cos, Tensor sin, float sign) -> (Tensor, Tensor)",
        _turn,
        lambda q, k, *rest: (_like(q), _like(k)),
    ),
):
    _name = _schema.partition("(")[0]
    _library.define(_schema)
    _library.impl(_name, _body, "CPU" if interpreted() else "CUDA")
    torch.library.register_fake(f"tstk::{_name}", _shapes, lib=_library)


@triton.jit
def _dot(a, b, UPCAST: tl.constexpr):
    if UPCAST:  # the interpreter multiplies bfloat16 as if it were integers
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision="tf32x3")


@triton.jit
def _turned(x, rows, stride, inside, c, s, scale, D: tl.constexpr, HALF: tl.constexpr):
    """[rows, HALF] twice: turned and scaled channels below and from D / 2 of a head; 0 where not `inside`."""
    half = tl.arange(0, HALF)
    at = x + rows[:, None] * stride + half[None, :]
    mask = inside[:, None] & (half < D // 2)[None, :]
    a, b = tl.load(at, mask, 0.0).to(tl.float32) * scale, tl.load(at + D // 2, mask, 0.0).to(tl.float32) * scale
    return (a * c - b * s).to(x.dtype.element_ty), (b * c + a * s).to(x.dtype.element_ty)


@triton.jit
def _angles(cos, sin, rows, inside, D: tl.constexpr, HALF: tl.constexpr):
    half = tl.arange(0, HALF)
    at = rows[:, None] * (D // 2) + half[None, :]
    mask = inside[:, None] & (half < D // 2)[None, :]
    return tl.load(cos + at, mask, 0.0), tl.load(sin + at, mask, 0.0)


@triton.jit
def _store_halves(x, a, b, rows, stride, inside, D: tl.constexpr, HALF: tl.constexpr):
    half = tl.arange(0, HALF)
    at = x + rows[:, None] * stride + half[None, :]
    mask = inside[:, None] & (half < D // 2)[None, :]
    tl.store(at, a.to(x.dtype.element_ty), mask)
    tl.store(at + D // 2, b.to(x.dtype.element_ty), mask)


@triton.jit
def _whole(x, rows, stride, inside, D: tl.constexpr, WIDTH: tl.constexpr):
    """[rows, WIDTH], as stored."""
    wide = tl.arange(0, WIDTH)
    return tl.load(x + rows[:, None] * stride + wide[None, :], inside[:, None] & (wide < D)[None, :], 0.0)


@triton.jit
def _store_whole(x, y, rows, stride, inside, D: tl.constexpr, WIDTH: tl.constexpr):
    wide = tl.arange(0, WIDTH)
    at = x + rows[:, None] * stride + wide[None, :]
    tl.store(at, y.to(x.dtype.element_ty), inside[:, None] & (wide < D)[None, :])


@triton.jit
def _shown(rows, keys, seen, CAUSAL: tl.constexpr):
    """Where a row may see a key."""
    if CAUSAL:
        return seen & (keys <= rows)
    return seen & (rows >= 0)


@triton.jit
def _forward(
    q, k, v, cos, sin, valid, out, lse, qb, qh, qn, kb, kh, kn, vb, vh, vn, tb, heads, n, scale,
    D: tl.constexpr, HALF: tl.constexpr, WIDTH: tl.constexpr, KEYS: tl.constexpr, QUERIES: tl.constexpr,
    HEADS: tl.constexpr, CAUSAL: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """A program owns HEADS heads of one series: all their keys at once, their queries tile by tile."""
    groups = tl.cdiv(heads, HEADS)
    b = (tl.program_id(0) // groups).to(tl.int64)
    first = tl.program_id(0) % groups * HEADS
    kind = q.dtype.element_ty
    keys = tl.arange(0, KEYS)
    seen = keys < n
    if valid is not None:
        seen = seen & (tl.load(valid + b * n + keys, seen, 0) != 0)
    ck, sk = _angles(cos + b * tb, sin + b * tb, keys, seen, D, HALF)
    for h in range(first, tl.minimum(first + HEADS, heads)):
        k1, k2 = _turned(k + b * kb + h * kh, keys, kn, seen, ck, sk, 1.0, D, HALF)
        values = _whole(v + b * vb + h * vh, keys, vn, seen, D, WIDTH)
        for start in range(0, n, QUERIES):
            rows = start + tl.arange(0, QUERIES)
            inside = rows < n
            c, s = _angles(cos + b * tb, sin + b * tb, rows, inside, D, HALF)
            q1, q2 = _turned(q + b * qb + h * qh, rows, qn, inside, c, s, scale * 1.4426950408889634, D, HALF)
            scores = _dot(q1, tl.trans(k1), UPCAST) + _dot(q2, tl.trans(k2), UPCAST)
            scores = tl.where(_shown(rows[:, None], keys[None, :], seen[None, :], CAUSAL), scores, float("-inf"))
            top = tl.max(scores, 1)
            top = tl.where(top == float("-inf"), 0.0, top)
            share = tl.exp2(scores - top[:, None])
            total = tl.sum(share, 1)
            total = tl.where(total == 0.0, 1.0, total)
            made = _dot(share.to(kind), values, UPCAST) / total[:, None]
            _store_whole(out + (b * n * heads + h) * D, made, rows, heads * D, inside, D, WIDTH)
            tl.store(lse + (b * heads + h) * n + rows, top + tl.log2(total), inside)


@triton.jit
def _backward(
    q, k, v, cos, sin, valid, out, lse, grad, gq, gk, gv,
    qb, qh, qn, kb, kh, kn, vb, vh, vn, ob, oh, on, tb, heads, n, scale,
    D: tl.constexpr, HALF: tl.constexpr, WIDTH: tl.constexpr, KEYS: tl.constexpr, QUERIES: tl.constexpr,
    HEADS: tl.constexpr, CAUSAL: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """A program owns HEADS heads of one series, all three gradients: sums stay in it, and their order is fixed."""
    groups = tl.cdiv(heads, HEADS)
    b = (tl.program_id(0) // groups).to(tl.int64)
    first = tl.program_id(0) % groups * HEADS
    kind = q.dtype.element_ty
    keys = tl.arange(0, KEYS)
    stored = keys < n
    seen = stored
    if valid is not None:
        seen = seen & (tl.load(valid + b * n + keys, stored, 0) != 0)
    for h in range(first, tl.minimum(first + HEADS, heads)):
        ck, sk = _angles(cos + b * tb, sin + b * tb, keys, seen, D, HALF)
        k1, k2 = _turned(k + b * kb + h * kh, keys, kn, seen, ck, sk, 1.0, D, HALF)
        values = _whole(v + b * vb + h * vh, keys, vn, seen, D, WIDTH)
        made = (b * n * heads + h) * D
        gk1 = tl.zeros((KEYS, HALF), tl.float32)
        gk2 = tl.zeros((KEYS, HALF), tl.float32)
        gvs = tl.zeros((KEYS, WIDTH), tl.float32)
        for start in range(0, n, QUERIES):
            rows = start + tl.arange(0, QUERIES)
            inside = rows < n
            c, s = _angles(cos + b * tb, sin + b * tb, rows, inside, D, HALF)
            q1, q2 = _turned(q + b * qb + h * qh, rows, qn, inside, c, s, scale * 1.4426950408889634, D, HALF)
            go = _whole(grad + b * ob + h * oh, rows, on, inside, D, WIDTH)
            o = _whole(out + made, rows, heads * D, inside, D, WIDTH)
            delta = tl.sum(go.to(tl.float32) * o.to(tl.float32), 1)
            # Rows from n on have share 1 of everything, and add nothing: their go and delta are 0.
            total = tl.load(lse + (b * heads + h) * n + rows, inside, 0.0)
            # Keys come first here, [keys, rows]: what stays is then spread over the warps, not held by each.
            scores = _dot(k1, tl.trans(q1), UPCAST) + _dot(k2, tl.trans(q2), UPCAST)
            share = tl.where(
                _shown(rows[None, :], keys[:, None], seen[:, None], CAUSAL), tl.exp2(scores - total[None, :]), 0.0
            )
            gvs += _dot(share.to(kind), go, UPCAST)
            gs = (share * (_dot(values, tl.trans(go), UPCAST) - delta[None, :])).to(kind)
            gk1 += _dot(gs, q1, UPCAST)
            gk2 += _dot(gs, q2, UPCAST)
            gs = tl.trans(gs)
            gq1, gq2 = _dot(gs, k1, UPCAST) * scale, _dot(gs, k2, UPCAST) * scale
            _store_halves(gq + made, gq1 * c + gq2 * s, gq2 * c - gq1 * s, rows, heads * D, inside, D, HALF)
        ck, sk = _angles(cos + b * tb, sin + b * tb, keys, seen, D, HALF)  # again: there is no room to keep them
        # The queries had log2(e) in their scale.
        gk1, gk2 = gk1 * 0.6931471805599453, gk2 * 0.6931471805599453
        _store_halves(gk + made, gk1 * ck + gk2 * sk, gk2 * ck - gk1 * sk, keys, heads * D, stored, D, HALF)
        _store_whole(gv + made, gvs, keys, heads * D, stored, D, WIDTH)


@triton.jit
def _turn_kernel(
    q, k, cos, sin, q_out, k_out, qb, qh, qn, kb, kh, kn, tb, heads, n, sign,
    D: tl.constexpr, HALF: tl.constexpr, ROWS: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    """A program owns ROWS tokens of one series, HEADS heads of them, queries or keys; `sign` -1 turns them back."""
    b = (tl.program_id(0) // 2).to(tl.int64)
    x_in, x_out, xb, xh, xn = q, q_out, qb, qh, qn
    if tl.program_id(0) % 2 == 1:
        x_in, x_out, xb, xh, xn = k, k_out, kb, kh, kn
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    inside = rows < n
    c, s = _angles(cos + b * tb, sin + b * tb, rows, inside, D, HALF)
    s = s * sign
    first = tl.program_id(2) * HEADS
    for h in range(first, tl.minimum(first + HEADS, heads)):
        x1, x2 = _turned(x_in + b * xb + h * xh, rows, xn, inside, c, s, 1.0, D, HALF)
        _store_halves(x_out + (b * n * heads + h) * D, x1, x2, rows, heads * D, inside, D, HALF)
