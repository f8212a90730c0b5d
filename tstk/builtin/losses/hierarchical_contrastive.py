"""Contrastive learning on tokens, at several resolutions of time."""

from __future__ import annotations

from math import prod
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor
from torch.nn import functional as F

from tstk.core.interfaces import Loss
from tstk.core.rng import SampleRNG
from tstk.core.types import Series, Spec, StepOutput
from tstk.nn.reduce import masked_mean
from tstk.nn.resample import observed_lengths
from tstk.plugins.ranges import Fraction


class HierarchicalContrastive(Loss):
    """Contrast tokens with those of other series and of other times (TS2Vec, Yue et al. 2022, section 3).

    The two views of a series are overlapping crops, which keep their place in time, with random samples hidden. Tokens
    in the overlap are compared by dot product: with those of the other series at the same time (equation 2), and with
    those of the same series at other times (equation 1). Both losses are averaged over resolutions, from one token to
    the whole series, by max-pooling pairs of tokens.

    Unlike the paper, samples are hidden before the tokenizer, so that a token may be partly hidden. An encoder with
    absolute position embeddings may tell times apart by these alone; that of the paper has none.

    Args:
        crop: largest fraction of a series outside the overlap
        hide: probability that a sample of a view is hidden
        temporal: weight of the contrast of times; that of series is weighted by the rest, 1 - temporal
    """

    consumes = "encoder"
    needs = ("stride",)

    def __init__(
        self, spec: Spec, *, crop: Fraction = 0.5, hide: Fraction = 0.5, temporal: Annotated[float, Ge(0), Le(1)] = 0.5
    ) -> None:
        super().__init__(spec)
        self.crop, self.hide, self.temporal = crop, hide, temporal
        self.out = spec.replace(target_dim=None)

    def make_views(self, series: Series, rng: SampleRNG) -> Series:
        """Return two views of each series, [2 B, C, T]: the same samples, of which fewer are observed."""
        time = torch.arange(series.x.shape[2], device=series.x.device)
        views = []
        for start, end in draw_overlapping_crops(observed_lengths(series.observed_mask), self.crop, rng):
            is_kept = (time >= start[:, None]) & (time < end[:, None]) & (rng.uniform(len(time)) >= self.hide)
            observed = series.observed_mask & is_kept[:, None]
            views.append((series.x * observed, observed))
        return series.stack_views(views)

    def forward(self, step_output: StepOutput) -> dict[str, Tensor]:
        """Return the losses `instance` and `temporal`, over the tokens that are valid in both views."""
        tokens = step_output.encoded
        assert tokens is not None
        axes = (self.spec.grid_size[0], prod(self.spec.grid_size[1:]))
        valid = tokens.grid_mask(axes).mT.unflatten(0, (2, -1)).all(0)  # [B, other axes, T]
        z = tokens.to_grid(axes).transpose(1, 3).unflatten(0, (2, -1))  # [2, B, other axes, T, D]
        z = z.to(torch.promote_types(z.dtype, torch.float32))
        instance, temporal = [], [z.new_zeros(())]
        while True:
            instance.append(_contrast(z.permute(2, 3, 0, 1, 4), valid.permute(1, 2, 0)))
            if z.shape[3] == 1:
                break
            temporal.append(_contrast(z.permute(1, 2, 0, 3, 4), valid))
            z, valid = _pool_pairs(z, valid)
        return {
            "instance": (1 - self.temporal) * torch.stack(instance).mean(),
            "temporal": self.temporal * torch.stack(temporal).sum() / len(instance),
        }


def draw_overlapping_crops(lengths: Tensor, crop: Fraction, rng: SampleRNG) -> list[tuple[Tensor, Tensor]]:
    """Draw two crops per series: the first starts before the overlap and ends with it, the second is the reverse.

    Args:
        lengths: [B] samples of each series
        crop: largest fraction outside the overlap; the fraction is drawn uniformly, and so are all places
        rng: draws four numbers per series

    Returns:
        start and end (exclusive), [B] each, of the two crops
    """

    def draw(low: Tensor, high: Tensor) -> Tensor:
        return low + (rng.uniform() * (high - low + 1)).floor().long()

    overlap = (lengths * (1 - crop * rng.uniform())).ceil().long()
    start = draw(torch.zeros_like(lengths), lengths - overlap)
    end = start + overlap
    return [(draw(torch.zeros_like(start), start), end), (start, draw(end, lengths))]


def _contrast(z: Tensor, valid: Tensor) -> Tensor:
    """Return the cross-entropy of finding the other view of each item among all items of both views.

    Args:
        z: [..., 2, K, D], two views of K items
        valid: [..., K] bool, items that are compared
    """
    count = valid.shape[-1]
    z, valid = z.flatten(-3, -2), torch.cat([valid, valid], -1)
    similarity = z @ z.mT
    excluded = ~valid[..., None, :] | torch.eye(2 * count, dtype=torch.bool, device=z.device)
    similarity = similarity.masked_fill(excluded, torch.finfo(similarity.dtype).min)
    labels = torch.arange(2 * count, device=z.device).roll(count).expand(valid.shape)
    losses = F.cross_entropy(similarity.flatten(0, -2), labels.flatten(), reduction="none")
    return masked_mean(losses.unflatten(0, valid.shape), valid)


def _pool_pairs(z: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Max-pool pairs of valid tokens: [2, B, P, T, D] and [B, P, T] to half of T, rounded up."""
    pad = z.shape[3] % 2
    valid = F.pad(valid, (0, pad)).unflatten(2, (-1, 2))
    z = F.pad(z, (0, 0, 0, pad)).unflatten(3, (-1, 2)).masked_fill(~valid[..., None], -torch.inf).amax(4)
    valid = valid.any(3)
    return z.masked_fill(~valid[..., None], 0), valid
