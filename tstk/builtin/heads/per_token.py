"""A linear head on each token, whose outputs are brought back to samples."""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor, nn

from tstk.core.interfaces import Head
from tstk.core.types import Spec, Tokens
from tstk.plugins.ranges import Fraction


class PerToken(Head):
    """Linear layer from each token to a class for each of its samples, for segmentation.

    Where tokens overlap, and of several channels with `--channels independent`, the logits are averaged. A sample that
    no valid token covers has the logits of the nearest one that is covered.

    Args:
        dropout: dropout rate of the tokens
    """

    needs = ("num_outputs", "stride")
    target_types = ("sample-class",)

    def __init__(self, spec: Spec, *, dropout: Fraction = 0.0) -> None:
        super().__init__(spec)
        self.samples_per_token = ceil(spec.patch_len or 1)
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Linear(spec.dim or 0, self.samples_per_token * (spec.num_outputs or 0))

    def forward(self, tokens: Tokens) -> Tensor:
        """Return logits [B, num_outputs, length]."""
        length = self.spec.length
        values = tokens.values.masked_fill(~tokens.valid[..., None], 0)
        logits = self.classify(self.dropout(values)).unflatten(-1, (self.samples_per_token, -1))
        starts = (tokens.pos[..., 0] * (self.spec.stride or 1)).round().long()
        index = starts[..., None] + torch.arange(self.samples_per_token, device=starts.device)
        # samples of invalid tokens, and those beyond the end, are added to one more row, which is dropped
        index = index.where(tokens.valid[..., None] & (index >= 0) & (index < length), length).flatten(1)
        rows = index[..., None].expand(-1, -1, logits.shape[-1])
        sums = logits.new_zeros(index.shape[0], length + 1, logits.shape[-1]).scatter_add(1, rows, logits.flatten(1, 2))
        counts = torch.zeros_like(sums[..., 0]).scatter_add(1, index, torch.ones_like(index, dtype=sums.dtype))
        counts = counts[:, :length]
        means = sums[:, :length] / counts.clamp(min=1)[..., None]
        nearest = find_nearest(counts > 0)
        return means.gather(1, nearest[..., None].expand_as(means)).mT


def find_nearest(is_covered: Tensor) -> Tensor:
    """Return [B, T] long, the nearest True sample of each sample of [B, T] bool; the earlier one of two."""
    length = is_covered.shape[1]
    time = torch.arange(length, device=is_covered.device).expand(is_covered.shape)
    rank = is_covered.long().cumsum(1)
    # the time of the first, second, ... True sample; none is before the first and after the last (ONNX has no cummax)
    times = torch.full_like(time[:, :1], -length).expand(-1, length + 2)
    times = torch.where(torch.arange(length + 2, device=time.device) > 0, 2 * length, times)
    times = times.scatter(1, torch.where(is_covered, rank, length + 1), time)
    before, after = times.gather(1, rank), times.gather(1, rank - is_covered.long() + 1)
    return torch.where(time - before <= after - time, before, after).clamp(0, length - 1)
