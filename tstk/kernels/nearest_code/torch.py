"""PyTorch backend: rows in chunks that fit the cache, divided among threads once; matrix products per chunk.

`[x, 1] @ [-2 c, |c|^2]` is the squared distance minus |x|^2, which affects neither argmin nor softmax. Vectors and
codes are centred on the mean of the codes, so that a common offset costs no precision.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from tstk.kernels.nearest_code.reference import MAX_SQUARED_DISTANCE
from tstk.kernels.threads import map_row_slices

BLOCK_ROWS, MAX_BLOCKS = 4, 8
"""Rows that MKL multiplies together, and the largest number of threads for which each gets whole blocks of them."""
CHANNELS = 128
"""Channels that a product on a CPU sums up: MKL divides more than 191 itself, in ways that depend on their number. The
search in C++ adds up the same sums."""


def nearest_code(z: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """See `tstk.kernels.nearest_code`."""
    with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
        x, c, code_mean = center(z, codes)
        squared_norms = c.square().sum(1)
        in_range = squared_norms.max() <= MAX_SQUARED_DISTANCE  # False for NaN
        if torch.compiler.is_compiling():  # the compiler does its own tiling, and exported graphs take any batch size
            x = x - code_mean
            squares = x.square().sum(1)
            score, ids = torch.addmm(squared_norms, x, c.t(), alpha=-2).min(1)
        else:
            score, squares, ids = search_by_products(x, code_mean, make_table(c, squared_norms))
        in_range = in_range & (squares <= MAX_SQUARED_DISTANCE)
        squares = (score + squares).clamp(min=0)
        if torch.compiler.is_compiling() or squares.device.type != "cpu" or not in_range.all():
            squares, ids = squares.where(in_range, torch.nan), ids.where(in_range, 0)
        return ids.reshape(z.shape[:-1]), squares.reshape(z.shape[:-1])


def make_table(c: Tensor, squared_norms: Tensor) -> Tensor:
    """Return the matrix [d + 1, K] whose product with centred vectors and a column of ones are the scores."""
    return torch.cat([-2 * c, squared_norms[:, None]], 1).t()


def search_by_products(x: Tensor, code_mean: Tensor, table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the lowest score of each row [N], its squared norm [N], and the first index of that score [N].

    The rows of a product that fill no block of `BLOCK_ROWS` are summed up in another order, so that the scores of a
    vector would depend on its place in the batch: chunks are computed in whole blocks, with rows that do not count.
    """
    width, codes = table.shape
    starts = range(0, width - 1, CHANNELS if x.device.type == "cpu" else width)
    parts = [slice(start, stop) for start, stop in pairwise((*starts, width))]
    scores, squares = code_mean.new_empty(2, len(x)).unbind()
    ids = code_mean.new_empty(len(x), dtype=torch.long)

    def search(row_slice: slice) -> None:
        tensors = x[row_slice], scores[row_slice], squares[row_slice], ids[row_slice]
        chunk_size = choose_chunk_size(tensors[0], codes)
        block = BLOCK_ROWS * min(torch.get_num_threads(), MAX_BLOCKS) if x.device.type == "cpu" else 1
        buffer_size = -(-chunk_size // block) * block
        input_buffer, product_buffer = code_mean.new_ones(buffer_size, width), code_mean.new_empty(buffer_size, codes)
        for rows, min_score, norm, argmin in zip(*(t.split(chunk_size) for t in tensors), strict=True):
            inputs, size = input_buffer[: len(rows)], -(-len(rows) // block) * block
            torch.linalg.vector_norm(torch.sub(rows, code_mean, out=inputs[:, :-1]), dim=1, out=norm)
            product = product_buffer[:size]
            for part in parts:
                torch.addmm(product, input_buffer[:size, part], table[part], beta=int(part.start > 0), out=product)
            product = product[: len(rows)]
            if product.device.type == "cpu":  # numpy's argmin is six times as fast as torch's
                np.argmin(product.numpy(), 1, out=argmin.numpy())
                torch.gather(product, 1, argmin[:, None], out=min_score[:, None])
            else:
                torch.min(product, 1, out=(min_score, argmin))  # takes half the time of argmin
        squares[row_slice].square_()

    map_row_slices(search, len(x), len(x) * codes, x.device)
    return scores, squares, ids


def center(z: Tensor, codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return z as rows [N, d] (not centred), the centred codes [K, d] and their mean [d], all in float32."""
    c = codes.float()
    code_mean = c.mean(0)
    return z.reshape(-1, z.shape[-1]).float(), c - code_mean, code_mean


def choose_chunk_size(x: Tensor, num_codes: int) -> int:
    """Return the number of rows per chunk: about 1 MB of scores on a CPU, more to fill a GPU."""
    rows = count_rows_per_chunk(num_codes) if x.device.type == "cpu" else max(1024, 2**26 // num_codes)
    return max(1, min(rows, len(x)))


def count_rows_per_chunk(num_codes: int) -> int:
    """Return the number of rows of a chunk on a CPU."""
    return max(256, 2**18 // num_codes)
