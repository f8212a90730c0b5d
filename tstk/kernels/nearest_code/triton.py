"""Triton backend of nearest-code search, with the scores in registers, tile by tile.

Layout: vectors z [N, d] and codes [K, d], both row-major. Codes are centred on their mean, `code_mean` [d], which is
subtracted from z on loading; `squared_norms` [K] are those of the centred codes. A search reads the codes from a table
of TF32 numbers that is made once per call, so tensor cores take them as they are and nothing is split in the loop; a
number and its rest are two columns. `tstk.kernels.vector_quantize` reads the same table with the same functions.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from tstk.kernels.nearest_code.reference import MAX_SQUARED_DISTANCE
from tstk.kernels.operators import register_operator
from tstk.kernels.tuning import ceil_div, load_tuned_sizes, next_power_of_2

CONFIGS: dict[tuple[str, int], dict[str, Any]] = load_tuned_sizes(
    "nearest_code",
    {
        ("search", 10): {"BLOCK_N": 64, "BLOCK_K": 64, "num_warps": 4, "num_stages": 2},
        ("search", 20): {"BLOCK_N": 64, "BLOCK_K": 64, "num_warps": 4, "num_stages": 2},
        ("search", 32): {"BLOCK_N": 64, "BLOCK_K": 64, "BLOCK_D": 32, "num_warps": 4, "num_stages": 2},
        ("search", 64): {"BLOCK_N": 64, "BLOCK_K": 64, "BLOCK_D": 64, "num_warps": 4, "num_stages": 2},
        ("search", 128): {"BLOCK_N": 64, "BLOCK_K": 32, "BLOCK_D": 64, "num_warps": 4, "num_stages": 2},
        ("few rows", 10): {"BLOCK_N": 16, "BLOCK_K": 64, "num_warps": 4, "num_stages": 2},
        ("few rows", 20): {"BLOCK_N": 16, "BLOCK_K": 64, "num_warps": 4, "num_stages": 2},
        ("few rows", 32): {"BLOCK_N": 16, "BLOCK_K": 64, "BLOCK_D": 32, "num_warps": 4, "num_stages": 2},
        ("few rows", 64): {"BLOCK_N": 16, "BLOCK_K": 64, "BLOCK_D": 64, "num_warps": 4, "num_stages": 2},
        ("few rows", 128): {"BLOCK_N": 16, "BLOCK_K": 64, "BLOCK_D": 64, "num_warps": 4, "num_stages": 2},
    },
)
"""Tile sizes by kernel and the largest width of vectors; 128 stands for all widths above 64.

"few rows" are searches of less than MIN_PROGRAMS times FEW_ROWS_UNIT vectors. A search of vectors up to 20 wide
multiplies packed columns, see `_load_packed`; one of wider vectors multiplies blocks of BLOCK_D columns.
"""

MIN_PROGRAMS = 128
"""With fewer programs a GPU is not busy: then tiles have fewer rows, and the codebook is divided among programs."""
FEW_ROWS_UNIT = 64
"""Vectors per program that divide few rows from many, whatever the tuned sizes."""
MIN_TILES_PER_SPLIT = 4
"""Tiles of codes that one program searches at least if the codebook is divided."""

MAX_SQUARED_DISTANCE_CONST: tl.constexpr = tl.constexpr(MAX_SQUARED_DISTANCE)
PADDING_SCORE: tl.constexpr = tl.constexpr(2.0**127)  # exact in TF32, above all scores


def _choose_search_tiles(n: int, d: int) -> tuple[dict[str, Any], int]:
    """Return the sizes of a search, and the number of columns of its table of codes."""
    width = next((width for width in (10, 20, 32, 64) if d <= width), 128)
    # One lookup, of the sizes that are used: tuning attributes the time of a call to all that it looks up.
    tiles = CONFIGS["few rows" if ceil_div(n, FEW_ROWS_UNIT) < MIN_PROGRAMS else "search", width]
    if "BLOCK_D" in tiles:
        return {"D": d, **tiles}, 2 * ceil_div(d, tiles["BLOCK_D"]) * tiles["BLOCK_D"]
    return {"D": d, **tiles}, {10: 32, 20: 64}[width]


# ---------------------------------------------------------------- preparation of the codes


@triton.jit
def _load_tile(base, rows, count, d0, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Load columns from d0 on, [rows, BLOCK_D] float32; 0 outside."""
    offsets = d0 + tl.arange(0, BLOCK_D)
    inside = (rows < count)[:, None] & (offsets < D)[None, :]
    return tl.load(base + rows[:, None] * D + offsets[None, :], mask=inside, other=0.0).to(tl.float32)


@triton.jit
def load_centered(z, code_mean, rows, N, d0, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Load columns from d0 on, centred, [rows, BLOCK_D] float32; minus the mean in rows from N on."""
    offsets = d0 + tl.arange(0, BLOCK_D)
    mean = tl.load(code_mean + offsets, mask=offsets < D, other=0.0)
    return _load_tile(z, rows, N, d0, D, BLOCK_D) - mean[None, :]


@triton.jit
def _round_to_tf32(x):
    """Round to the 11 significant bits that tensor cores read, ties away from zero."""
    return ((x.to(tl.int32, bitcast=True) + 0x1000) & -0x2000).to(tl.float32, bitcast=True)


@triton.jit
def _split(x):
    """Return two TF32 numbers whose sum is x to within half a unit in the last place of float32."""
    high = _round_to_tf32(x)
    return high, _round_to_tf32(x - high)


@triton.jit
def _load_packed(base, code_mean, rows, count, D: tl.constexpr, COLUMNS: tl.constexpr):
    """Load centred vectors as [low or high, high or low, 2 columns for norms, high], [rows, COLUMNS] float32.

    Of vectors x as [x_low, x_high, 1, 1, x_high] and codes c as -2 [c_high, c_low, ., ., c_high], with both parts of
    |c|^2 in the middle, one TF32 product is |c|^2 - 2 x.c to float32 precision, the smallest terms added first.

    Returns:
        the centred vectors, repeated; 0 in other columns and rows
    """
    columns = tl.arange(0, COLUMNS)
    source = tl.where(columns < 2 * D, columns % D, columns - 2 * D - 2)
    is_value = ((columns < 2 * D) | (columns >= 2 * D + 2)) & (columns < 3 * D + 2)
    mean = tl.load(code_mean + source, mask=is_value, other=0.0)
    inside = (rows < count)[:, None] & is_value[None, :]
    x = tl.load(base + rows[:, None] * D + source[None, :], mask=inside, other=0.0).to(tl.float32)
    return tl.where(inside, x - mean[None, :], 0.0)


@triton.jit
def _prepare_kernel(
    codes, code_mean, squared_norms, table, K,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr, COLUMNS: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """Each program centres BLOCK_K codes, computes their squared norms and fills their rows of the search's table.

    The table is [multiple of BLOCK_K, COLUMNS]. Its rows from K on have a score that is never the lowest, and a code
    out of range makes every score NaN.
    """
    rows = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)
    is_code = rows < K
    square = tl.zeros((BLOCK_K,), tl.float32)
    for d0 in range(0, D, BLOCK_D):
        c = tl.where(is_code[:, None], load_centered(codes, code_mean, rows, K, d0, D, BLOCK_D), 0.0)
        square += tl.sum(c * c, 1)
    in_range = square <= MAX_SQUARED_DISTANCE_CONST
    norm = tl.where(is_code, tl.where(in_range, square, float("nan")), PADDING_SCORE)
    tl.store(squared_norms + rows, norm)
    if PACKED:
        columns = tl.arange(0, COLUMNS)[None, :]
        c = tl.where(in_range[:, None], _load_packed(codes, code_mean, rows, K, D, COLUMNS), 0.0)
        high, low = _split(-2 * c)
        norm_high, norm_low = _split(square)
        norm_high = tl.where(is_code & in_range, norm_high, norm)
        entries = tl.where((columns >= D) & (columns < 2 * D), low, high)
        entries = tl.where(columns == 2 * D, norm_high[:, None], entries)
        entries = tl.where(columns == 2 * D + 1, tl.where(in_range, norm_low, 0.0)[:, None], entries)
        tl.store(table + rows[:, None] * COLUMNS + columns, entries)
    else:
        for d0 in range(0, COLUMNS // 2, BLOCK_D):
            c = load_centered(codes, code_mean, rows, K, d0, D, BLOCK_D)
            high, low = _split(-2 * tl.where((is_code & in_range)[:, None], c, 0.0))
            ptrs = table + rows[:, None] * COLUMNS + d0 + tl.arange(0, BLOCK_D)[None, :]
            tl.store(ptrs, high)
            tl.store(ptrs + COLUMNS // 2, low)


# ---------------------------------------------------------------- the search


@triton.jit
def load_operands(
    z, code_mean, rows, N, D: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_D: tl.constexpr, PACKED: tl.constexpr
):
    """Load vectors up to BLOCK_D wide as the operands of `compute_scores`, 0 if out of range.

    Returns:
        the high and low parts, one and the same if packed, and the squared norms [rows]
    """
    if PACKED:
        columns = tl.arange(0, COLUMNS)[None, :]
        x = _load_packed(z, code_mean, rows, N, D, COLUMNS)
        square = tl.sum(tl.where(columns >= 2 * D + 2, x * x, 0.0), 1)
        high, low = _split(tl.where((square <= MAX_SQUARED_DISTANCE_CONST)[:, None], x, 0.0))
        x = tl.where(columns < D, low, high)
        high = tl.where((columns == 2 * D) | (columns == 2 * D + 1), 1.0, x)
        low = high
    else:
        x = load_centered(z, code_mean, rows, N, 0, D, BLOCK_D)
        square = tl.sum(x * x, 1)
        high, low = _split(tl.where((square <= MAX_SQUARED_DISTANCE_CONST)[:, None], x, 0.0))
    return high, low, square


@triton.jit
def compute_scores(
    high, low, table, squared_norms, cols, COLUMNS: tl.constexpr, BLOCK_D: tl.constexpr, PACKED: tl.constexpr
):
    """Return |c|^2 - 2 x.c of vectors up to BLOCK_D wide and the codes at `cols`, [rows, cols]."""
    if PACKED:
        c = tl.load(table + cols[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :])
        score = tl.dot(high, tl.trans(c), input_precision="tf32")
    else:
        ptrs = table + cols[:, None] * COLUMNS + tl.arange(0, BLOCK_D)[None, :]
        zeros = tl.zeros((high.shape[0], cols.shape[0]), tl.float32)
        score = _multiply_parts(high, low, ptrs, zeros, COLUMNS) + tl.load(squared_norms + cols)[None, :]
    return score


@triton.jit
def _search_packed_kernel(
    z, code_mean, table, squared_norms, scores, ids, squares, N, K, codes_per_split, padded_codes,
    D: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Each program takes BLOCK_N vectors and iterates over its codes: one product per pair, see `_load_packed`."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    x, _, square = load_operands(z, code_mean, rows, N, D, COLUMNS, COLUMNS, True)
    best = tl.full((BLOCK_N, BLOCK_K), float("inf"), tl.float32)
    best_k0 = tl.zeros((BLOCK_N, BLOCK_K), tl.int32)
    first = tl.program_id(1) * codes_per_split
    for k0 in range(first, tl.minimum(first + codes_per_split, padded_codes), BLOCK_K):
        score = compute_scores(x, x, table, squared_norms, k0 + tl.arange(0, BLOCK_K), COLUMNS, COLUMNS, True)
        best, best_k0 = keep_lowest(score, k0, best, best_k0)
    _store_lowest(best, best_k0, square, rows, scores, ids, squares, N, K, BLOCK_K)


@triton.jit
def _search_wide_kernel(
    z, code_mean, table, squared_norms, scores, ids, squares, N, K, codes_per_split, padded_codes,
    D: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Each program takes BLOCK_N vectors and iterates over its codes: three TF32 products of high and low parts."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    x = load_centered(z, code_mean, rows, N, 0, D, BLOCK_D)
    square = tl.sum(x * x, 1)
    for d0 in range(BLOCK_D, D, BLOCK_D):
        part = load_centered(z, code_mean, rows, N, d0, D, BLOCK_D)
        square += tl.sum(part * part, 1)
    in_range = (square <= MAX_SQUARED_DISTANCE_CONST)[:, None]
    high, low = _split(tl.where(in_range, x, 0.0))
    best = tl.full((BLOCK_N, BLOCK_K), float("inf"), tl.float32)
    best_k0 = tl.zeros((BLOCK_N, BLOCK_K), tl.int32)
    first = tl.program_id(1) * codes_per_split
    for k0 in range(first, tl.minimum(first + codes_per_split, padded_codes), BLOCK_K):
        cols = k0 + tl.arange(0, BLOCK_K)
        ptrs = table + cols[:, None] * COLUMNS + tl.arange(0, BLOCK_D)[None, :]
        score = _multiply_parts(high, low, ptrs, tl.zeros((BLOCK_N, BLOCK_K), tl.float32), COLUMNS)
        # Not unrolled: only one block of columns is on chip at a time, however wide the vectors are.
        for d0 in range(BLOCK_D, D, BLOCK_D):
            part = load_centered(z, code_mean, rows, N, d0, D, BLOCK_D)
            part_high, part_low = _split(tl.where(in_range, part, 0.0))
            score = _multiply_parts(part_high, part_low, ptrs + d0, score, COLUMNS)
        best, best_k0 = keep_lowest(score + tl.load(squared_norms + cols)[None, :], k0, best, best_k0)
    _store_lowest(best, best_k0, square, rows, scores, ids, squares, N, K, BLOCK_K)


@triton.jit
def _multiply_parts(high, low, ptrs, acc, COLUMNS: tl.constexpr):
    c_high, c_low = tl.trans(tl.load(ptrs)), tl.trans(tl.load(ptrs + COLUMNS // 2))
    acc = tl.dot(low, c_high, acc, input_precision="tf32")
    acc = tl.dot(high, c_low, acc, input_precision="tf32")
    return tl.dot(high, c_high, acc, input_precision="tf32")


@triton.jit
def keep_lowest(score, k0, best, best_k0):
    """Update the lowest score and its tile at each place of a tile, [rows, BLOCK_K]; the first of equal scores stays.

    No reduction over the tile until all codes are seen: that would take more instructions than the product.
    """
    best_k0 = tl.where(score < best, k0, best_k0)
    return tl.minimum(best, score, propagate_nan=tl.PropagateNan.ALL), best_k0


@triton.jit
def find_lowest(best, best_k0, square, K, BLOCK_K: tl.constexpr):
    """Return the lowest score per row, NaN out of range, and its first index as int64, 0 out of range."""
    low = tl.min(best, 1)
    places = best_k0 + tl.arange(0, BLOCK_K)[None, :]
    index = tl.min(tl.where(best == low[:, None], places, K), 1)
    is_nan = tl.max((best != best).to(tl.int32), 1) != 0
    low = tl.where(is_nan | ~(square <= MAX_SQUARED_DISTANCE_CONST), float("nan"), low)
    return low, tl.where(low == low, index, 0).to(tl.int64)


@triton.jit
def _store_lowest(best, best_k0, square, rows, scores, ids, squares, N, K, BLOCK_K: tl.constexpr):
    """Store the first index of the lowest score per row and its distance, or of a split its score; NaN out of range."""
    low, index = find_lowest(best, best_k0, square, K, BLOCK_K)
    if scores is None:
        tl.store(ids + rows, index, mask=rows < N)
        tl.store(squares + rows, tl.where(low == low, tl.maximum(square + low, 0.0), low), mask=rows < N)
    else:
        offset = tl.program_id(1).to(tl.int64) * N
        tl.store(scores + offset + rows, low, mask=rows < N)
        tl.store(ids + offset + rows, index, mask=rows < N)
        tl.store(squares + offset + rows, square, mask=rows < N)


@triton.jit
def _merge_splits_kernel(scores, split_ids, split_squares, ids, squares, N, splits, BLOCK_N: tl.constexpr):
    """Each program takes BLOCK_N vectors and selects the lowest score of all splits, the first of equal ones."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = rows < N
    best = tl.load(scores + rows, mask=inside, other=0.0)
    best_id = tl.load(split_ids + rows, mask=inside, other=0)
    place = rows
    for _ in range(1, splits):
        place += N
        score = tl.load(scores + place, mask=inside, other=0.0)
        index = tl.load(split_ids + place, mask=inside, other=0)
        best_id = tl.where(score < best, index, best_id)
        best = tl.minimum(best, score, propagate_nan=tl.PropagateNan.ALL)
    square = tl.maximum(tl.load(split_squares + rows, mask=inside, other=0.0) + best, 0.0)
    tl.store(ids + rows, tl.where(best == best, best_id, 0), mask=inside)
    tl.store(squares + rows, tl.where(best == best, square, best), mask=inside)


# ---------------------------------------------------------------- the operators


def _launch_search(z: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    n, d = z.shape
    ids, squares = z.new_empty(n, dtype=torch.long), z.new_empty(n, dtype=torch.float32)
    if not n:
        return ids, squares
    tiles, columns = _choose_search_tiles(n, d)
    code_mean, squared_norms, table = prepare_codes(codes, tiles["BLOCK_K"], columns, tiles.get("BLOCK_D"))
    programs, code_tiles = ceil_div(n, tiles["BLOCK_N"]), len(table) // tiles["BLOCK_K"]
    splits = max(1, min(MIN_PROGRAMS // programs, code_tiles // MIN_TILES_PER_SPLIT))
    per_split = ceil_div(code_tiles, splits)
    splits = ceil_div(code_tiles, per_split)
    sizes = n, len(codes), per_split * tiles["BLOCK_K"], len(table)
    scores, split_ids, split_squares = None, ids, squares
    if splits > 1:
        scores, split_squares = squares.new_empty(2, splits, n).unbind()
        split_ids = ids.new_empty(splits, n)
    kernel = _search_wide_kernel if "BLOCK_D" in tiles else _search_packed_kernel
    with torch.cuda.device_of(z):
        kernel[programs, splits](
            z, code_mean, table, squared_norms, scores, split_ids, split_squares, *sizes, COLUMNS=columns, **tiles
        )
        if scores is not None:
            _merge_splits_kernel[ceil_div(n, 128),](
                scores, split_ids, split_squares, ids, squares, n, splits, BLOCK_N=128
            )
    return ids, squares


def prepare_codes(codes: Tensor, block_k: int, columns: int, block_d: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean of the codes [d], their squared norms and their table, in two launches: the mean, and all else.

    Args:
        codes: [K, d]
        block_k: size of a tile of codes; norms and table are padded to whole tiles
        columns: number of columns of the table
        block_d: columns that are multiplied at a time; None if they are packed
    """
    (k, d), codes = codes.shape, codes.contiguous()
    code_mean = codes.mean(0, dtype=torch.float32)
    padded = ceil_div(k, block_k) * block_k
    squared_norms, table = code_mean.new_empty(padded), code_mean.new_empty(padded, columns)
    with torch.cuda.device_of(codes):
        _prepare_kernel[padded // block_k,](
            codes, code_mean, squared_norms, table, k, D=d, BLOCK_K=block_k, COLUMNS=columns, num_warps=4,
            BLOCK_D=block_d or max(16, next_power_of_2(d)), PACKED=block_d is None,
        )  # fmt: skip
    return code_mean, squared_norms, table


def _fake_search(z: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    return z.new_empty(len(z), dtype=torch.long), z.new_empty(len(z), dtype=torch.float32)


register_operator("nearest_code(Tensor z, Tensor codes) -> (Tensor, Tensor)", _launch_search, _fake_search)


# ---------------------------------------------------------------- the backend


def nearest_code(z: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """See `tstk.kernels.nearest_code`."""
    with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
        x = z.reshape(-1, z.shape[-1]).contiguous()
        ids, squares = torch.ops.tstk.nearest_code(x, codes)
        return ids.reshape(z.shape[:-1]), squares.reshape(z.shape[:-1])
