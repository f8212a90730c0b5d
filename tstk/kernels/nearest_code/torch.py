"""PyTorch backend: rows in chunks that fit the cache, divided among threads once; one matrix product per chunk.

`[x, 1] @ [-2 c, |c|^2]` is the squared distance minus |x|^2, which affects neither argmin nor softmax. Vectors and
codes are centred on the mean of the codes, so that a common offset costs no precision.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tstk.kernels.nearest_code.reference import MAX_SQUARED_DISTANCE
from tstk.kernels.threads import map_row_slices

BLOCK_ROWS, MAX_BLOCKS = 4, 8
"""Rows that MKL multiplies together, and the largest number of threads for which each gets whole blocks of them."""
MIN_EXPONENT = -60.0
"""Lower bound of exponents: e^-60 is negligible in a sum, and avoids denormal numbers, which are slow."""


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
    scores, squares = code_mean.new_empty(2, len(x)).unbind()
    ids = code_mean.new_empty(len(x), dtype=torch.long)

    def search(row_slice: slice) -> None:
        tensors = x[row_slice], scores[row_slice], squares[row_slice], ids[row_slice]
        chunk_size = _choose_chunk_size(tensors[0], codes)
        block = BLOCK_ROWS * min(torch.get_num_threads(), MAX_BLOCKS) if x.device.type == "cpu" else 1
        buffer_size = -(-chunk_size // block) * block
        input_buffer, product_buffer = code_mean.new_ones(buffer_size, width), code_mean.new_empty(buffer_size, codes)
        for rows, min_score, norm, argmin in zip(*(t.split(chunk_size) for t in tensors), strict=True):
            inputs, size = input_buffer[: len(rows)], -(-len(rows) // block) * block
            torch.linalg.vector_norm(torch.sub(rows, code_mean, out=inputs[:, :-1]), dim=1, out=norm)
            product = torch.mm(input_buffer[:size], table, out=product_buffer[:size])[: len(rows)]
            if product.device.type == "cpu":  # numpy's argmin is six times as fast as torch's
                np.argmin(product.numpy(), 1, out=argmin.numpy())
                torch.gather(product, 1, argmin[:, None], out=min_score[:, None])
            else:
                torch.min(product, 1, out=(min_score, argmin))  # takes half the time of argmin
        squares[row_slice].square_()

    map_row_slices(search, len(x), len(x) * codes, x.device)
    return scores, squares, ids


def soft_assignment(
    z: Tensor, codes: Tensor, weight: Tensor, temperature: float, log_floor: float
) -> tuple[Tensor, Tensor]:
    """See `tstk.kernels.nearest_code.soft_assignment`, for z [N, d] and weight [N]."""
    with torch.autocast(z.device.type, enabled=False):
        floor = math.log(log_floor) if log_floor else -math.inf
        if torch.compiler.is_compiling():
            x, c, code_mean = center(z, codes)
            score = torch.addmm(c.square().sum(1), x - code_mean, c.t(), alpha=-2)
            log_p = (-score / temperature).log_softmax(1).clamp(min=MIN_EXPONENT)
            p = log_p.exp()
            return -(weight @ (p * log_p.clamp(min=floor)).sum(1)), weight @ p
        out: tuple[Tensor, Tensor] = SoftAssignment.apply(z, codes, weight, temperature, floor)
        return out


class SoftAssignment(torch.autograd.Function):
    """p = softmax(-|z - c|^2 / temperature), recomputed in the backward instead of kept."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, codes: Tensor, weight: Tensor, temperature: float, floor: float
    ) -> tuple[Tensor, Tensor]:
        """Return the mean entropy [] and the mean of p [K]; `floor` is the lower bound of logarithms."""
        x, c, code_mean = center(z, codes)
        table = torch.cat([2 * c, -c.square().sum(1, keepdim=True)], 1) / temperature
        log_z = code_mean.new_empty(len(x))

        def assign(row_slice: slice) -> tuple[Tensor, Tensor]:
            tensors = x[row_slice], weight[row_slice], log_z[row_slice]
            entropy, mean_probs = code_mean.new_zeros(()), code_mean.new_zeros(len(c))
            chunk_size = _choose_chunk_size(tensors[0], len(c))
            s_buffer, p_buffer = code_mean.new_empty(2, chunk_size, len(c)).unbind()
            for rows, w, log_z_chunk in zip(*(t.split(chunk_size) for t in tensors), strict=True):
                s, p = s_buffer[: len(rows)], p_buffer[: len(rows)]  # p is not normalized
                torch.mm(_append_column(rows - code_mean, 1), table.t(), out=s)
                m_i = s.amax(1, keepdim=True)
                torch.exp(s.sub_(m_i).clamp_(min=MIN_EXPONENT), out=p)
                l_i = p.sum(1)
                log_l_i = l_i.log()
                torch.add(m_i[:, 0], log_l_i, out=log_z_chunk)
                s.sub_(log_l_i[:, None])
                if floor > -math.inf:
                    s.clamp_(min=floor)
                w = w / l_i
                mean_probs += w @ p
                entropy -= w @ p.mul_(s).sum(1)
            return entropy, mean_probs

        sums = zip(*map_row_slices(assign, len(x), len(x) * len(c), x.device), strict=True)
        entropy, mean_probs = (torch.stack(partial_sums).sum(0) for partial_sums in sums)
        ctx.save_for_backward(z, codes, weight, log_z)
        ctx.options = temperature, floor
        return entropy, mean_probs

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients: that of a score is w p (u - <p, u>), with u that of p up to a constant per row."""
        grad_entropy, grad_mean_probs = grad_outputs
        z, codes, weight, log_z = ctx.saved_tensors
        temperature, floor = ctx.options
        with torch.autocast(z.device.type, enabled=False):
            x, c, code_mean = center(z, codes)
            table = torch.cat([2 * c, -c.square().sum(1, keepdim=True)], 1) / temperature
            table = torch.cat([table, table.new_ones(len(c), 1)], 1)
            dx = torch.empty_like(x)

            def backpropagate(row_slice: slice) -> tuple[Tensor, Tensor]:
                tensors = x[row_slice], weight[row_slice], log_z[row_slice], dx[row_slice]
                dc, ds_sum = torch.zeros_like(c), c.new_zeros(len(c))
                chunk_size = _choose_chunk_size(tensors[0], len(c))
                s_buffer, p_buffer = code_mean.new_empty(2, chunk_size, len(c)).unbind()
                for rows, w, log_z_chunk, dx_chunk in zip(*(t.split(chunk_size) for t in tensors), strict=True):
                    centered = rows - code_mean
                    s, p = s_buffer[: len(rows)], p_buffer[: len(rows)]
                    torch.mm(_append_column(_append_column(centered, 1), -log_z_chunk), table.t(), out=s)  # log p
                    torch.exp(torch.clamp(s, min=MIN_EXPONENT, out=p), out=p)
                    if floor > -math.inf:
                        # d/dp of p log(max(p, floor)), less 1
                        s = F.threshold(s, floor, floor - 1, inplace=True)
                    ds = torch.addcmul(grad_mean_probs, s, grad_entropy, value=-1, out=s).mul_(p)
                    # p sums to 1 only up to the rounding of log_z
                    ds.addcmul_(p, ds.sum(1, keepdim=True) / p.sum(1, keepdim=True), value=-1)
                    torch.mm(ds, c, out=dx_chunk)
                    dx_chunk *= w[:, None] * (2 / temperature)
                    if ctx.needs_input_grad[1]:
                        dc.addmm_(ds.t(), centered * w[:, None])
                        ds_sum += w @ ds
                return dc, ds_sum

            sums = zip(*map_row_slices(backpropagate, len(x), len(x) * len(c), x.device), strict=True)
            dc, ds_sum = (torch.stack(partial_sums).sum(0) for partial_sums in sums)
            dc = (dc - ds_sum[:, None] * c) * (2 / temperature)
        return dx.to(z.dtype), dc.to(codes.dtype), None, None, None


def center(z: Tensor, codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return z as rows [N, d] (not centred), the centred codes [K, d] and their mean [d], all in float32."""
    c = codes.float()
    code_mean = c.mean(0)
    return z.reshape(-1, z.shape[-1]).float(), c - code_mean, code_mean


def _append_column(x: Tensor, column: Tensor | float) -> Tensor:
    """Return x with a column appended."""
    out = x.new_empty(len(x), x.shape[1] + 1)
    out[:, :-1] = x
    out[:, -1] = column
    return out


def _choose_chunk_size(x: Tensor, num_codes: int) -> int:
    """Return the number of rows per chunk: about 1 MB of scores on a CPU, more to fill a GPU."""
    rows = count_rows_per_chunk(num_codes) if x.device.type == "cpu" else max(1024, 2**26 // num_codes)
    return max(1, min(rows, len(x)))


def count_rows_per_chunk(num_codes: int) -> int:
    """Return the number of rows of a chunk on a CPU."""
    return max(256, 2**18 // num_codes)
