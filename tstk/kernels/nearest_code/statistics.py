"""Sums and counts per code, for codebooks that follow averages; the same bits in every run, on every device."""

from __future__ import annotations

import torch
from torch import Tensor


def usage(ids: Tensor, codes: int, valid: Tensor | None = None) -> Tensor:
    """How often each code was chosen, [codes] int64.

    Args:
        ids: [...] int64 in [0, codes)
        codes: size of the codebook
        valid: [...] bool, False for what does not count
    """
    ones = torch.ones_like(ids) if valid is None else valid.long()
    return ids.new_zeros(codes).index_add_(0, ids.flatten(), ones.flatten())


def code_sums(z: Tensor, ids: Tensor, codes: int, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The sum of the vectors of each code, [codes, d] float32, and their number, [codes] int64.

    Args:
        z: [..., d] vectors
        ids: [...] int64 in [0, codes)
        codes: size of the codebook
        valid: [...] bool, False for what does not count, which may then hold anything
    """
    rows = ids.flatten() if valid is None else ids.where(valid, codes).flatten()
    x = z.detach().reshape(-1, z.shape[-1]).float()
    sums = x.new_zeros(codes + 1, x.shape[1])
    if x.is_cuda:
        sums.index_put_((rows,), x, accumulate=True)  # sorts first; the atomics of index_add_ would change the bits
    else:
        sums.index_add_(0, rows, x)
    return sums[:codes], usage(rows, codes + 1)[:codes]
