"""Means and pools that know which elements count, within a batch and across processes."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Pool = Literal["mean", "max", "statistics"]


def mean(values: Tensor, where: Tensor | None = None) -> Tensor:
    """The mean of the elements that count, as a scalar; 0, still with a gradient path, if none does.

    With several processes the sum is divided by the average count per process, so that gradients averaged
    over processes are those of the mean over all their elements, however unevenly these are spread.

    Args:
        values: any shape
        where: bool, broadcast over `values`; all elements unless given
    """
    if where is None:
        where = torch.ones_like(values, dtype=torch.bool)
    where = where.expand_as(values)
    # Half precision cannot hold the sum of a large batch.
    dtype = torch.promote_types(values.dtype, torch.float32)
    total = torch.where(where, values, 0).sum(dtype=dtype)
    count, world = where.sum(), 1
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(count)
        world = torch.distributed.get_world_size()
    return total * world / count.clamp(min=1)


def process_sum(values: Tensor) -> Tensor:
    """The sum over processes of a tensor that each of them has; gradients of all of them flow back."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return values
    from torch.distributed.nn.functional import all_reduce

    total: Tensor = all_reduce(values)
    return total


def pool_channels(values: Tensor, valid: Tensor, channels: int, how: Pool) -> Tensor:
    """One vector per row: that of each channel's tokens, side by side, [B, channels * D]; twice as wide by statistics.

    Args:
        values: [B, channels * N, D], the tokens of a channel following each other
        valid: [B, channels * N] bool
        channels: 1 where tokens are of all channels
        how: `mean`, `max`, or `statistics`, mean and standard deviation
    """
    apart = [t.unflatten(1, (channels, -1)).flatten(0, 1) for t in (values, valid)]
    pooled = statistics(apart[0], apart[1]) if how == "statistics" else pool(apart[0], apart[1], how)
    return pooled.unflatten(0, (-1, channels)).flatten(1)


def statistics(values: Tensor, valid: Tensor) -> Tensor:
    """Mean and standard deviation over the valid tokens of each row, side by side, [B, 2 D].

    A row without any has mean 0. A deviation of 0 reads 1e-6, so that its gradient is finite.

    Args:
        values: [B, N, D]
        valid: [B, N] bool
    """
    middle = pool(values, valid, "mean")
    spread = pool((values - middle[:, None]).square(), valid, "mean").clamp(min=1e-12).sqrt()
    return torch.cat([middle, spread], 1)


def pool(values: Tensor, valid: Tensor, how: Literal["mean", "max"]) -> Tensor:
    """One vector per row, from its valid tokens alone; 0 for a row that has none.

    Args:
        values: [B, N, D]
        valid: [B, N] bool
        how: `mean` or `max`
    """
    where = valid[..., None]
    if how == "mean":
        return torch.where(where, values, 0).sum(1) / where.sum(1).clamp(min=1)
    highest = values.masked_fill(~where, -torch.inf).amax(1)
    return torch.where(valid.any(1, keepdim=True), highest, 0)
