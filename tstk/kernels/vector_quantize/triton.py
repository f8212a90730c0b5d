"""Triton backend of vector quantisation: one kernel over the vectors forward and one backward, up to a width of 64.

Scores stay in registers, and are computed twice in each direction rather than stored: forward for the nearest code and
the normalizer of p, then for p; backward for the mean of its gradient, then for the gradients of vectors and codes. The
codes are prepared once, as for a search of `tstk.kernels.nearest_code`, and kept for the backward.

A mean over all vectors needs all programs to have finished. Each writes its sums, which are added in a launch of their
own and then made into losses: without atomics, so that every run gives the same bits. Forward that makes five launches
(mean of the codes, table, vectors, addition, losses), backward two (gradients, addition).
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from tstk.kernels.nearest_code.triton import (
    compute_scores,
    find_lowest,
    keep_lowest,
    load_centered,
    load_operands,
    prepare_codes,
)
from tstk.kernels.operators import register_operator
from tstk.kernels.tuning import ceil_div, load_tuned_sizes, next_power_of_2
from tstk.kernels.vector_quantize import LossOptions

CONFIGS: dict[tuple[str, int], dict[str, int]] = load_tuned_sizes(
    "vector_quantize",
    {
        ("forward", 10): {"BLOCK_N": 64, "BLOCK_K": 64, "num_warps": 4, "num_stages": 2},
        ("forward", 20): {"BLOCK_N": 64, "BLOCK_K": 64, "num_warps": 4, "num_stages": 2},
        ("forward", 32): {"BLOCK_N": 64, "BLOCK_K": 64, "num_warps": 4, "num_stages": 2},
        ("forward", 64): {"BLOCK_N": 64, "BLOCK_K": 32, "num_warps": 4, "num_stages": 2},
        ("backward", 10): {"BLOCK_N": 64, "BLOCK_K": 32, "num_warps": 4, "num_stages": 1},
        ("backward", 20): {"BLOCK_N": 64, "BLOCK_K": 32, "num_warps": 4, "num_stages": 1},
        ("backward", 32): {"BLOCK_N": 32, "BLOCK_K": 32, "num_warps": 4, "num_stages": 1},
        ("backward", 64): {"BLOCK_N": 32, "BLOCK_K": 32, "num_warps": 4, "num_stages": 1},
    },
)
"""Tile sizes by kernel and the largest width of vectors; up to 20, they are packed as in `nearest_code.triton`."""

MAX_PROGRAMS = 256
"""Programs of the backward, about two per multiprocessor: each adds up its own gradient of the codes."""
MIN_PROGRAMS = 64
"""Programs that the backward keeps however large the codebook is."""
PARTIAL_SUMS_SIZE = 2**25
"""Numbers in the gradients of the codes of all programs, from which on there are fewer than MAX_PROGRAMS."""

MIN_EXPONENT: tl.constexpr = tl.constexpr(-60.0)
MIN_PROBABILITY: tl.constexpr = tl.constexpr(1e-37)
NUM_SUMS: tl.constexpr = tl.constexpr(3)  # squared errors, entropies, number of valid vectors


# ---------------------------------------------------------------- forward


@triton.jit
def _load_valid(valid, rows, N):
    return rows < N if valid is None else tl.load(valid + rows, mask=rows < N, other=0) != 0


@triton.jit
def _load_rows(z, rows, N, D: tl.constexpr, offsets):
    """Load vectors as they are, [rows, offsets] float32."""
    inside = (rows < N)[:, None] & (offsets < D)[None, :]
    return tl.load(z + rows[:, None] * D + offsets[None, :], mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _load_selected(codes, ids, D: tl.constexpr, offsets):
    """Load the nearest codes, [ids, offsets] float32."""
    return tl.load(codes + ids[:, None] * D + offsets[None, :], mask=(offsets < D)[None, :], other=0.0).to(tl.float32)


@triton.jit
def _compute_p(score, scale, log_z, is_valid, cols, K):
    """Return p, 0 at rows that are not valid and beyond the last code, and its logarithm."""
    log_p = tl.maximum(-scale * score - log_z[:, None], MIN_EXPONENT, propagate_nan=tl.PropagateNan.ALL)
    return tl.where(is_valid[:, None] & (cols < K)[None, :], tl.exp(log_p), 0.0), log_p


@triton.jit
def _forward_kernel(
    z, codes, code_mean, squared_norms, table, valid, values, ids, log_zs, partial_sums, N, K, padded_codes,
    scale, floor,
    D: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_D: tl.constexpr, PACKED: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Each program takes BLOCK_N vectors; `partial_sums` [programs, K + NUM_SUMS] gets its sums of p and of losses."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_valid = _load_valid(valid, rows, N)
    high, low, square = load_operands(z, code_mean, rows, N, D, COLUMNS, BLOCK_D, PACKED)
    best = tl.full((BLOCK_N, BLOCK_K), float("inf"), tl.float32)
    best_k0 = tl.zeros((BLOCK_N, BLOCK_K), tl.int32)
    m_i = tl.full((BLOCK_N,), float("-inf"), tl.float32)
    l_i = tl.zeros((BLOCK_N,), tl.float32)
    for k0 in range(0, padded_codes, BLOCK_K):
        cols = k0 + tl.arange(0, BLOCK_K)
        score = compute_scores(high, low, table, squared_norms, cols, COLUMNS, BLOCK_D, PACKED)
        best, best_k0 = keep_lowest(score, k0, best, best_k0)
        m_new = tl.maximum(m_i, -scale * tl.min(score, 1))
        l_i = l_i * tl.exp(m_i - m_new) + tl.sum(tl.exp(-scale * score - m_new[:, None]), 1)
        m_i = m_new
    lowest, index = find_lowest(best, best_k0, square, K, BLOCK_K)
    log_z = tl.where((lowest == lowest) | ~is_valid, m_i + tl.log(l_i), float("nan"))
    entropy = tl.zeros((BLOCK_N,), tl.float32)
    sums = partial_sums + tl.program_id(0).to(tl.int64) * (K + NUM_SUMS)
    for k0 in range(0, padded_codes, BLOCK_K):
        cols = k0 + tl.arange(0, BLOCK_K)
        score = compute_scores(high, low, table, squared_norms, cols, COLUMNS, BLOCK_D, PACKED)
        p, log_p = _compute_p(score, scale, log_z, is_valid, cols, K)
        entropy -= tl.sum(p * tl.maximum(log_p, floor, propagate_nan=tl.PropagateNan.ALL), 1)
        tl.store(sums + cols, tl.sum(p, 0), mask=cols < K)
    offsets = tl.arange(0, BLOCK_D)
    x, c = _load_rows(z, rows, N, D, offsets), _load_selected(codes, index, D, offsets)
    inside = (rows < N)[:, None] & (offsets < D)[None, :]
    tl.store(values + rows[:, None] * D + offsets[None, :], c + (x - x), mask=inside)
    tl.store(ids + rows, index, mask=rows < N)
    tl.store(log_zs + rows, log_z, mask=rows < N)
    error = tl.where(is_valid[:, None], c - x, 0.0)
    tl.store(sums + K, tl.sum(tl.sum(error * error, 1), 0))
    tl.store(sums + K + 1, tl.sum(tl.where(is_valid, entropy, 0.0), 0))
    tl.store(sums + K + 2, tl.sum(is_valid.to(tl.float32), 0))


@triton.jit
def _compute_log(probs):
    return tl.log(tl.maximum(probs, MIN_PROBABILITY, propagate_nan=tl.PropagateNan.ALL))


@triton.jit
def _losses_kernel(
    sums, mean_probs, losses, K, commitment, codebook, entropy, gamma, floor, D: tl.constexpr, BLOCK_K: tl.constexpr
):
    """One program makes the sums of all programs into `mean_probs` [K] and `losses` [4], the last their count."""
    count = tl.maximum(tl.load(sums + K + 2), 1.0)
    of_mean = tl.zeros((BLOCK_K,), tl.float32)
    for k0 in range(0, K, BLOCK_K):
        cols = k0 + tl.arange(0, BLOCK_K)
        probs = tl.load(sums + cols, mask=cols < K, other=0.0) / count
        tl.store(mean_probs + cols, probs, mask=cols < K)
        of_mean -= probs * tl.maximum(_compute_log(probs), floor)
    square = tl.load(sums + K) / (count * D)
    tl.store(losses, commitment * square)
    tl.store(losses + 1, codebook * square)
    tl.store(losses + 2, entropy * (tl.load(sums + K + 1) / count - gamma * tl.sum(of_mean, 0)))
    tl.store(losses + 3, count)


# ---------------------------------------------------------------- backward


@triton.jit
def _load_scalar(pointer):
    return 0.0 if pointer is None else tl.load(pointer)


@triton.jit
def _load_slopes(mean_probs, grad_mean_probs, grad_of_mean, cols, K, floor):
    """Return the gradient with respect to the mean of p; `grad_of_mean` is that of minus the entropy of the mean."""
    log_mean = _compute_log(tl.load(mean_probs + cols, mask=cols < K, other=1.0))
    # of the mean times max(its logarithm, floor)
    slopes = grad_of_mean * tl.where(log_mean < floor, floor, log_mean + 1)
    if grad_mean_probs is not None:
        slopes += tl.load(grad_mean_probs + cols, mask=cols < K, other=0.0)
    return slopes


@triton.jit
def _compute_p_and_dp(
    high, low, table, squared_norms, mean_probs, grad_mean_probs, cols, K, scale, floor, log_z, is_valid,
    grad_each, grad_of_mean, COLUMNS: tl.constexpr, BLOCK_D: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """Return p, and the gradient with respect to p up to a constant per row and the weight of the row."""
    score = compute_scores(high, low, table, squared_norms, cols, COLUMNS, BLOCK_D, PACKED)
    p, log_p = _compute_p(score, scale, log_z, is_valid, cols, K)
    # d/dp of p log(max(p, floor)), less 1
    slope = tl.where(log_p > floor, log_p, floor - 1)
    slopes = _load_slopes(mean_probs, grad_mean_probs, grad_of_mean, cols, K, floor)
    return p, slopes[None, :] - grad_each * slope


@triton.jit
def _backward_kernel(
    z, codes, code_mean, squared_norms, table, valid, ids, log_zs, mean_probs, losses,
    grad_values, grad_commitment, grad_codebook, grad_entropy, grad_mean_probs, dz, partial_dc, N, K, padded_codes,
    commitment, codebook, entropy, gamma, scale, floor,
    D: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_D: tl.constexpr, PACKED: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Each program takes every so many tiles of BLOCK_N vectors, and adds up its own gradient of the codes.

    Gradients of outputs without one are None, and so is `partial_dc` [programs, K, D] if codes do not learn.
    """
    inv_count = 1 / tl.load(losses + 3)
    grad_each = _load_scalar(grad_entropy) * entropy
    grad_of_mean = grad_each * gamma
    pull_vectors = _load_scalar(grad_commitment) * commitment * (2 * inv_count / D)
    pull_codes = _load_scalar(grad_codebook) * codebook * (2 * inv_count / D)
    offsets = tl.arange(0, BLOCK_D)
    for tile in range(tl.program_id(0), tl.cdiv(N, BLOCK_N), tl.num_programs(0)):
        rows = tile * BLOCK_N + tl.arange(0, BLOCK_N).to(tl.int64)
        is_valid = _load_valid(valid, rows, N)
        high, low, _ = load_operands(z, code_mean, rows, N, D, COLUMNS, BLOCK_D, PACKED)
        log_z = tl.load(log_zs + rows, mask=rows < N, other=0.0)
        index = tl.load(ids + rows, mask=rows < N, other=0)
        product = tl.zeros((BLOCK_N,), tl.float32)
        l_i = tl.zeros((BLOCK_N,), tl.float32)
        for k0 in range(0, padded_codes, BLOCK_K):
            p, dp = _compute_p_and_dp(
                high, low, table, squared_norms, mean_probs, grad_mean_probs, k0 + tl.arange(0, BLOCK_K), K, scale,
                floor, log_z, is_valid, grad_each, grad_of_mean, COLUMNS, BLOCK_D, PACKED,
            )  # fmt: skip
            product += tl.sum(p * dp, 1)
            l_i += tl.sum(p, 1)
        # p sums to 1 only up to the rounding of log_z
        product = product / tl.where(is_valid, l_i, 1.0)
        x = tl.where(is_valid[:, None], load_centered(z, code_mean, rows, N, 0, D, BLOCK_D), 0.0)
        acc = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
        for k0 in range(0, padded_codes, BLOCK_K):
            cols = k0 + tl.arange(0, BLOCK_K)
            p, dp = _compute_p_and_dp(
                high, low, table, squared_norms, mean_probs, grad_mean_probs, cols, K, scale,
                floor, log_z, is_valid, grad_each, grad_of_mean, COLUMNS, BLOCK_D, PACKED,
            )  # fmt: skip
            ds = p * (dp - product[:, None]) * (2 * scale * inv_count)
            c = load_centered(codes, code_mean, cols, K, 0, D, BLOCK_D)
            acc += tl.dot(ds, c, input_precision="tf32x3")
            if partial_dc is not None:
                # the codebook loss pulls the nearest code only
                is_nearest = (index[:, None] == cols[None, :]) & is_valid[:, None]
                ds = tl.where(is_nearest, ds - pull_codes, ds)
                dc = tl.dot(tl.trans(ds), x, input_precision="tf32x3") - tl.sum(ds, 0)[:, None] * c
                inside = (cols < K)[:, None] & (offsets < D)[None, :]
                ptrs = partial_dc + (tl.program_id(0).to(tl.int64) * K + cols)[:, None] * D + offsets[None, :]
                if tile >= tl.num_programs(0):
                    dc += tl.load(ptrs, mask=inside, other=0.0)
                tl.store(ptrs, dc, mask=inside)
        error = _load_rows(z, rows, N, D, offsets) - _load_selected(codes, index, D, offsets)
        acc += tl.where(is_valid[:, None], error * pull_vectors, 0.0)
        inside = (rows < N)[:, None] & (offsets < D)[None, :]
        places = rows[:, None] * D + offsets[None, :]
        if grad_values is not None:
            acc += tl.load(grad_values + places, mask=inside, other=0.0).to(tl.float32)
        tl.store(dz + places, acc, mask=inside)
        tl.debug_barrier()  # the next tile adds to what other threads have stored


# ---------------------------------------------------------------- the operators


def _choose_tiles(kernel: str, d: int) -> dict[str, Any]:
    """Return the sizes of a kernel, and the layout of the table of codes, which both kernels read."""
    width = next(width for width in (10, 20, 32, 64) if d <= width)
    packed = width <= 20
    block_d = max(16, next_power_of_2(d)) if packed else width
    columns = {10: 32, 20: 64}[width] if packed else 2 * width
    return {"D": d, "COLUMNS": columns, "BLOCK_D": block_d, "PACKED": packed, **CONFIGS[kernel, width]}


def _choose_forward_tiles(d: int) -> tuple[dict[str, Any], int]:
    """Return the sizes of the forward kernel, and the number of codes that the table is padded to a multiple of."""
    backward_block = _choose_tiles("backward", d)["BLOCK_K"]
    tiles = _choose_tiles("forward", d)
    return tiles, max(tiles["BLOCK_K"], backward_block)


def _launch_forward(
    z: Tensor,
    codes: Tensor,
    valid: Tensor | None,
    commitment: float,
    codebook: float,
    entropy: float,
    gamma: float,
    scale: float,
    floor: float,
) -> tuple[Tensor, ...]:
    (n, d), k, codes = z.shape, len(codes), codes.contiguous()
    tiles, block_k = _choose_forward_tiles(d)
    block_d = None if tiles["PACKED"] else tiles["BLOCK_D"]
    prepared = prepare_codes(codes, block_k, tiles["COLUMNS"], block_d)
    table = prepared[-1]
    values, ids = torch.empty_like(z), z.new_empty(n, dtype=torch.long)
    log_zs, mean_probs, losses = table.new_empty(n), table.new_empty(k), table.new_empty(4)
    programs = ceil_div(n, tiles["BLOCK_N"])
    partial_sums = table.new_empty(programs, k + NUM_SUMS.value)
    with torch.cuda.device_of(z):
        if n:
            tensors = z, codes, *prepared, valid, values, ids, log_zs, partial_sums
            _forward_kernel[programs,](*tensors, n, k, len(table), scale, floor, **tiles)
        _losses_kernel[1,](
            partial_sums.sum(0), mean_probs, losses, k, commitment, codebook, entropy, gamma, floor, D=d, BLOCK_K=512
        )
    return values, ids, losses, mean_probs, log_zs, *prepared


def _fake_forward(z: Tensor, codes: Tensor, *_: Any) -> tuple[Tensor, ...]:
    (n, d), k = z.shape, len(codes)
    tiles, block_k = _choose_forward_tiles(d)
    padded = ceil_div(k, block_k) * block_k
    shapes = (4,), (k,), (n,), (d,), (padded,), (padded, tiles["COLUMNS"])
    sums = (z.new_empty(shape, dtype=torch.float32) for shape in shapes)
    return torch.empty_like(z), z.new_empty(n, dtype=torch.long), *sums


def _launch_backward(
    grad_values: Tensor | None,
    grad_commitment: Tensor | None,
    grad_codebook: Tensor | None,
    grad_entropy: Tensor | None,
    grad_mean_probs: Tensor | None,
    z: Tensor,
    codes: Tensor,
    code_mean: Tensor,
    squared_norms: Tensor,
    table: Tensor,
    valid: Tensor | None,
    ids: Tensor,
    log_zs: Tensor,
    mean_probs: Tensor,
    losses: Tensor,
    *options: Any,
) -> tuple[Tensor, Tensor]:
    *scalars, codes_learn = options
    (n, d), k, tiles = z.shape, len(codes), _choose_tiles("backward", z.shape[1])
    most = max(MIN_PROGRAMS, min(MAX_PROGRAMS, PARTIAL_SUMS_SIZE // (k * d)))
    programs = min(ceil_div(n, tiles["BLOCK_N"]), most)
    dz = torch.empty_like(z)
    partial_dc = table.new_empty(programs, k, d) if codes_learn else None
    if n:
        grads = (
            None if grad is None else grad.contiguous()
            for grad in (grad_values, grad_commitment, grad_codebook, grad_entropy, grad_mean_probs)
        )
        tensors = z, codes.contiguous(), code_mean, squared_norms, table, valid, ids, log_zs, mean_probs, losses
        with torch.cuda.device_of(z):
            _backward_kernel[programs,](*tensors, *grads, dz, partial_dc, n, k, len(table), *scalars, **tiles)
    return dz, codes.new_empty(0) if partial_dc is None else partial_dc.sum(0).to(codes.dtype)


def _fake_backward(*args: Any) -> tuple[Tensor, Tensor]:
    z, codes, codes_learn = args[5], args[6], args[-1]
    dc = torch.empty_like(codes, memory_format=torch.contiguous_format) if codes_learn else codes.new_empty(0)
    return torch.empty_like(z), dc


register_operator(
    "vector_quantize(Tensor z, Tensor codes, Tensor? valid, float commitment, float codebook, float entropy, "
    "float gamma, float scale, float floor) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _launch_forward,
    _fake_forward,
)
register_operator(
    "vector_quantize_backward(Tensor? grad_values, Tensor? grad_commitment, Tensor? grad_codebook, "
    "Tensor? grad_entropy, Tensor? grad_mean_probs, Tensor z, Tensor codes, Tensor code_mean, Tensor squared_norms, "
    "Tensor table, Tensor? valid, Tensor ids, Tensor log_zs, Tensor mean_probs, Tensor losses, float commitment, "
    "float codebook, float entropy, float gamma, float scale, float floor, bool codes_learn) -> (Tensor, Tensor)",
    _launch_backward,
    _fake_backward,
)


# ---------------------------------------------------------------- the backend


def vector_quantize(
    z: Tensor, codes: Tensor, valid: Tensor | None, options: LossOptions
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See `tstk.kernels.vector_quantize`."""
    rows = z.reshape(-1, z.shape[-1]).contiguous()
    mask = None if valid is None else valid.reshape(-1).contiguous()
    *weights, temperature, log_floor = options
    scalars = *weights, 1 / temperature, math.log(log_floor) if log_floor else -math.inf
    values, ids, *losses = VectorQuantize.apply(rows, codes, mask, scalars)
    commitment, codebook, entropy, mean_probs = losses
    return values.reshape(z.shape), ids.reshape(z.shape[:-1]), commitment, codebook, entropy, mean_probs


class VectorQuantize(torch.autograd.Function):
    """Scores are computed again in the backward; the prepared codes are kept."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, codes: Tensor, valid: Tensor | None, scalars: tuple[float, ...]
    ) -> tuple[Tensor, ...]:
        """Return values [N, d], ids [N], three losses [] and the mean of p [K], for z [N, d] and valid [N]."""
        values, ids, losses, mean_probs, log_zs, *prepared = torch.ops.tstk.vector_quantize(z, codes, valid, *scalars)
        ctx.save_for_backward(z, codes, *prepared, valid, ids, log_zs, mean_probs, losses)
        ctx.scalars = scalars
        ctx.mark_non_differentiable(ids)
        ctx.set_materialize_grads(False)
        commitment, codebook, entropy, _ = losses.unbind()
        return values, ids, commitment, codebook, entropy, mean_probs

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients of z and codes."""
        grad_values, _, *grad_losses = grad_outputs
        codes_learn = ctx.needs_input_grad[1]
        dz, dc = torch.ops.tstk.vector_quantize_backward(
            grad_values, *grad_losses, *ctx.saved_tensors, *ctx.scalars, codes_learn
        )
        return dz, dc if codes_learn else None, None, None
