"""Masked means and pooling, within a batch and across processes."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from tstk.nn.devices import is_distributed

Pooling = Literal["mean", "max", "statistics"]


def masked_mean(values: Tensor, where: Tensor | None = None) -> Tensor:
    """Return the mean of the selected elements as a scalar; 0, with a gradient path, if none is selected.

    With several processes the sum is divided by the mean count per process, so that gradients averaged over processes
    equal those of the mean over all elements, however unevenly they are distributed.

    Args:
        values: any shape
        where: bool, broadcast to `values`, True at elements to include; all if None
    """
    # Half precision cannot hold the sum of a large batch.
    dtype = torch.promote_types(values.dtype, torch.float32)
    if where is None:
        total, count = values.sum(dtype=dtype), torch.tensor(values.numel(), device=values.device)
    else:
        where = where.expand_as(values)
        total, count = torch.where(where, values, 0).sum(dtype=dtype), where.sum()
    return _divide_by_count(total, count)


def masked_mse(predictions: Tensor, targets: Tensor, where: Tensor | None = None) -> Tensor:
    """Return the mean squared error over the selected elements, `masked_mean` of the squares of the differences.

    Where all elements are selected, it takes fewer passes over memory.

    Args:
        predictions: any shape
        targets: broadcast to `predictions`
        where: bool, broadcast to `predictions`, True at elements to include; all if None
    """
    is_half = torch.promote_types(predictions.dtype, torch.float32) != predictions.dtype
    if where is not None or is_half or (predictions.dtype, predictions.shape) != (targets.dtype, targets.shape):
        return masked_mean((predictions - targets).square(), where)
    count = torch.tensor(predictions.numel(), device=predictions.device)
    return _divide_by_count(mse_loss(predictions, targets, reduction="sum"), count)


def _divide_by_count(total: Tensor, count: Tensor) -> Tensor:
    """Divide the sum of this process by the mean count per process."""
    world = 1
    if is_distributed():
        torch.distributed.all_reduce(count)
        world = torch.distributed.get_world_size()
    return total * world / count.clamp(min=1)


def all_reduce_sum(values: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes, differentiable in the tensor of every process."""
    if not is_distributed():
        return values
    from torch.distributed.nn.functional import all_reduce

    total: Tensor = all_reduce(values)
    return total


def pool_channels(values: Tensor, valid: Tensor, channels: int, pooling: Pooling) -> Tensor:
    """Pool the valid tokens of each channel and concatenate the channels.

    Args:
        values: [B, channels * N, D], the tokens of a channel following each other
        valid: [B, channels * N] bool
        channels: number of channels; 1 if each token covers all channels
        pooling: `mean`, `max`, or `statistics` (mean and standard deviation)

    Returns:
        [B, channels * D]; [B, channels * 2 D] for `statistics`
    """
    values, valid = (t.unflatten(1, (channels, -1)).flatten(0, 1) for t in (values, valid))
    pooled = masked_mean_std(values, valid) if pooling == "statistics" else masked_pool(values, valid, pooling)
    return pooled.unflatten(0, (-1, channels)).flatten(1)


def masked_mean_std(values: Tensor, valid: Tensor) -> Tensor:
    """Return the mean and standard deviation over the valid tokens of each row, concatenated, [B, 2 D].

    The mean of a row without valid tokens is 0. Deviations are at least 1e-6, so that gradients are finite.

    Args:
        values: [B, N, D]
        valid: [B, N] bool
    """
    mean = masked_pool(values, valid, "mean")
    std = masked_pool((values - mean[:, None]).square(), valid, "mean").clamp(min=1e-12).sqrt()
    return torch.cat([mean, std], 1)


def masked_pool(values: Tensor, valid: Tensor, pooling: Literal["mean", "max"]) -> Tensor:
    """Pool the valid tokens of each row to one vector, [B, D]; 0 for a row without valid tokens.

    Args:
        values: [B, N, D]
        valid: [B, N] bool
        pooling: `mean` or `max`
    """
    where = valid[..., None]
    if pooling == "mean":
        return torch.where(where, values, 0).sum(1) / where.sum(1).clamp(min=1)
    maximum = values.masked_fill(~where, -torch.inf).amax(1)
    return torch.where(valid.any(1, keepdim=True), maximum, 0)
