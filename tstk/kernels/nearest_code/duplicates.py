"""Mapping of identical codes to the first of them, independent of rounding.

A BLAS may round the same product differently in different columns, so that the later of two identical codes gets the
smaller score. After such a search, indices are therefore mapped to the first identical code. The Triton kernels compute
every column in the same way and need no mapping.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad


def map_to_first_duplicate(ids: Tensor, codes: Tensor) -> Tensor:
    """Replace each index by that of the first code that is equal in float32.

    Args:
        ids: [...] int64 in [0, K)
        codes: [K, d]
    """
    with torch.no_grad():
        rows = codes.float()
        # The check is cheap on a CPU; on other devices it would need a synchronisation.
        if rows.device.type == "cpu" and not torch.compiler.is_compiling() and not _may_have_duplicates(rows):
            return ids
        return find_first_duplicates(rows)[ids]


def find_first_duplicates(rows: Tensor) -> Tensor:
    """Return for each row the index of the first equal row, [K] int64; -0 equals 0, and NaN equals nothing.

    Equal rows have equal hashes, so they are neighbours in the order of the hashes (different rows share one with a
    probability of about 2^-60); neighbours are then compared exactly.

    Args:
        rows: [K, d] float32
    """
    order = _hash_rows(rows).sort().indices
    differ = (rows[order[1:]] != rows[order[:-1]]).any(1)
    group = pad(differ.long().cumsum(0), (1, 0))
    first = torch.full_like(order, len(rows)).scatter_reduce(0, group, order, "amin")
    return torch.empty_like(order).scatter(0, order, first[group])


def _hash_rows(rows: Tensor) -> Tensor:
    """Return a hash of each row, [K] int64: an integer sum, which does not depend on the order of summation."""
    if torch.compiler.is_compiling():
        # ONNX has no bit cast of floats. The eighth roots of different floats, times 2^46.5, are different integers
        # below 2^63, since square roots are correctly rounded on every device.
        roots = rows.double().abs().sqrt().sqrt().sqrt() * rows.sign()
        integers, factors = (roots * 2**46.5).long(), _make_odd_numbers(rows.shape[1], rows.device)
    else:
        bits = (rows + 0.0).view(torch.int32)  # the sum of -0 and 0 is 0
        integers, factors = bits.long() * 0x9E3779B97F4A7C1, _get_hash_factors(rows.shape[1], rows.device)
        integers = integers ^ (integers >> 32)  # the low bits of round numbers are all 0, so mix in the high ones
    return (integers * factors).sum(1)


def _may_have_duplicates(rows: Tensor) -> bool:
    """Return whether two rows are equal in their first two columns."""
    columns = np.add(rows[:, :2].numpy(), np.float32(0), order="C")  # the sum of -0 and 0 is 0
    keys = np.sort(columns.view(f"i{4 * columns.shape[1]}"), axis=0)
    return bool((keys[1:] == keys[:-1]).any())


def _make_odd_numbers(count: int, device: torch.device) -> Tensor:
    """Return odd integers below 2^63 without simple linear relations among them."""
    roots = (torch.arange(count, dtype=torch.float64, device=device) + 0.3183098861837907).sqrt()
    return (roots * 2**50).long() * 2 + 1


@lru_cache(maxsize=64)
def _get_hash_factors(count: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return _make_odd_numbers(count, torch.device("cpu")).to(device)
