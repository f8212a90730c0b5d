"""Triton backend of nearest-code search and soft assignment, with the scores in registers, tile by tile.

Layout: vectors z [N, d] and codes [K, d], both row-major. Codes are centred on their mean, `code_mean` [d], which is
subtracted from z on loading; `squared_norms` [K] are those of the centred codes. Sums over rows are written per program
and added afterwards, in order, so that every run gives the same bits.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from tstk.kernels.nearest_code.reference import MAX_SQUARED_DISTANCE
from tstk.kernels.operators import register_operator
from tstk.kernels.tuning import load_tuned_sizes

CONFIGS: dict[tuple[str, int], dict[str, Any]] = load_tuned_sizes(
    "nearest_code",
    {
        ("search", 16): {"BLOCK_N": 128, "BLOCK_K": 64, "num_warps": 4, "num_stages": 2},
        ("search", 32): {"BLOCK_N": 128, "BLOCK_K": 64, "num_warps": 4, "num_stages": 2},
        ("search", 64): {"BLOCK_N": 64, "BLOCK_K": 64, "BLOCK_D": 32, "num_warps": 8, "num_stages": 2},
        ("search", 128): {"BLOCK_N": 64, "BLOCK_K": 64, "BLOCK_D": 32, "num_warps": 8, "num_stages": 2},
        ("soft", 16): {"BLOCK_N": 64, "BLOCK_K": 64, "num_warps": 4, "num_stages": 1},
        ("soft", 32): {"BLOCK_N": 64, "BLOCK_K": 64, "num_warps": 4, "num_stages": 1},
        ("soft", 64): {"BLOCK_N": 64, "BLOCK_K": 32, "num_warps": 4, "num_stages": 1},
    },
)
"""Tile sizes by kernel and vector width, rounded up to a power of two from 16 to 128.

128 stands for all widths above 64. With a BLOCK_D, a program iterates over vectors in blocks of that many columns;
without one, it holds whole vectors.
"""

NUM_SEGMENTS = 64
"""Number of segments of rows in the backward kernel of the codes, one program per segment and block of codes."""

MIN_EXPONENT: tl.constexpr = tl.constexpr(-60.0)
MAX_SQUARED_DISTANCE_CONST: tl.constexpr = tl.constexpr(MAX_SQUARED_DISTANCE)


def _choose_tiles(kernel: str, d: int) -> dict[str, Any]:
    block = min(max(16, triton.next_power_of_2(d)), 128)
    # Up to width 16, exact products cost nothing; beyond, the error of three TF32 products is below that of float32
    # sums.
    precision = "ieee" if block == 16 else "tf32x3"
    return {"D": d, "BLOCK_D": block, "PRECISION": precision, **CONFIGS[kernel, block]}


@triton.jit
def _load_tile(base, rows, count, d0, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Load columns from d0 on, [rows, BLOCK_D] float32; 0 outside."""
    offsets = d0 + tl.arange(0, BLOCK_D)
    inside = (rows < count)[:, None] & (offsets < D)[None, :]
    return tl.load(base + rows[:, None] * D + offsets[None, :], mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _load_centered(z, code_mean, rows, N, d0, D: tl.constexpr, BLOCK_D: tl.constexpr):
    offsets = d0 + tl.arange(0, BLOCK_D)
    mean = tl.load(code_mean + offsets, mask=offsets < D, other=0.0)
    return _load_tile(z, rows, N, d0, D, BLOCK_D) - mean[None, :]


@triton.jit
def _search_kernel(
    z, code_mean, codes, squared_norms, ids, squares, N, K,
    D: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Each program takes BLOCK_N vectors and iterates over all codes, keeping the lowest score and its first index."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    x = _load_centered(z, code_mean, rows, N, 0, D, BLOCK_D)
    square = tl.sum(x * x, 1)
    for d0 in range(BLOCK_D, D, BLOCK_D):
        part = _load_centered(z, code_mean, rows, N, d0, D, BLOCK_D)
        square += tl.sum(part * part, 1)
    in_range = square <= MAX_SQUARED_DISTANCE_CONST
    x = tl.where(in_range[:, None], x, 0.0)
    best_score = tl.full((BLOCK_N,), float("inf"), tl.float32)
    best_id = tl.zeros((BLOCK_N,), tl.int32)
    for k0 in range(0, K, BLOCK_K):
        cols = k0 + tl.arange(0, BLOCK_K)
        c = _load_tile(codes, cols, K, 0, D, BLOCK_D)
        product = tl.dot(x, tl.trans(c), input_precision=PRECISION)
        # Not unrolled: only one block of columns is on chip at a time, however wide the vectors are.
        for d0 in range(BLOCK_D, D, BLOCK_D):
            part = tl.where(in_range[:, None], _load_centered(z, code_mean, rows, N, d0, D, BLOCK_D), 0.0)
            c = _load_tile(codes, cols, K, d0, D, BLOCK_D)
            product += tl.dot(part, tl.trans(c), input_precision=PRECISION)
        score = tl.load(squared_norms + cols, mask=cols < K, other=float("inf"))[None, :] - 2 * product
        low, index = tl.min(score, 1, return_indices=True, return_indices_tie_break_left=True)
        best_id = tl.where(low < best_score, k0 + index, best_id)
        best_score = tl.minimum(low, best_score)
    tl.store(ids + rows, tl.where(in_range, best_id, 0).to(tl.int64), mask=rows < N)
    tl.store(squares + rows, tl.where(in_range, tl.maximum(square + best_score, 0.0), float("nan")), mask=rows < N)


@triton.jit
def _compute_scores(
    x, codes, squared_norms, cols, K, scale, D: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr
):
    """Return (2 x.c - |c|^2) * scale, [rows, cols], -inf beyond the last code; and the codes."""
    c = _load_tile(codes, cols, K, 0, D, BLOCK_D)
    squared_norm = tl.load(squared_norms + cols, mask=cols < K, other=float("inf"))
    return (2 * tl.dot(x, tl.trans(c), input_precision=PRECISION) - squared_norm[None, :]) * scale, c


@triton.jit
def _compute_p_and_dp(score, log_z, grad_entropy, grad_mean_probs, cols, K, floor):
    """Return p, and the gradient with respect to p up to a constant per row."""
    log_p = tl.maximum(score - log_z[:, None], MIN_EXPONENT)
    p = tl.where((cols < K)[None, :], tl.exp(log_p), 0.0)
    slope = tl.where(log_p > floor, log_p, floor - 1)
    return p, tl.load(grad_mean_probs + cols, mask=cols < K, other=0.0)[None, :] - tl.load(grad_entropy) * slope


@triton.jit
def _soft_assignment_kernel(
    z, code_mean, codes, squared_norms, weight, entropies, log_zs, partial_sums, N, K, scale, floor,
    D: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Each program takes BLOCK_N vectors and iterates over all codes twice: for the normalizer of p, then for p."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    x = _load_centered(z, code_mean, rows, N, 0, D, BLOCK_D)
    m_i = tl.full((BLOCK_N,), float("-inf"), tl.float32)
    l_i = tl.zeros((BLOCK_N,), tl.float32)
    for k0 in range(0, K, BLOCK_K):
        cols = k0 + tl.arange(0, BLOCK_K)
        score, _ = _compute_scores(x, codes, squared_norms, cols, K, scale, D, BLOCK_D, PRECISION)
        m_new = tl.maximum(m_i, tl.max(score, 1))
        l_i = l_i * tl.exp(m_i - m_new) + tl.sum(tl.exp(score - m_new[:, None]), 1)
        m_i = m_new
    log_z = m_i + tl.log(l_i)
    w = tl.load(weight + rows, mask=rows < N, other=0.0)
    entropy = tl.zeros((BLOCK_N,), tl.float32)
    for k0 in range(0, K, BLOCK_K):
        cols = k0 + tl.arange(0, BLOCK_K)
        score, _ = _compute_scores(x, codes, squared_norms, cols, K, scale, D, BLOCK_D, PRECISION)
        log_p = tl.maximum(score - log_z[:, None], MIN_EXPONENT)
        p = tl.where((cols < K)[None, :], tl.exp(log_p), 0.0)
        entropy -= tl.sum(p * tl.maximum(log_p, floor), 1)
        ptrs = partial_sums + tl.program_id(0).to(tl.int64) * K + cols
        tl.store(ptrs, tl.sum(w[:, None] * p, 0), mask=cols < K)
    tl.store(entropies + rows, w * entropy, mask=rows < N)
    tl.store(log_zs + rows, log_z, mask=rows < N)


@triton.jit
def _grad_vectors_kernel(
    z, code_mean, codes, squared_norms, weight, log_zs, grad_entropy, grad_mean_probs, inner, dz, N, K, scale, floor,
    D: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Each program takes BLOCK_N vectors and computes <p, u> over all codes, then the gradient of the vectors."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    x = _load_centered(z, code_mean, rows, N, 0, D, BLOCK_D)
    log_z = tl.load(log_zs + rows, mask=rows < N, other=0.0)
    product = tl.zeros((BLOCK_N,), tl.float32)
    l_i = tl.zeros((BLOCK_N,), tl.float32)
    for k0 in range(0, K, BLOCK_K):
        cols = k0 + tl.arange(0, BLOCK_K)
        score, _ = _compute_scores(x, codes, squared_norms, cols, K, scale, D, BLOCK_D, PRECISION)
        p, u = _compute_p_and_dp(score, log_z, grad_entropy, grad_mean_probs, cols, K, floor)
        product += tl.sum(p * u, 1)
        l_i += tl.sum(p, 1)
    product = product / l_i
    acc = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    for k0 in range(0, K, BLOCK_K):
        cols = k0 + tl.arange(0, BLOCK_K)
        score, c = _compute_scores(x, codes, squared_norms, cols, K, scale, D, BLOCK_D, PRECISION)
        p, u = _compute_p_and_dp(score, log_z, grad_entropy, grad_mean_probs, cols, K, floor)
        acc += tl.dot(p * (u - product[:, None]), c, input_precision=PRECISION)
    w = tl.load(weight + rows, mask=rows < N, other=0.0)
    offsets = tl.arange(0, BLOCK_D)
    inside = (rows < N)[:, None] & (offsets < D)[None, :]
    tl.store(dz + rows[:, None] * D + offsets[None, :], acc * (2 * scale * w)[:, None], mask=inside)
    tl.store(inner + rows, product, mask=rows < N)


@triton.jit
def _grad_codes_kernel(
    z, code_mean, codes, squared_norms, weight, log_zs, grad_entropy, grad_mean_probs, inner, dc,
    N, K, segment, scale, floor,
    D: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Each program computes the gradient of BLOCK_K codes from one segment of the vectors."""
    cols = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)
    first = tl.program_id(1).to(tl.int64) * segment
    acc = tl.zeros((BLOCK_K, BLOCK_D), tl.float32)
    ds_sum = tl.zeros((BLOCK_K,), tl.float32)
    for n0 in range(0, segment, BLOCK_N):
        rows = first + n0 + tl.arange(0, BLOCK_N)
        x = _load_centered(z, code_mean, rows, N, 0, D, BLOCK_D)
        score, _ = _compute_scores(x, codes, squared_norms, cols, K, scale, D, BLOCK_D, PRECISION)
        log_z = tl.load(log_zs + rows, mask=rows < N, other=float("inf"))
        p, u = _compute_p_and_dp(score, log_z, grad_entropy, grad_mean_probs, cols, K, floor)
        product = tl.load(inner + rows, mask=rows < N, other=0.0)
        w = tl.load(weight + rows, mask=rows < N, other=0.0)
        ds = tl.trans(p * (u - product[:, None]) * (2 * scale * w)[:, None])
        acc += tl.dot(ds, x, input_precision=PRECISION)
        ds_sum += tl.sum(ds, 1)
    c = _load_tile(codes, cols, K, 0, D, BLOCK_D)
    offsets = tl.arange(0, BLOCK_D)
    inside = (cols < K)[:, None] & (offsets < D)[None, :]
    ptrs = dc + tl.program_id(1).to(tl.int64) * K * D + cols[:, None] * D + offsets[None, :]
    tl.store(ptrs, acc - ds_sum[:, None] * c, mask=inside)


# ---------------------------------------------------------------- the operators


def _launch_search(z: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    c, code_mean, squared_norms = _center_codes(codes)
    # With a NaN mean no vector is in range, so all distances are NaN.
    code_mean = code_mean.where((squared_norms <= MAX_SQUARED_DISTANCE).all(), torch.nan)
    c, squared_norms = c.nan_to_num(), squared_norms.nan_to_num()
    n, d = z.shape
    ids, squares = z.new_empty(n, dtype=torch.long), z.new_empty(n, dtype=torch.float32)
    tiles = _choose_tiles("search", d)
    if n:
        with torch.cuda.device_of(z):
            _search_kernel[triton.cdiv(n, tiles["BLOCK_N"]),](
                z, code_mean, c, squared_norms, ids, squares, n, len(c), **tiles
            )
    return ids, squares


def _launch_soft_assignment(
    z: Tensor, codes: Tensor, weight: Tensor, temperature: float, floor: float
) -> tuple[Tensor, Tensor, Tensor]:
    c, code_mean, squared_norms = _center_codes(codes)
    n, d = z.shape
    tiles = _choose_tiles("soft", d)
    programs = triton.cdiv(n, tiles["BLOCK_N"])
    entropies, log_z, partial_sums = c.new_empty(n), c.new_empty(n), c.new_empty(programs, len(c))
    if n:
        tensors = z, code_mean, c, squared_norms, weight, entropies, log_z, partial_sums
        with torch.cuda.device_of(z):
            _soft_assignment_kernel[programs,](*tensors, n, len(c), 1 / temperature, floor, **tiles)
    return entropies.sum(), partial_sums.sum(0), log_z


def _launch_backward(
    grad_entropy: Tensor,
    grad_mean_probs: Tensor,
    z: Tensor,
    codes: Tensor,
    weight: Tensor,
    log_z: Tensor,
    temperature: float,
    floor: float,
) -> tuple[Tensor, Tensor]:
    c, code_mean, squared_norms = _center_codes(codes)
    n, d = z.shape
    tiles = _choose_tiles("soft", d)
    segment = triton.cdiv(triton.cdiv(n, NUM_SEGMENTS), tiles["BLOCK_N"]) * tiles["BLOCK_N"]
    num_segments = triton.cdiv(n, segment) if n else 0
    dz, dc, inner = c.new_empty(n, d), c.new_empty(num_segments, *c.shape), c.new_empty(n)
    if n:
        grads = grad_entropy.contiguous(), grad_mean_probs.contiguous()
        tensors = z, code_mean, c, squared_norms, weight, log_z, *grads, inner
        scalars = 1 / temperature, floor
        with torch.cuda.device_of(z):
            _grad_vectors_kernel[triton.cdiv(n, tiles["BLOCK_N"]),](*tensors, dz, n, len(c), *scalars, **tiles)
            _grad_codes_kernel[triton.cdiv(len(c), tiles["BLOCK_K"]), num_segments](
                *tensors, dc, n, len(c), segment, *scalars, **tiles
            )
    return dz, dc.sum(0)


def _center_codes(codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    c = codes.float()
    code_mean = c.mean(0)
    c = (c - code_mean).contiguous()
    return c, code_mean, c.square().sum(1)


def _fake_search(z: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    return z.new_empty(len(z), dtype=torch.long), z.new_empty(len(z), dtype=torch.float32)


def _fake_soft(z: Tensor, codes: Tensor, weight: Tensor, *_: float) -> tuple[Tensor, Tensor, Tensor]:
    return weight.new_empty(()), weight.new_empty(len(codes)), weight.new_empty(len(z))


def _fake_backward(
    grad_entropy: Tensor, grad_mean_probs: Tensor, z: Tensor, codes: Tensor, *_: Any
) -> tuple[Tensor, Tensor]:
    return z.new_empty(z.shape, dtype=torch.float32), z.new_empty(codes.shape, dtype=torch.float32)


_SOFT_INPUTS = "Tensor z, Tensor codes, Tensor weight"
register_operator("nearest_code(Tensor z, Tensor codes) -> (Tensor, Tensor)", _launch_search, _fake_search)
register_operator(
    f"soft_assignment({_SOFT_INPUTS}, float temperature, float floor) -> (Tensor, Tensor, Tensor)",
    _launch_soft_assignment,
    _fake_soft,
)
register_operator(
    f"soft_assignment_backward(Tensor grad_entropy, Tensor grad_mean_probs, {_SOFT_INPUTS}, Tensor log_z, "
    "float temperature, float floor) -> (Tensor, Tensor)",
    _launch_backward,
    _fake_backward,
)


# ---------------------------------------------------------------- the backend


def nearest_code(z: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """See `tstk.kernels.nearest_code`."""
    with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
        x = z.reshape(-1, z.shape[-1]).contiguous()
        ids, squares = torch.ops.tstk.nearest_code(x, codes)
        return ids.reshape(z.shape[:-1]), squares.reshape(z.shape[:-1])


def soft_assignment(
    z: Tensor, codes: Tensor, weight: Tensor, temperature: float, log_floor: float
) -> tuple[Tensor, Tensor]:
    """See `tstk.kernels.nearest_code.soft_assignment`, for z [N, d] and weight [N]."""
    floor = math.log(log_floor) if log_floor else -math.inf
    out: tuple[Tensor, Tensor] = SoftAssignment.apply(z.contiguous(), codes, weight, temperature, floor)
    return out


class SoftAssignment(torch.autograd.Function):
    """p = softmax(-|z - c|^2 / temperature), recomputed in the backward instead of kept."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, codes: Tensor, weight: Tensor, temperature: float, floor: float
    ) -> tuple[Tensor, Tensor]:
        """Return the mean entropy [] and the mean of p [K]; `floor` is the lower bound of logarithms."""
        entropy, mean_probs, log_z = torch.ops.tstk.soft_assignment(z, codes, weight, temperature, floor)
        ctx.save_for_backward(z, codes, weight, log_z)
        ctx.options = temperature, floor
        return entropy, mean_probs

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of z and codes."""
        z, codes, weight, log_z = ctx.saved_tensors
        dz, dc = torch.ops.tstk.soft_assignment_backward(*grad_outputs, z, codes, weight, log_z, *ctx.options)
        return dz.to(z.dtype), dc.to(codes.dtype), None, None, None
