"""Both stages of a plan on a GPU: products of frames and matrices, whose frames are read where they lie.

Layout: series [R, length], a frame of M samples every `hop`; weight [n, M, C] makes it into C samples of each of n rows
of the output [R, rows, samples]: the b-th frame fills b * C ... in each. Columns count through the n * C of a level.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from tstk.kernels.dispatch import interpreted
from tstk.kernels.ricker_cwt.plan import layout, plan
from tstk.kernels.ricker_cwt.torch import centre, patches, restore
from tstk.kernels.tuning import tuned

CONFIGS: dict[tuple[str, int], dict[str, int]] = tuned(
    "ricker_cwt",
    {
        ("answer", 16): {"BLOCK_R": 64, "BLOCK_C": 16, "BLOCK_M": 32, "num_warps": 4, "num_stages": 3},
        ("answer", 32): {"BLOCK_R": 64, "BLOCK_C": 32, "BLOCK_M": 32, "num_warps": 4, "num_stages": 3},
        ("answer", 64): {"BLOCK_R": 64, "BLOCK_C": 64, "BLOCK_M": 32, "num_warps": 4, "num_stages": 3},
        ("answer", 128): {"BLOCK_R": 64, "BLOCK_C": 64, "BLOCK_M": 32, "num_warps": 8, "num_stages": 3},
        ("collect", 16): {"BLOCK_R": 64, "BLOCK_C": 16, "BLOCK_M": 64, "num_warps": 4, "num_stages": 3},
        ("collect", 32): {"BLOCK_R": 64, "BLOCK_C": 32, "BLOCK_M": 64, "num_warps": 4, "num_stages": 3},
        ("collect", 64): {"BLOCK_R": 64, "BLOCK_C": 32, "BLOCK_M": 64, "num_warps": 4, "num_stages": 3},
        ("collect", 128): {"BLOCK_R": 64, "BLOCK_C": 32, "BLOCK_M": 64, "num_warps": 4, "num_stages": 3},
    },
)
"""Tiles by kernel and by columns of a level, rounded up to a power of two from 16 to 128."""


@triton.jit
def _answer(
    source, weight, out, R, blocks, hop, M, N, source_series, out_series, samples,
    C: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_M: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A program owns BLOCK_R frames, counted through all series, and BLOCK_C columns."""
    frame = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    column = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    series, block = (frame // blocks).to(tl.int64), frame % blocks
    row, sample = column // C, column % C
    is_frame, is_column = (frame < R * blocks)[:, None], (column < N)[None, :]
    begin = source + (series * source_series + block * hop)[:, None]
    matrix = weight + (row * M * C + sample)[None, :]
    answer = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for m0 in range(0, M, BLOCK_M):
        m = m0 + tl.arange(0, BLOCK_M)
        f = tl.load(begin + m[None, :], mask=is_frame & (m < M)[None, :], other=0.0)
        w = tl.load(matrix + m[:, None] * C, mask=is_column & (m < M)[:, None], other=0.0)
        answer += tl.dot(f, w, input_precision=PRECISION)
    at = (block * C)[:, None] + sample[None, :]
    place = out + (series * out_series)[:, None] + (row * samples)[None, :] + at
    tl.store(place, answer, mask=is_frame & is_column & (at < samples))


@triton.jit
def _collect(
    grad, weight, frames, R, blocks, M, N, grad_series, samples,
    C: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_M: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The transpose: a program owns BLOCK_R frames and BLOCK_M of their M samples, and sums over all columns."""
    frame = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    series, block = (frame // blocks).to(tl.int64), frame % blocks
    is_frame, is_sample = (frame < R * blocks)[:, None], (m < M)[None, :]
    begin = grad + (series * grad_series)[:, None]
    total = tl.zeros((BLOCK_R, BLOCK_M), tl.float32)
    for c0 in range(0, N, BLOCK_C):
        column = c0 + tl.arange(0, BLOCK_C)
        row, sample = column // C, column % C
        at = (block * C)[:, None] + sample[None, :]
        inside = is_frame & (column < N)[None, :] & (at < samples)
        g = tl.load(begin + (row * samples)[None, :] + at, mask=inside, other=0.0)
        w = tl.load(
            weight + (row * M * C + sample)[:, None] + m[None, :] * C, mask=(column < N)[:, None] & is_sample, other=0.0
        )
        total += tl.dot(g, w, input_precision=PRECISION)
    place = frames + frame.to(tl.int64)[:, None] * M + m[None, :]
    tl.store(place, total, mask=is_frame & is_sample)


# ---------------------------------------------------------------- the operators


def _tiles(kernel: str, x: Tensor, columns: int) -> dict[str, Any]:
    old = x.is_cuda and torch.cuda.get_device_capability(x.device) < (8, 0)
    wide = min(max(16, triton.next_power_of_2(columns)), 128)
    return {**CONFIGS[kernel, wide], "PRECISION": "ieee" if old else "tf32x3"}


def _forth(source: Tensor, weight: Tensor, hop: int, blocks: int, out: Tensor) -> None:
    """Frames of `source` times `weight` into `out` [R, n, samples]; rows of both need not lie side by side."""
    n, m, c = weight.shape
    tiles = _tiles("answer", source, n * c)
    grid = triton.cdiv(len(source) * blocks, tiles["BLOCK_R"]), triton.cdiv(n * c, tiles["BLOCK_C"])
    sizes = len(source), blocks, hop, m, n * c, source.stride(0), out.stride(0), out.shape[2]
    _answer[grid](source, weight, out, *sizes, C=c, **tiles)


def _back(grad: Tensor, weight: Tensor, hop: int, blocks: int) -> Tensor:
    """[R, length] what reaches the source; where frames overlap it is added in order."""
    n, m, c = weight.shape
    tiles = _tiles("collect", grad, n * c)
    frames = grad.new_empty(len(grad), blocks, m)
    grid = triton.cdiv(len(grad) * blocks, tiles["BLOCK_R"]), triton.cdiv(m, tiles["BLOCK_M"])
    sizes = len(grad), blocks, m, n * c, grad.stride(0), grad.shape[2]
    _collect[grid](grad, weight, frames, *sizes, C=c, **tiles)
    return F.fold(frames.transpose(1, 2), (1, (blocks - 1) * hop + m), (1, m), stride=(1, hop)).flatten(1)


def _forward(x: Tensor, scales: list[float], padding: str, kernel: str, patch: list[int]) -> Tensor:
    chosen = plan(tuple(scales), x.shape[1], padding, kernel, tuple(patch), x.device, x.dtype)
    out = _forward_fake(x, scales, padding, kernel, patch)
    if not len(x):
        return out
    padded = F.pad(x, chosen.pad) if chosen.index is None else x.index_select(1, chosen.index)
    with torch.cuda.device_of(x):
        for level in chosen.levels:
            source = padded[:, level.start :]
            if level.smooth is not None:
                smooth = x.new_empty(len(x), 1, level.frames * level.smooth.shape[1])
                _forth(source, level.smooth[None], level.step * level.smooth.shape[1], level.frames, smooth)
                source = smooth[:, 0]
            into = out[:, level.first : level.first + len(level.weight)]
            _forth(source, level.weight, patch[1] // level.step, chosen.blocks, into)
    return out


def _backward(grad: Tensor, length: int, scales: list[float], padding: str, kernel: str, patch: list[int]) -> Tensor:
    chosen = plan(tuple(scales), length, padding, kernel, tuple(patch), grad.device, grad.dtype)
    if not len(grad):
        return grad.new_zeros(0, length)
    left, right = chosen.pad
    padded = grad.new_zeros(len(grad), left + length + right)
    with torch.cuda.device_of(grad):
        for level in chosen.levels:
            of = grad[:, level.first : level.first + len(level.weight)]
            back = _back(of, level.weight, patch[1] // level.step, chosen.blocks)
            if level.smooth is not None:
                count = level.smooth.shape[1]
                back = F.pad(back, (0, level.frames * count - back.shape[1]))[:, None]
                back = _back(back, level.smooth[None], level.step * count, level.frames)
            padded[:, level.start : level.start + back.shape[1]] += back
    if chosen.index is None:
        return padded[:, left : left + length].contiguous()
    # index_put adds in order; index_add on a GPU does not
    return grad.new_zeros(length, len(grad)).index_put_((chosen.index,), padded.t(), accumulate=True).t().contiguous()


def _forward_fake(x: Tensor, scales: list[float], padding: str, kernel: str, patch: list[int]) -> Tensor:
    return x.new_empty(x.shape[0], len(scales) // patch[0], x.shape[1] * patch[0])


def _backward_fake(
    grad: Tensor, length: int, scales: list[float], padding: str, kernel: str, patch: list[int]
) -> Tensor:
    return grad.new_empty(grad.shape[0], length)


_library = torch.library.Library("tstk", "FRAGMENT")
_chosen = "float[] scales, str padding, str kernel, int[] patch"
for _name, _signature, _run, _fake in (
    ("ricker_cwt", f"(Tensor x, {_chosen}) -> Tensor", _forward, _forward_fake),
    ("ricker_cwt_backward", f"(Tensor grad, int length, {_chosen}) -> Tensor", _backward, _backward_fake),
):
    _library.define(_name + _signature)
    _library.impl(_name, _run, "CPU" if interpreted() else "CUDA")
    torch.library.register_fake(f"tstk::{_name}", _fake, lib=_library)


class _Transform(torch.autograd.Function):
    """Linear: nothing is kept for the backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *chosen: Any) -> Tensor:
        ctx.length, ctx.chosen = x.shape[1], chosen
        out: Tensor = torch.ops.tstk.ricker_cwt(x, *chosen)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad = torch.ops.tstk.ricker_cwt_backward(grads[0].contiguous(), ctx.length, *ctx.chosen)
        return grad, None, None, None, None


def ricker_cwt(
    x: Tensor,
    scales: tuple[float, ...],
    *,
    padding: str = "zero",
    kernel: str = "odd",
    patch: tuple[int, int] | None = None,
) -> Tensor:
    """As `tstk.kernels.ricker_cwt`."""
    length = x.shape[-1]
    laid, _ = layout(scales, length, kernel, patch)
    with torch.autocast(x.device.type, enabled=False):
        rows = x.float().reshape(-1, length).contiguous()
        rows, mean = centre(rows, padding)
        out: Tensor = _Transform.apply(rows, scales, padding, kernel, laid)
        if patch is not None:
            out = out.unflatten(2, (-1, laid[0] * laid[1])) if laid == patch else patches(out, patch)
        out = restore(out, mean, scales, length, kernel, patch)
    return out.reshape(*x.shape[:-1], *out.shape[1:])
