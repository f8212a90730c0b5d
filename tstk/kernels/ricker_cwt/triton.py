"""Triton backend: both stages of a plan as matrix products of frames, which are read without unfolding the series.

Forward there are two launches, each for all levels of the plan: the smoothing, then the wavelets.

Layout: series [R, length] with a frame of M samples every `hop`; weight [n, M, C] maps frame b to samples b * C to
(b + 1) * C of n rows of the output [R, rows, samples]. Columns are numbered through the n * C of a level.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import gcd
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from tstk.kernels.operators import register_operator
from tstk.kernels.ricker_cwt.plan import SMOOTHED_PER_FRAME, build_plan, choose_layout, make_cacheable_tensor
from tstk.kernels.ricker_cwt.torch import add_mean_response, patchify, subtract_mean
from tstk.kernels.tuning import ceil_div, load_tuned_sizes, next_power_of_2

CONFIGS: dict[tuple[str, int], dict[str, int]] = load_tuned_sizes(
    "ricker_cwt",
    {
        ("smooth", 16): {"BLOCK_R": 32, "BLOCK_C": 16, "BLOCK_M": 64, "num_warps": 2, "num_stages": 3},
        ("frames", 64): {"BLOCK_R": 64, "BLOCK_C": 64, "BLOCK_M": 32, "num_warps": 4, "num_stages": 3},
        ("transposed", 16): {"BLOCK_R": 64, "BLOCK_C": 16, "BLOCK_M": 64, "num_warps": 4, "num_stages": 3},
        ("transposed", 32): {"BLOCK_R": 64, "BLOCK_C": 32, "BLOCK_M": 64, "num_warps": 4, "num_stages": 3},
        ("transposed", 64): {"BLOCK_R": 64, "BLOCK_C": 32, "BLOCK_M": 64, "num_warps": 4, "num_stages": 3},
        ("transposed", 128): {"BLOCK_R": 64, "BLOCK_C": 32, "BLOCK_M": 64, "num_warps": 4, "num_stages": 3},
    },
)
"""Tile sizes by kernel and number of columns: of a tile, or for "transposed" of a level, rounded up to 16 to 128."""

PADDINGS = ("zero", "replicate", "reflect")
NUM_FIELDS: tl.constexpr = tl.constexpr(10)


class LevelTable(NamedTuple):
    """The matrix products of one launch, one per level.

    Args:
        fields: [levels, NUM_FIELDS] int32: whether the source is the series, else the smoothed series; the index in it
            of the first sample of the first frame, and its length; hop of the frames; M; n; frames; offset of the
            weight in units of C; offset of the output and stride of its rows, both in units of `align`
        weights: the weights [n, M, C] of all levels, flat
        shapes: (frames, columns) of each level
        align: greatest common divisor of offsets and strides of the output, up to 16
    """

    fields: Tensor
    weights: Tensor
    shapes: tuple[tuple[int, int], ...]
    align: int


@triton.jit
def _count_tiles(table, level, R, C: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    n, blocks = tl.load(table + level * NUM_FIELDS + 5), tl.load(table + level * NUM_FIELDS + 6)
    return tl.cdiv(R * blocks, BLOCK_R) * tl.cdiv(n * C, BLOCK_C)


@triton.jit
def _pad_index(position, length, PADDING: tl.constexpr):
    """Return the index in a series of a position in the padded series, and whether to read it."""
    if PADDING == 0:
        return position, (position >= 0) & (position < length)
    if PADDING == 1:
        return tl.minimum(tl.maximum(position, 0), length - 1), position == position
    period = tl.maximum(2 * length - 2, 1)
    place = tl.abs(position) % period
    return tl.minimum(place, period - place), position == position


@triton.jit
def _frames_matmul_kernel(
    series, smooth, weights, out, table, R, series_stride, smooth_stride, out_stride,
    C: tl.constexpr, ALIGN: tl.constexpr, PADDING: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """Each program computes BLOCK_C columns of BLOCK_R frames of one level, numbered through all series.

    Programs are numbered through all levels. The series is padded while it is read. Sizes are multiples of C and ALIGN,
    from which the compiler sees that neighbouring columns can be loaded and stored together.
    """
    program = tl.program_id(0)
    level = 0
    tiles = _count_tiles(table, level, R, C, BLOCK_R, BLOCK_C)
    while program >= tiles:
        program -= tiles
        level += 1
        tiles = _count_tiles(table, level, R, C, BLOCK_R, BLOCK_C)
    fields = table + level * NUM_FIELDS
    origin, length, hop, M = tl.load(fields + 1), tl.load(fields + 2), tl.load(fields + 3), tl.load(fields + 4)
    N, blocks, samples = tl.load(fields + 5) * C, tl.load(fields + 6), tl.load(fields + 9) * ALIGN
    frame = program // tl.cdiv(N, BLOCK_C) * BLOCK_R + tl.arange(0, BLOCK_R)
    column = program % tl.cdiv(N, BLOCK_C) * BLOCK_C + tl.arange(0, BLOCK_C)
    number, block = (frame // blocks).to(tl.int64), frame % blocks
    row, sample = column // C, column % C
    is_frame, is_column = (frame < R * blocks)[:, None], (column < N)[None, :]
    source = series + number * series_stride
    if tl.load(fields) == 0:
        source = smooth + number * smooth_stride
    begin = (block * hop + origin)[:, None]
    matrix = weights + tl.load(fields + 7) * C + (row * M * C + sample)[None, :]
    acc = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for m0 in range(0, M, BLOCK_M):
        m = m0 + tl.arange(0, BLOCK_M)
        index, inside = _pad_index(begin + m[None, :], length, PADDING)
        f = tl.load(source[:, None] + index, mask=inside & is_frame & (m < M)[None, :], other=0.0)
        w = tl.load(matrix + m[:, None] * C, mask=is_column & (m < M)[:, None], other=0.0)
        acc += tl.dot(f, w, input_precision="tf32x3")
    offsets = (block * C)[:, None] + sample[None, :]
    ptrs = (
        out + (number * out_stride * ALIGN)[:, None] + (tl.load(fields + 8) * ALIGN + row * samples)[None, :] + offsets
    )
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


def _make_table(rows: Sequence[tuple[Sequence[int], Tensor]], align: int) -> LevelTable:
    """Return the table of fields 0 to 6 and 8 to 9 of each level, and its weight [n, M, C]."""
    fields, offset = [], 0
    for (*first, out_offset, out_stride), weight in rows:
        fields.append((*first, offset // weight.shape[2], out_offset // align, out_stride // align))
        offset += weight.numel()
    weights = torch.cat([weight.flatten() for _, weight in rows])
    table = make_cacheable_tensor(np.array(fields), weights.device, torch.int32)
    return LevelTable(
        table,
        weights,
        tuple((row[6], row[5] * weight.shape[2]) for row, (_, weight) in zip(fields, rows, strict=True)),
        align,
    )


@lru_cache(maxsize=16)
def _build_tables(
    scales: tuple[float, ...], length: int, padding: str, kernel: str, patch: tuple[int, int], device: torch.device
) -> tuple[LevelTable | None, LevelTable, int]:
    """Return the tables of the smoothing, None if no level smooths, and of the wavelets; and the smoothed samples."""
    plan = build_plan(scales, length, padding, kernel, patch, device, torch.float32)
    samples, smooth_samples, smooth_rows, rows = length * patch[0], 0, [], []
    for level in plan.levels:
        n, m, _ = level.weight.shape
        origin, hop, source_length = level.start - plan.pad[0], patch[1] // level.step, length
        if level.smoothing is not None:
            k, count = level.smoothing.shape
            source_length = level.num_frames * count
            first = (1, origin, length, level.step * count, k, 1, level.num_frames)
            smooth_rows.append(((*first, smooth_samples, source_length), level.smoothing[None]))
            origin, smooth_samples = smooth_samples, smooth_samples + source_length
        # positions in the smoothed series are never outside, so its length is that of all levels
        end = length if level.smoothing is None else origin + source_length
        first = (int(level.smoothing is None), origin, end, hop, m, n, plan.num_blocks)
        rows.append(((*first, level.first_row * samples, samples), level.weight))
    with torch.inference_mode(False):
        smoothing = _make_table(smooth_rows, gcd(16, *(row[0][8] for row in smooth_rows))) if smooth_rows else None
        return smoothing, _make_table(rows, gcd(16, samples)), smooth_samples


def _multiply_frames(
    key: tuple[str, int], table: LevelTable, x: Tensor, smooth: Tensor, out: Tensor, c: int, padding: str
) -> None:
    """Multiply the frames of all levels by their weights into `out` [R, ...]."""
    tiles = CONFIGS[key]
    programs = sum(
        ceil_div(len(x) * frames, tiles["BLOCK_R"]) * ceil_div(columns, tiles["BLOCK_C"])
        for frames, columns in table.shapes
    )
    strides = x.stride(0), smooth.stride(0), out.stride(0) // table.align
    _frames_matmul_kernel[programs,](
        x, smooth, table.weights, out, table.fields, len(x), *strides,
        C=c, ALIGN=table.align, PADDING=PADDINGS.index(padding), **tiles,
    )  # fmt: skip


def _multiply_frames_transposed(grad: Tensor, weight: Tensor, hop: int, blocks: int) -> Tensor:
    """Return the gradient of the source, [R, length]; overlapping frames are added in a fixed order."""
    n, m, c = weight.shape
    tiles = CONFIGS["transposed", min(max(16, next_power_of_2(n * c)), 128)]
    frames = grad.new_empty(len(grad), blocks, m)
    grid = ceil_div(len(grad) * blocks, tiles["BLOCK_R"]), ceil_div(m, tiles["BLOCK_M"])
    sizes = len(grad), blocks, m, n * c, grad.stride(0), grad.shape[2]
    _transposed_matmul_kernel[grid](grad, weight, frames, *sizes, C=c, PRECISION="tf32x3", **tiles)
    return F.fold(frames.transpose(1, 2), (1, (blocks - 1) * hop + m), (1, m), stride=(1, hop)).flatten(1)


def _launch_forward(x: Tensor, scales: list[float], padding: str, kernel: str, patch: list[int]) -> Tensor:
    out = _fake_forward(x, scales, padding, kernel, patch)
    if not len(x):
        return out
    options = padding, kernel, (patch[0], patch[1])
    smoothing, wavelets, smooth_samples = _build_tables(tuple(scales), x.shape[1], *options, x.device)
    smooth = x
    with torch.cuda.device_of(x):
        if smoothing is not None:
            smooth = x.new_empty(len(x), smooth_samples)
            _multiply_frames(("smooth", 16), smoothing, x, x, smooth, SMOOTHED_PER_FRAME, padding)
        _multiply_frames(("frames", 64), wavelets, x, smooth, out, patch[0] * patch[1], padding)
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
