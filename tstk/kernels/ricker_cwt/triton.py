"""Triton backend: both stages of a plan as matrix products of frames, which are read without unfolding the series.

Layout: series [R, length] with a frame of M samples every `hop`; weight [n, M, C] maps frame b to samples b * C to
(b + 1) * C of n rows of the output [R, rows, samples]. Columns are numbered through the n * C of a level.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from tstk.kernels.operators import register_operator
from tstk.kernels.ricker_cwt.plan import build_plan, choose_layout
from tstk.kernels.ricker_cwt.torch import add_mean_response, patchify, subtract_mean
from tstk.kernels.tuning import load_tuned_sizes

CONFIGS: dict[tuple[str, int], dict[str, int]] = load_tuned_sizes(
    "ricker_cwt",
    {
        ("frames", 16): {"BLOCK_R": 64, "BLOCK_C": 16, "BLOCK_M": 32, "num_warps": 4, "num_stages": 3},
        ("frames", 32): {"BLOCK_R": 64, "BLOCK_C": 32, "BLOCK_M": 32, "num_warps": 4, "num_stages": 3},
        ("frames", 64): {"BLOCK_R": 64, "BLOCK_C": 64, "BLOCK_M": 32, "num_warps": 4, "num_stages": 3},
        ("frames", 128): {"BLOCK_R": 64, "BLOCK_C": 64, "BLOCK_M": 32, "num_warps": 8, "num_stages": 3},
        ("transposed", 16): {"BLOCK_R": 64, "BLOCK_C": 16, "BLOCK_M": 64, "num_warps": 4, "num_stages": 3},
        ("transposed", 32): {"BLOCK_R": 64, "BLOCK_C": 32, "BLOCK_M": 64, "num_warps": 4, "num_stages": 3},
        ("transposed", 64): {"BLOCK_R": 64, "BLOCK_C": 32, "BLOCK_M": 64, "num_warps": 4, "num_stages": 3},
        ("transposed", 128): {"BLOCK_R": 64, "BLOCK_C": 32, "BLOCK_M": 64, "num_warps": 4, "num_stages": 3},
    },
)
"""Tile sizes by kernel and by columns of a level, rounded up to a power of two from 16 to 128."""


@triton.jit
def _frames_matmul_kernel(
    source, weight, out, R, blocks, hop, M, N, source_series, out_series, samples,
    C: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_M: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Each program computes BLOCK_C columns of BLOCK_R frames, numbered through all series."""
    frame = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    column = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    series, block = (frame // blocks).to(tl.int64), frame % blocks
    row, sample = column // C, column % C
    is_frame, is_column = (frame < R * blocks)[:, None], (column < N)[None, :]
    begin = source + (series * source_series + block * hop)[:, None]
    matrix = weight + (row * M * C + sample)[None, :]
    acc = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for m0 in range(0, M, BLOCK_M):
        m = m0 + tl.arange(0, BLOCK_M)
        f = tl.load(begin + m[None, :], mask=is_frame & (m < M)[None, :], other=0.0)
        w = tl.load(matrix + m[:, None] * C, mask=is_column & (m < M)[:, None], other=0.0)
        acc += tl.dot(f, w, input_precision=PRECISION)
    offsets = (block * C)[:, None] + sample[None, :]
    ptrs = out + (series * out_series)[:, None] + (row * samples)[None, :] + offsets
    tl.store(ptrs, acc, mask=is_frame & is_column & (offsets < samples))


@triton.jit
def _transposed_matmul_kernel(
    grad, weight, frames, R, blocks, M, N, grad_series, samples,
    C: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_M: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The transpose: each program computes BLOCK_M samples of BLOCK_R frames, summing over all columns."""
    frame = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    series, block = (frame // blocks).to(tl.int64), frame % blocks
    is_frame, is_sample = (frame < R * blocks)[:, None], (m < M)[None, :]
    begin = grad + (series * grad_series)[:, None]
    acc = tl.zeros((BLOCK_R, BLOCK_M), tl.float32)
    for c0 in range(0, N, BLOCK_C):
        column = c0 + tl.arange(0, BLOCK_C)
        row, sample = column // C, column % C
        offsets = (block * C)[:, None] + sample[None, :]
        inside = is_frame & (column < N)[None, :] & (offsets < samples)
        g = tl.load(begin + (row * samples)[None, :] + offsets, mask=inside, other=0.0)
        w = tl.load(
            weight + (row * M * C + sample)[:, None] + m[None, :] * C, mask=(column < N)[:, None] & is_sample, other=0.0
        )
        acc += tl.dot(g, w, input_precision=PRECISION)
    ptrs = frames + frame.to(tl.int64)[:, None] * M + m[None, :]
    tl.store(ptrs, acc, mask=is_frame & is_sample)


# ---------------------------------------------------------------- the operators


def _choose_tiles(kernel: str, x: Tensor, columns: int) -> dict[str, Any]:
    old = x.is_cuda and torch.cuda.get_device_capability(x.device) < (8, 0)
    wide = min(max(16, triton.next_power_of_2(columns)), 128)
    return {**CONFIGS[kernel, wide], "PRECISION": "ieee" if old else "tf32x3"}


def _multiply_frames(source: Tensor, weight: Tensor, hop: int, blocks: int, out: Tensor) -> None:
    """Multiply frames of `source` by `weight` into `out` [R, n, samples]; rows of both may have any stride."""
    n, m, c = weight.shape
    tiles = _choose_tiles("frames", source, n * c)
    grid = triton.cdiv(len(source) * blocks, tiles["BLOCK_R"]), triton.cdiv(n * c, tiles["BLOCK_C"])
    sizes = len(source), blocks, hop, m, n * c, source.stride(0), out.stride(0), out.shape[2]
    _frames_matmul_kernel[grid](source, weight, out, *sizes, C=c, **tiles)


def _multiply_frames_transposed(grad: Tensor, weight: Tensor, hop: int, blocks: int) -> Tensor:
    """Return the gradient of the source, [R, length]; overlapping frames are added in a fixed order."""
    n, m, c = weight.shape
    tiles = _choose_tiles("transposed", grad, n * c)
    frames = grad.new_empty(len(grad), blocks, m)
    grid = triton.cdiv(len(grad) * blocks, tiles["BLOCK_R"]), triton.cdiv(m, tiles["BLOCK_M"])
    sizes = len(grad), blocks, m, n * c, grad.stride(0), grad.shape[2]
    _transposed_matmul_kernel[grid](grad, weight, frames, *sizes, C=c, **tiles)
    return F.fold(frames.transpose(1, 2), (1, (blocks - 1) * hop + m), (1, m), stride=(1, hop)).flatten(1)


def _launch_forward(x: Tensor, scales: list[float], padding: str, kernel: str, patch: list[int]) -> Tensor:
    plan = build_plan(tuple(scales), x.shape[1], padding, kernel, tuple(patch), x.device, x.dtype)
    out = _fake_forward(x, scales, padding, kernel, patch)
    if not len(x):
        return out
    padded = F.pad(x, plan.pad) if plan.index is None else x.index_select(1, plan.index)
    with torch.cuda.device_of(x):
        for level in plan.levels:
            source = padded[:, level.start :]
            if level.smoothing is not None:
                smooth = x.new_empty(len(x), 1, level.num_frames * level.smoothing.shape[1])
                _multiply_frames(
                    source, level.smoothing[None], level.step * level.smoothing.shape[1], level.num_frames, smooth
                )
                source = smooth[:, 0]
            into = out[:, level.first_row : level.first_row + len(level.weight)]
            _multiply_frames(source, level.weight, patch[1] // level.step, plan.num_blocks, into)
    return out


def _launch_backward(
    grad: Tensor, length: int, scales: list[float], padding: str, kernel: str, patch: list[int]
) -> Tensor:
    plan = build_plan(tuple(scales), length, padding, kernel, tuple(patch), grad.device, grad.dtype)
    if not len(grad):
        return grad.new_zeros(0, length)
    left, right = plan.pad
    padded = grad.new_zeros(len(grad), left + length + right)
    with torch.cuda.device_of(grad):
        for level in plan.levels:
            level_grad = grad[:, level.first_row : level.first_row + len(level.weight)]
            back = _multiply_frames_transposed(level_grad, level.weight, patch[1] // level.step, plan.num_blocks)
            if level.smoothing is not None:
                count = level.smoothing.shape[1]
                back = F.pad(back, (0, level.num_frames * count - back.shape[1]))[:, None]
                back = _multiply_frames_transposed(back, level.smoothing[None], level.step * count, level.num_frames)
            padded[:, level.start : level.start + back.shape[1]] += back
    if plan.index is None:
        return padded[:, left : left + length].contiguous()
    # index_put adds in order; index_add on a GPU does not
    return grad.new_zeros(length, len(grad)).index_put_((plan.index,), padded.t(), accumulate=True).t().contiguous()


def _fake_forward(x: Tensor, scales: list[float], padding: str, kernel: str, patch: list[int]) -> Tensor:
    return x.new_empty(x.shape[0], len(scales) // patch[0], x.shape[1] * patch[0])


def _fake_backward(
    grad: Tensor, length: int, scales: list[float], padding: str, kernel: str, patch: list[int]
) -> Tensor:
    return grad.new_empty(grad.shape[0], length)


_OPTIONS = "float[] scales, str padding, str kernel, int[] patch"
register_operator(f"ricker_cwt(Tensor x, {_OPTIONS}) -> Tensor", _launch_forward, _fake_forward)
register_operator(
    f"ricker_cwt_backward(Tensor grad, int length, {_OPTIONS}) -> Tensor", _launch_backward, _fake_backward
)


class _RickerCWT(torch.autograd.Function):
    """The transform as an autograd function; it is linear, so no tensors are saved for the backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *options: Any) -> Tensor:
        ctx.length, ctx.options = x.shape[1], options
        out: Tensor = torch.ops.tstk.ricker_cwt(x, *options)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad = torch.ops.tstk.ricker_cwt_backward(grads[0].contiguous(), ctx.length, *ctx.options)
        return grad, None, None, None, None


def ricker_cwt(
    x: Tensor,
    scales: tuple[float, ...],
    *,
    padding: str = "zero",
    kernel: str = "odd",
    patch: tuple[int, int] | None = None,
) -> Tensor:
    """See `tstk.kernels.ricker_cwt`."""
    length = x.shape[-1]
    layout, _ = choose_layout(scales, length, kernel, patch)
    with torch.autocast(x.device.type, enabled=False):
        rows = x.float().reshape(-1, length).contiguous()
        rows, mean = subtract_mean(rows, padding)
        out: Tensor = _RickerCWT.apply(rows, scales, padding, kernel, layout)
        if patch is not None:
            out = out.unflatten(2, (-1, layout[0] * layout[1])) if layout == patch else patchify(out, patch)
        out = add_mean_response(out, mean, scales, length, kernel, patch)
    return out.reshape(*x.shape[:-1], *out.shape[1:])
