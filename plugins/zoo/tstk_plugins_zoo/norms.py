"""Normalisation of tokens by layer or by batch; batch statistics travel with the tokens to `after_step`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tstk.nn.convolution import MaskedBatchNorm


def build_norm(kind: str, dim: int, eps: float) -> nn.Module:
    """Return a layer norm, or a batch norm over the valid tokens."""
    return nn.LayerNorm(dim, eps) if kind == "layernorm" else MaskedBatchNorm(dim, eps)


def normalise(norm: nn.Module, x: Tensor, valid: Tensor, statistics: list[Tensor]) -> Tensor:
    """Return the normalised tokens [B, N, D]; a batch norm in training appends its statistics [2, D].

    Args:
        norm: from `build_norm`
        x: [B, N, D]
        valid: [B, N] bool, the tokens that statistics are computed of
        statistics: of the batch norms so far
    """
    if not isinstance(norm, MaskedBatchNorm):
        return norm(x)
    y, of_batch = norm((x * valid[..., None]).mT, valid[:, None].to(x.dtype))
    if norm.training:
        statistics.append(of_batch)
    return y.mT


def update_norms(norms: Sequence[MaskedBatchNorm], statistics: Sequence[Tensor]) -> None:
    """Update the running statistics of batch norms with the mean of those of the micro-batches, [norms, 2, D] each."""
    for norm, of_step in zip(norms, torch.stack(list(statistics)).mean(0), strict=True):
        norm.update(of_step)
