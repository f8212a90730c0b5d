"""Search and soft assignments on a GPU: scores live in registers, tile by tile.

Layout: vectors z [N, d] and codes [K, d], both row-major; codes are centred on their mean, `middle` [d], which is
taken from z on loading; `lengths` [K] are the squares of the centred codes. Sums over rows are written per program
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

from tstk.kernels.dispatch import interpreted
from tstk.kernels.nearest_code.reference import LARGEST
from tstk.kernels.tuning import tuned

CONFIGS: dict[tuple[str, int], dict[str, Any]] = tuned(
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
"""Tiles by kernel and width, rounded up to a power of two from 16 to 128.

128 stands for everything wider than 64. Where there is a BLOCK_D, a program goes over a vector in blocks of so many
columns; elsewhere it holds all of them.
"""

SEGMENTS = 64
"""Into how many parts the rows are divided where programs own codes."""

LOWEST: tl.constexpr = tl.constexpr(-60.0)
FARTHEST: tl.constexpr = tl.constexpr(LARGEST)


def _tiles(kernel: str, d: int) -> dict[str, Any]:
    block = min(max(16, triton.next_power_of_2(d)), 128)
    # up to 16 wide exact products cost nothing; beyond, three TF32 products err by less than float32 sums do
    precision = "ieee" if block == 16 else "tf32x3"
    return {"D": d, "BLOCK_D": block, "PRECISION": precision, **CONFIGS[kernel, block]}


@triton.jit
def _load(base, rows, count, d0, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Columns d0.. of rows, [rows, BLOCK_D] float32, 0 outside."""
    at = d0 + tl.arange(0, BLOCK_D)
    inside = (rows < count)[:, None] & (at < D)[None, :]
    return tl.load(base + rows[:, None] * D + at[None, :], mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _centred(z, middle, rows, N, d0, D: tl.constexpr, BLOCK_D: tl.constexpr):
    at = d0 + tl.arange(0, BLOCK_D)
    return _load(z, rows, N, d0, D, BLOCK_D) - tl.load(middle + at, mask=at < D, other=0.0)[None, :]


@triton.jit
def _search(
    z, middle, codes, lengths, ids, squares, N, K,
    D: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A program owns BLOCK_N vectors and goes over all codes, keeping the best score and the first that has it."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    x = _centred(z, middle, rows, N, 0, D, BLOCK_D)
    square = tl.sum(x * x, 1)
    for d0 in range(BLOCK_D, D, BLOCK_D):
        part = _centred(z, middle, rows, N, d0, D, BLOCK_D)
        square += tl.sum(part * part, 1)
    fine = square <= FARTHEST
    x = tl.where(fine[:, None], x, 0.0)
    best = tl.full((BLOCK_N,), float("inf"), tl.float32)
    which = tl.zeros((BLOCK_N,), tl.int32)
    for k0 in range(0, K, BLOCK_K):
        cols = k0 + tl.arange(0, BLOCK_K)
        c = _load(codes, cols, K, 0, D, BLOCK_D)
        product = tl.dot(x, tl.trans(c), input_precision=PRECISION)
        # A loop, not unrolled: only one block of columns is on the chip, however wide the vectors are.
        for d0 in range(BLOCK_D, D, BLOCK_D):
            part = tl.where(fine[:, None], _centred(z, middle, rows, N, d0, D, BLOCK_D), 0.0)
            c = _load(codes, cols, K, d0, D, BLOCK_D)
            product += tl.dot(part, tl.trans(c), input_precision=PRECISION)
        score = tl.load(lengths + cols, mask=cols < K, other=float("inf"))[None, :] - 2 * product
        low, at = tl.min(score, 1, return_indices=True, return_indices_tie_break_left=True)
        which = tl.where(low < best, k0 + at, which)
        best = tl.minimum(low, best)
    tl.store(ids + rows, tl.where(fine, which, 0).to(tl.int64), mask=rows < N)
    tl.store(squares + rows, tl.where(fine, tl.maximum(square + best, 0.0), float("nan")), mask=rows < N)


@triton.jit
def _scores(x, codes, lengths, cols, K, scale, D: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr):
    """(2 x.c - |c|^2) / temperature, [rows, cols], and the codes; -inf beyond the last."""
    c = _load(codes, cols, K, 0, D, BLOCK_D)
    length = tl.load(lengths + cols, mask=cols < K, other=float("inf"))
    return (2 * tl.dot(x, tl.trans(c), input_precision=PRECISION) - length[None, :]) * scale, c


@triton.jit
def _pulled(score, log_z, to_entropy, to_share, cols, K, floor):
    """p, and d/dp up to a constant per row."""
    log_p = tl.maximum(score - log_z[:, None], LOWEST)
    p = tl.where((cols < K)[None, :], tl.exp(log_p), 0.0)
    slope = tl.where(log_p > floor, log_p, floor - 1)
    return p, tl.load(to_share + cols, mask=cols < K, other=0.0)[None, :] - tl.load(to_entropy) * slope


@triton.jit
def _soft(
    z, middle, codes, lengths, weight, entropies, log_zs, shares, N, K, scale, floor,
    D: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A program owns BLOCK_N vectors and goes over all codes twice: for the norm of p, then for p."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    x = _centred(z, middle, rows, N, 0, D, BLOCK_D)
    top = tl.full((BLOCK_N,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_N,), tl.float32)
    for k0 in range(0, K, BLOCK_K):
        cols = k0 + tl.arange(0, BLOCK_K)
        score, _ = _scores(x, codes, lengths, cols, K, scale, D, BLOCK_D, PRECISION)
        higher = tl.maximum(top, tl.max(score, 1))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(score - higher[:, None]), 1)
        top = higher
    log_z = top + tl.log(total)
    w = tl.load(weight + rows, mask=rows < N, other=0.0)
    entropy = tl.zeros((BLOCK_N,), tl.float32)
    for k0 in range(0, K, BLOCK_K):
        cols = k0 + tl.arange(0, BLOCK_K)
        score, _ = _scores(x, codes, lengths, cols, K, scale, D, BLOCK_D, PRECISION)
        log_p = tl.maximum(score - log_z[:, None], LOWEST)
        p = tl.where((cols < K)[None, :], tl.exp(log_p), 0.0)
        entropy -= tl.sum(p * tl.maximum(log_p, floor), 1)
        here = shares + tl.program_id(0).to(tl.int64) * K + cols
        tl.store(here, tl.sum(w[:, None] * p, 0), mask=cols < K)
    tl.store(entropies + rows, w * entropy, mask=rows < N)
    tl.store(log_zs + rows, log_z, mask=rows < N)


@triton.jit
def _to_vectors(
    z, middle, codes, lengths, weight, log_zs, to_entropy, to_share, inner, dz, N, K, scale, floor,
    D: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A program owns BLOCK_N vectors: first <p, u> over all codes, then the gradient."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    x = _centred(z, middle, rows, N, 0, D, BLOCK_D)
    log_z = tl.load(log_zs + rows, mask=rows < N, other=0.0)
    product = tl.zeros((BLOCK_N,), tl.float32)
    total = tl.zeros((BLOCK_N,), tl.float32)
    for k0 in range(0, K, BLOCK_K):
        cols = k0 + tl.arange(0, BLOCK_K)
        score, _ = _scores(x, codes, lengths, cols, K, scale, D, BLOCK_D, PRECISION)
        p, u = _pulled(score, log_z, to_entropy, to_share, cols, K, floor)
        product += tl.sum(p * u, 1)
        total += tl.sum(p, 1)
    product = product / total
    gradient = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    for k0 in range(0, K, BLOCK_K):
        cols = k0 + tl.arange(0, BLOCK_K)
        score, c = _scores(x, codes, lengths, cols, K, scale, D, BLOCK_D, PRECISION)
        p, u = _pulled(score, log_z, to_entropy, to_share, cols, K, floor)
        gradient += tl.dot(p * (u - product[:, None]), c, input_precision=PRECISION)
    w = tl.load(weight + rows, mask=rows < N, other=0.0)
    at = tl.arange(0, BLOCK_D)
    inside = (rows < N)[:, None] & (at < D)[None, :]
    tl.store(dz + rows[:, None] * D + at[None, :], gradient * (2 * scale * w)[:, None], mask=inside)
    tl.store(inner + rows, product, mask=rows < N)


@triton.jit
def _to_codes(
    z, middle, codes, lengths, weight, log_zs, to_entropy, to_share, inner, dc, N, K, segment, scale, floor,
    D: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A program owns BLOCK_K codes and one segment of the vectors."""
    cols = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)
    first = tl.program_id(1).to(tl.int64) * segment
    gradient = tl.zeros((BLOCK_K, BLOCK_D), tl.float32)
    column = tl.zeros((BLOCK_K,), tl.float32)
    for n0 in range(0, segment, BLOCK_N):
        rows = first + n0 + tl.arange(0, BLOCK_N)
        x = _centred(z, middle, rows, N, 0, D, BLOCK_D)
        score, _ = _scores(x, codes, lengths, cols, K, scale, D, BLOCK_D, PRECISION)
        log_z = tl.load(log_zs + rows, mask=rows < N, other=float("inf"))
        p, u = _pulled(score, log_z, to_entropy, to_share, cols, K, floor)
        product = tl.load(inner + rows, mask=rows < N, other=0.0)
        w = tl.load(weight + rows, mask=rows < N, other=0.0)
        q = tl.trans(p * (u - product[:, None]) * (2 * scale * w)[:, None])
        gradient += tl.dot(q, x, input_precision=PRECISION)
        column += tl.sum(q, 1)
    c = _load(codes, cols, K, 0, D, BLOCK_D)
    at = tl.arange(0, BLOCK_D)
    inside = (cols < K)[:, None] & (at < D)[None, :]
    out = dc + tl.program_id(1).to(tl.int64) * K * D + cols[:, None] * D + at[None, :]
    tl.store(out, gradient - column[:, None] * c, mask=inside)


# ---------------------------------------------------------------- the operators


def _search_launch(z: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    c, middle, lengths = _prepared(codes)
    middle = middle.where((lengths <= LARGEST).all(), torch.nan)  # then no vector is near enough
    c, lengths = c.nan_to_num(), lengths.nan_to_num()
    n, d = z.shape
    ids, squares = z.new_empty(n, dtype=torch.long), z.new_empty(n, dtype=torch.float32)
    tiles = _tiles("search", d)
    if n:
        with torch.cuda.device_of(z):
            _search[triton.cdiv(n, tiles["BLOCK_N"]),](z, middle, c, lengths, ids, squares, n, len(c), **tiles)
    return ids, squares


def _soft_launch(
    z: Tensor, codes: Tensor, weight: Tensor, temperature: float, floor: float
) -> tuple[Tensor, Tensor, Tensor]:
    c, middle, lengths = _prepared(codes)
    n, d = z.shape
    tiles = _tiles("soft", d)
    programs = triton.cdiv(n, tiles["BLOCK_N"])
    entropies, log_z, shares = c.new_empty(n), c.new_empty(n), c.new_empty(programs, len(c))
    if n:
        given = z, middle, c, lengths, weight, entropies, log_z, shares
        with torch.cuda.device_of(z):
            _soft[programs,](*given, n, len(c), 1 / temperature, floor, **tiles)
    return entropies.sum(), shares.sum(0), log_z


def _back_launch(
    to_entropy: Tensor,
    to_share: Tensor,
    z: Tensor,
    codes: Tensor,
    weight: Tensor,
    log_z: Tensor,
    temperature: float,
    floor: float,
) -> tuple[Tensor, Tensor]:
    c, middle, lengths = _prepared(codes)
    n, d = z.shape
    tiles = _tiles("soft", d)
    segment = triton.cdiv(triton.cdiv(n, SEGMENTS), tiles["BLOCK_N"]) * tiles["BLOCK_N"]
    parts = triton.cdiv(n, segment) if n else 0
    dz, dc, inner = c.new_empty(n, d), c.new_empty(parts, *c.shape), c.new_empty(n)
    if n:
        given = z, middle, c, lengths, weight, log_z, to_entropy.contiguous(), to_share.contiguous(), inner
        chosen = 1 / temperature, floor
        with torch.cuda.device_of(z):
            _to_vectors[triton.cdiv(n, tiles["BLOCK_N"]),](*given, dz, n, len(c), *chosen, **tiles)
            _to_codes[triton.cdiv(len(c), tiles["BLOCK_K"]), parts](*given, dc, n, len(c), segment, *chosen, **tiles)
    return dz, dc.sum(0)


def _prepared(codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    c = codes.float()
    middle = c.mean(0)
    c = (c - middle).contiguous()
    return c, middle, c.square().sum(1)


def _fake_search(z: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    return z.new_empty(len(z), dtype=torch.long), z.new_empty(len(z), dtype=torch.float32)


def _fake_soft(z: Tensor, codes: Tensor, weight: Tensor, *_: float) -> tuple[Tensor, Tensor, Tensor]:
    return weight.new_empty(()), weight.new_empty(len(codes)), weight.new_empty(len(z))


def _fake_back(to_entropy: Tensor, to_share: Tensor, z: Tensor, codes: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return z.new_empty(z.shape, dtype=torch.float32), z.new_empty(codes.shape, dtype=torch.float32)


_library = torch.library.Library("tstk", "FRAGMENT")
_soft_inputs = "Tensor z, Tensor codes, Tensor weight"
for _name, _signature, _launch, _fake in (
    ("nearest_code", "(Tensor z, Tensor codes) -> (Tensor, Tensor)", _search_launch, _fake_search),
    (
        "soft_assignment",
        f"({_soft_inputs}, float temperature, float floor) -> (Tensor, Tensor, Tensor)",
        _soft_launch,
        _fake_soft,
    ),
    (
        "soft_assignment_backward",
        f"(Tensor to_entropy, Tensor to_share, {_soft_inputs}, Tensor log_z, float temperature, float floor)"
        " -> (Tensor, Tensor)",
        _back_launch,
        _fake_back,
    ),
):
    _library.define(_name + _signature)
    _library.impl(_name, _launch, "CPU" if interpreted() else "CUDA")
    torch.library.register_fake(f"tstk::{_name}", _fake, lib=_library)


# ---------------------------------------------------------------- what the front door calls


def nearest_code(z: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """As `tstk.kernels.nearest_code`."""
    with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
        x = z.reshape(-1, z.shape[-1]).contiguous()
        ids, squares = torch.ops.tstk.nearest_code(x, codes)
        return ids.reshape(z.shape[:-1]), squares.reshape(z.shape[:-1])


def soft_assignment(
    z: Tensor, codes: Tensor, weight: Tensor, temperature: float, log_floor: float
) -> tuple[Tensor, Tensor]:
    """As `tstk.kernels.nearest_code.soft_assignment`, for z [N, d] and weight [N]."""
    floor = math.log(log_floor) if log_floor else -math.inf
    out: tuple[Tensor, Tensor] = SoftAssignment.apply(z.contiguous(), codes, weight, temperature, floor)
    return out


class SoftAssignment(torch.autograd.Function):
    """p = softmax(-|z - c|^2 / temperature), recomputed in the backward instead of kept."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, codes: Tensor, weight: Tensor, temperature: float, floor: float
    ) -> tuple[Tensor, Tensor]:
        """Entropy [] and share [K]; `floor` is the least logarithm."""
        entropy, share, log_z = torch.ops.tstk.soft_assignment(z, codes, weight, temperature, floor)
        ctx.save_for_backward(z, codes, weight, log_z)
        ctx.chosen = temperature, floor
        return entropy, share

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor | None, ...]:
        """To z and codes."""
        z, codes, weight, log_z = ctx.saved_tensors
        dz, dc = torch.ops.tstk.soft_assignment_backward(*above, z, codes, weight, log_z, *ctx.chosen)
        return dz.to(z.dtype), dc.to(codes.dtype), None, None, None
