"""Sums and counts per code, for codebooks with EMA updates; deterministic on every device."""

from __future__ import annotations

import torch
from torch import Tensor


def count_codes(ids: Tensor, num_codes: int, valid: Tensor | None = None) -> Tensor:
    """Count the occurrences of each code, [num_codes] int64.

    Args:
        ids: [...] int64 in [0, num_codes)
        num_codes: size of the codebook
        valid: [...] bool, False at indices to ignore
    """
    ones = torch.ones_like(ids) if valid is None else valid.long()
    return ids.new_zeros(num_codes).index_add_(0, ids.flatten(), ones.flatten())


def sum_by_code(z: Tensor, ids: Tensor, num_codes: int, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the sum of the vectors of each code, [num_codes, d] float32, and their number, [num_codes] int64.

    Args:
        z: [..., d] vectors
        ids: [...] int64 in [0, num_codes)
        num_codes: size of the codebook
        valid: [...] bool, False at vectors to ignore, whose index may be anything
    """
    rows = ids.flatten() if valid is None else ids.where(valid, num_codes).flatten()
    x = z.detach().reshape(-1, z.shape[-1]).float()
    sums = x.new_zeros(num_codes + 1, x.shape[1])
    if x.is_cuda:
        sums.index_put_((rows,), x, accumulate=True)  # sorts first; the atomics of index_add_ would change the bits
    else:
        sums.index_add_(0, rows, x)
    return sums[:num_codes], count_codes(rows, num_codes + 1)[:num_codes]
