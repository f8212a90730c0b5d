"""Two views of a series are told from all others."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tstk.core.interfaces import Loss
from tstk.core.masking import POLICIES
from tstk.core.rng import Draws
from tstk.core.types import Flow, Series, Spec, Tokens
from tstk.errors import OptionError
from tstk.nn.reduce import mean, pool
from tstk.nn.resample import lengths, sample_at


class Contrastive(Loss):
    """InfoNCE between two random crops of each series, each resized to its length (Mantis, arXiv:2502.15637).

    Encoded tokens are averaged, normalised and projected. The other view of a series is to be found among those of all
    series of the batch by cosine similarity, from either side.

    Unlike the paper, tokens of each view may be hidden from the encoder, at random.

    Args:
        crop: largest share of a series that a view leaves out
        temperature: that similarities are divided by
        dim: width of the projection
        ratio: share of valid tokens to hide in each view, rounded down; 0 hides none
        jitter: deviation of a random change of level and log scale of each view's channels, in deviations of the
            channel; 0 for none
    """

    reads = "encoder"

    def __init__(
        self,
        spec: Spec,
        *,
        crop: float = 0.2,
        temperature: float = 0.1,
        dim: int = 128,
        ratio: float = 0.0,
        jitter: float = 0.0,
    ) -> None:
        super().__init__(spec)
        for name, share in (("crop", crop), ("ratio", ratio)):
            if not 0 <= share < 1:
                raise OptionError(f"loss.{name}={share}: expected a share from 0 to less than 1")
        if temperature <= 0:
            raise OptionError(f"loss.temperature={temperature}: expected a number above 0, such as 0.1")
        if jitter < 0:
            raise OptionError(f"loss.jitter={jitter}: expected a deviation, 0 or more")
        self.crop, self.temperature, self.ratio, self.jitter = crop, temperature, ratio, jitter
        self.project = nn.Sequential(nn.LayerNorm(spec.dim or 0), nn.Linear(spec.dim or 0, dim))
        self.out = spec.but(target=None)

    def views(self, series: Series, draws: Draws) -> Series:
        """Two crops of each series: [2 B, C, T], all first views before all second ones."""
        views = [resized_crop(series, self.crop, draws) for _ in range(2)]
        if self.jitter:
            views = [(_shifted(x, observed, self.jitter, draws), observed) for x, observed in views]
        return series.stack(views)

    def split(self, tokens: Tokens, draws: Draws) -> tuple[Tokens, Tokens]:
        """The encoder sees what is not hidden; nothing is asked of a token."""
        if self.ratio:
            tokens = tokens.keep(tokens.valid & ~POLICIES["random"](tokens, self.ratio, draws))
        return tokens, tokens

    def forward(self, flow: Flow) -> dict[str, Tensor]:
        """Cross-entropy over the views of the batch; series without any valid token do not count."""
        assert flow.encoded is not None
        tokens = flow.encoded
        z = self.project(pool(tokens.values, tokens.valid, "mean"))
        z = F.normalize(z.to(torch.promote_types(z.dtype, torch.float32)), dim=-1)
        one, two = z.chunk(2)
        some = torch.stack(tokens.valid.any(1).chunk(2)).all(0)
        similarity = (one @ two.T / self.temperature).masked_fill(~(some & some[:, None]), -1e4)
        right = torch.arange(len(one), device=z.device)
        terms = torch.stack([F.cross_entropy(s, right, reduction="none") for s in (similarity, similarity.T)])
        flow.logs["agreement"] = mean((similarity.detach().argmax(1) == right).to(z.dtype), some)
        return {"contrastive": mean(terms, some)}


def _shifted(x: Tensor, observed: Tensor | None, jitter: float, draws: Draws) -> Tensor:
    """Each channel times a random factor, plus a random share of its own deviation."""
    u = draws.uniform(x.shape[1], 4)
    radius = jitter * (-2 * (1 - u[..., :2]).log()).sqrt()
    one, two = (radius * (2 * math.pi * u[..., 2:]).cos()).unsqueeze(2).unbind(-1)
    some = torch.ones_like(x, dtype=torch.bool) if observed is None else observed
    count = some.sum(2, keepdim=True).clamp(min=1)
    mean = x.sum(2, keepdim=True) / count
    deviation = (((x - mean) * some).square().sum(2, keepdim=True) / count).sqrt()
    return torch.where(some, x * one.exp() + two * deviation, x)


def resized_crop(series: Series, most: float, draws: Draws) -> tuple[Tensor, Tensor | None]:
    """A random stretch of each series, resized to the length of that series by linear interpolation.

    Args:
        series: x [B, C, T]
        most: largest share to leave out; the share is uniform, and so is where the stretch begins
        draws: two numbers per series are taken

    Returns:
        x [B, C, T] and where it is observed: both neighbours were, in the same channel
    """
    left_out, start = draws.uniform() * most, draws.uniform()
    last = (lengths(series) - 1).clamp(min=0)[:, None]
    time = torch.arange(series.x.shape[2], device=series.x.device).expand(len(series.x), -1)
    places = (start * left_out)[:, None] * last + time * (1 - left_out)[:, None]
    places = torch.where(time <= last, places.clamp(max=last), time)
    x = sample_at(series.x, places)
    if series.observed is None:
        return x, None
    observed = sample_at(series.observed.to(x.dtype), places) > 1 - 1e-6
    return x.masked_fill(~observed, 0), observed
