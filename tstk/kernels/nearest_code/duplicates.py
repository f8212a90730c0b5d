"""Which codes are identical: a matter of the codes, not of how a matrix product rounds.

A BLAS may round the same product differently in different columns, so that of two identical codes the later one has the
smaller score. Indices are therefore mapped to the first code with the same numbers after the search, in every backend.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad


def first_of_identical(ids: Tensor, codes: Tensor) -> Tensor:
    """Replace each index by that of the first code that has the same numbers in float32.

    Args:
        ids: [...] int64 in [0, K)
        codes: [K, d]
    """
    with torch.no_grad():
        rows = codes.float()
        # On a CPU looking is cheap; elsewhere it would have to wait for the device.
        if rows.device.type == "cpu" and not torch.compiler.is_compiling() and not _may_repeat(rows):
            return ids
        return first_identical(rows)[ids]


def first_identical(rows: Tensor) -> Tensor:
    """For each row the index of the first row that equals it, [K] int64; -0 equals 0, and NaN nothing.

    Equal rows have equal keys, so they are neighbours once the keys are sorted (different rows share a key with a
    probability of about 2^-60); neighbours are then compared exactly.

    Args:
        rows: [K, d] float32
    """
    order = _keys(rows).sort().indices
    differ = (rows[order[1:]] != rows[order[:-1]]).any(1)
    group = pad(differ.long().cumsum(0), (1, 0))
    first = torch.full_like(order, len(rows)).scatter_reduce(0, group, order, "amin")
    return torch.empty_like(order).scatter(0, order, first[group])


def _keys(rows: Tensor) -> Tensor:
    """An integer for each row, [K] int64: a sum, which in integers has one value in whatever order it is taken."""
    if torch.compiler.is_compiling():
        # ONNX cannot read the bits of a float. The eighth roots of different floats, times 2^46.5, are different
        # integers below 2^63, since a square root is correctly rounded everywhere.
        roots = rows.double().abs().sqrt().sqrt().sqrt() * rows.sign()
        whole, factors = (roots * 2**46.5).long(), _odd_numbers(rows.shape[1], rows.device)
    else:
        bits = (rows + 0.0).view(torch.int32)  # the sum of -0 and 0 is 0
        whole, factors = bits.long() * 0x9E3779B97F4A7C1, _factors(rows.shape[1], rows.device)
        whole = whole ^ (whole >> 32)  # the low bits of round numbers are all 0; let the high ones count there too
    return (whole * factors).sum(1)


def _may_repeat(rows: Tensor) -> bool:
    """Whether two rows could be equal; where the first two numbers tell all rows apart, they are not."""
    start = np.add(rows[:, :2].numpy(), np.float32(0), order="C")  # the sum of -0 and 0 is 0
    keys = np.sort(start.view(f"i{4 * start.shape[1]}"), axis=0)
    return bool((keys[1:] == keys[:-1]).any())


def _odd_numbers(count: int, device: torch.device) -> Tensor:
    """Odd numbers below 2^63 without a simple relation among them."""
    roots = (torch.arange(count, dtype=torch.float64, device=device) + 0.3183098861837907).sqrt()
    return (roots * 2**50).long() * 2 + 1


@lru_cache(maxsize=64)
def _factors(count: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return _odd_numbers(count, torch.device("cpu")).to(device)
