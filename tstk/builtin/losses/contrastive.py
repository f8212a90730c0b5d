"""Contrastive learning with two augmented views of each series."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tstk.core.interfaces import Loss
from tstk.core.masking import mask_random
from tstk.core.rng import SampleRNG
from tstk.core.types import Series, Spec, StepOutput, Tokens
from tstk.nn.reduce import masked_mean, masked_pool
from tstk.nn.resample import interpolate_samples, observed_lengths
from tstk.plugins.ranges import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt


class Contrastive(Loss):
    """InfoNCE between two random crops of each series, resized to its length (Mantis, arXiv:2502.15637).

    Encoded tokens are averaged, layer-normalised and projected. The loss is the symmetric cross-entropy of identifying
    the other view of a series among those of the batch by cosine similarity.

    Unlike the paper, tokens of each view can be masked at random.

    Args:
        crop: largest fraction of a series that a view leaves out
        temperature: divisor of the similarities
        dim: width of the projection
        ratio: fraction of valid tokens to mask in each view, rounded down; 0 for none
        jitter: standard deviation of a random shift and log scale of each channel of a view, the shift in units of the
            channel's standard deviation; 0 for none
    """

    consumes = "encoder"

    def __init__(
        self,
        spec: Spec,
        *,
        crop: Fraction = 0.2,
        temperature: PositiveFloat = 0.1,
        dim: PositiveInt = 128,
        ratio: Fraction = 0.0,
        jitter: NonNegativeFloat = 0.0,
    ) -> None:
        super().__init__(spec)
        self.crop, self.temperature, self.ratio, self.jitter = crop, temperature, ratio, jitter
        self.project = nn.Sequential(nn.LayerNorm(spec.dim or 0), nn.Linear(spec.dim or 0, dim))
        self.out = spec.replace(target_dim=None)

    def make_views(self, series: Series, rng: SampleRNG) -> Series:
        """Return two views of each series, [2 B, C, T]: all first views, then all second views."""
        views = [random_resized_crop(series, self.crop, rng) for _ in range(2)]
        if self.jitter:
            views = [(_jitter(x, observed, self.jitter, rng), observed) for x, observed in views]
        return series.stack_views(views)

    def split(self, tokens: Tokens, rng: SampleRNG) -> tuple[Tokens, Tokens]:
        """Return the visible tokens twice: no token is predicted, so there are no queries of their own."""
        if self.ratio:
            tokens = tokens.select(tokens.valid & ~mask_random(tokens, self.ratio, rng))
        return tokens, tokens

    def forward(self, step_output: StepOutput) -> dict[str, Tensor]:
        """Return the loss over the views of the batch, without series that have no valid token."""
        assert step_output.encoded is not None
        tokens = step_output.encoded
        z = self.project(masked_pool(tokens.values, tokens.valid, "mean"))
        z = F.normalize(z.to(torch.promote_types(z.dtype, torch.float32)), dim=-1)
        z1, z2 = z.chunk(2)
        valid = torch.stack(tokens.valid.any(1).chunk(2)).all(0)
        similarity = (z1 @ z2.T / self.temperature).masked_fill(~(valid & valid[:, None]), -1e4)
        labels = torch.arange(len(z1), device=z.device)
        losses = torch.stack([F.cross_entropy(s, labels, reduction="none") for s in (similarity, similarity.T)])
        step_output.metrics["agreement"] = masked_mean((similarity.detach().argmax(1) == labels).to(z.dtype), valid)
        return {"contrastive": masked_mean(losses, valid)}


def _jitter(x: Tensor, observed: Tensor | None, std: float, rng: SampleRNG) -> Tensor:
    """Scale each channel by a random factor and shift it by a random multiple of its standard deviation."""
    u = rng.uniform(x.shape[1], 4)
    radius = std * (-2 * (1 - u[..., :2]).log()).sqrt()  # two normal variates by the Box-Muller transform
    log_scale, shift = (radius * (2 * math.pi * u[..., 2:]).cos()).unsqueeze(2).unbind(-1)
    where = torch.ones_like(x, dtype=torch.bool) if observed is None else observed
    count = where.sum(2, keepdim=True).clamp(min=1)
    mean = x.sum(2, keepdim=True) / count
    deviation = (((x - mean) * where).square().sum(2, keepdim=True) / count).sqrt()
    return torch.where(where, x * log_scale.exp() + shift * deviation, x)


def random_resized_crop(series: Series, max_crop: float, rng: SampleRNG) -> tuple[Tensor, Tensor | None]:
    """Crop a random part of each series and resize it to the length of the series by linear interpolation.

    Args:
        series: x [B, C, T]
        max_crop: largest fraction to leave out; the fraction is drawn uniformly, and so is the start of the crop
        rng: draws two numbers per series

    Returns:
        x [B, C, T] and where it is observed: both neighbours were, in the same channel
    """
    crop, start = rng.uniform() * max_crop, rng.uniform()
    last = (observed_lengths(series.observed_mask) - 1).clamp(min=0)[:, None]
    time = torch.arange(series.x.shape[2], device=series.x.device).expand(len(series.x), -1)
    positions = (start * crop)[:, None] * last + time * (1 - crop)[:, None]
    positions = torch.where(time <= last, positions.clamp(max=last), time)
    x = interpolate_samples(series.x, positions)
    if series.observed is None:
        return x, None
    observed = interpolate_samples(series.observed.to(x.dtype), positions) > 1 - 1e-6
    return x.masked_fill(~observed, 0), observed
