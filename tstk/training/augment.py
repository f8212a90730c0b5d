"""Changes to training series that leave their meaning alone, drawn anew in each step.

`crop` and `mix` have options of their own. The others have a name and a strength, and are those of Um et al. 2017
(arXiv:1706.00527); each takes scaled series, a strength and draws, and treats a whole batch at once. What is missing
stays missing, and the end of a short series stays where it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from tstk.core.rng import Draws
from tstk.core.types import Series
from tstk.errors import OptionError, did_you_mean
from tstk.nn.resample import lengths as lengths_of


def crop(series: Series, size: int, draws: Draws) -> Series:
    """`size` consecutive samples of each series, from a place of its own; a shorter series stays whole.

    Args:
        series: x [B, C, T]
        size: samples to keep
        draws: one uniform number per series is taken
    """
    x, observed = series.x, series.observed
    c, t = x.shape[1:]
    if t <= size:
        return series
    ends = torch.arange(1, t + 1, device=x.device)
    lengths = lengths_of(series)
    start = (draws.uniform() * (lengths - size + 1).clamp(min=1)).long()
    index = (start[:, None] + ends[:size] - 1)[:, None].expand(-1, c, -1)
    return series.but(x=x.gather(2, index), observed=None if observed is None else observed.gather(2, index))


def mix(series: Series, alpha: float, classes: int, draws: Draws) -> Series:
    """Each labelled series blended with another of the batch, and their labels with them (mixup, Zhang et al. 2018).

    Where only one of the two was observed, it stands alone.

    Args:
        series: x [B, C, T], y [B] class index, -1 where unknown
        alpha: the share of the series itself is drawn from Beta(alpha, alpha)
        classes: number of classes, K
        draws: two uniform numbers per series are taken; they do not depend on the batch, but who meets whom does

    Returns:
        y [B, K] holds the shares of the classes; none where a label is unknown
    """
    from scipy.special import betaincinv

    assert series.y is not None
    order = draws.uniform().argsort()
    partner = torch.empty_like(order).scatter_(0, order, order.roll(1))
    uniform = draws.uniform().double().cpu().numpy()
    share = torch.from_numpy(betaincinv(alpha, alpha, uniform)).to(series.x)
    label = F.one_hot(series.y.clamp(min=0), classes) * (series.y >= 0)[:, None]

    def blend(mine: Tensor) -> Tensor:
        part = share.reshape(-1, *[1] * (mine.ndim - 1))
        return part * mine + (1 - part) * mine[partner]

    x, mask, other = blend(series.x), series.mask, series.mask[partner]
    if series.observed is None:
        return series.but(x=x, y=blend(label))
    alone = torch.where(mask, series.x, series.x[partner])
    return series.but(x=torch.where(mask & other, x, alone), observed=mask | other, y=blend(label))


# -------------------------------------------------------------------- by name and strength

Change = Callable[[Series, float, Draws], Series]


def jitter(series: Series, strength: float, draws: Draws) -> Series:
    """Normal noise on every sample.

    Args:
        series: x [B, C, T], scaled
        strength: deviation of the noise, in deviations of the training data
        draws: two numbers per sample are taken
    """
    c, t = series.x.shape[1:]
    # time first, so that a sample's noise does not depend on the longest series of the batch
    return series.but(x=series.x + strength * draws.normal(t, c).transpose(1, 2))


def scale(series: Series, strength: float, draws: Draws) -> Series:
    """Each channel of each series times a number of its own, drawn from N(1, strength).

    Args:
        series: x [B, C, T], scaled
        strength: deviation of the factors
        draws: two numbers per channel are taken
    """
    return series.but(x=series.x * (1 + strength * draws.normal(series.x.shape[1])[..., None]))


def permute(series: Series, strength: float, draws: Draws) -> Series:
    """Each series cut into pieces of equal length, which are put together in another order.

    Args:
        series: x [B, C, T]
        strength: number of pieces
        draws: a number per piece is taken
    """
    pieces, t = max(int(strength), 1), series.x.shape[2]
    lengths = lengths_of(series)[:, None]
    bounds = (lengths * torch.arange(pieces + 1, device=lengths.device) + pieces // 2) // pieces
    order = draws.uniform(pieces).argsort(1)
    starts, sizes = bounds[:, :-1].gather(1, order), bounds.diff(dim=1).gather(1, order)
    ends = sizes.cumsum(1)
    at = torch.arange(t, device=lengths.device).expand(len(lengths), -1).contiguous()
    piece = torch.searchsorted(ends, at, right=True).clamp(max=pieces - 1)
    index = starts.gather(1, piece) + at - (ends - sizes).gather(1, piece)
    return _at(series, torch.where(at < lengths, index, at))


def warp(series: Series, strength: float, draws: Draws) -> Series:
    """Time runs now faster, now slower: its speed at six knots is drawn from N(1, strength).

    Unlike the paper, speed is linear between knots rather than a cubic spline, and never less than a tenth.

    Args:
        series: x [B, C, T]
        strength: deviation of the speeds
        draws: two numbers per knot are taken
    """
    x, observed = series.x, series.observed
    t = x.shape[2]
    lengths = lengths_of(series)[:, None]
    speed = (1 + strength * draws.normal(6)).clamp(min=0.1)
    at = torch.arange(t, device=x.device).expand(len(x), -1)
    way = (at / (lengths - 1).clamp(min=1) * 5).clamp(max=5)
    low = way.long().clamp(max=4)
    here = torch.lerp(speed.gather(1, low), speed.gather(1, low + 1), way - low)
    gone = here.cumsum(1) - here[:, :1]
    whole = gone.gather(1, (lengths - 1).clamp(min=0))
    place = torch.where(at < lengths, gone / whole.clamp(min=1e-6) * (lengths - 1), at)
    before = place.long().clamp(max=t - 1)
    after = (before + 1).clamp(max=t - 1)
    part = (place - before)[:, None].to(x.dtype)
    first, second = _at(series, before), _at(series, torch.where(place > before, after, before))
    known = None if observed is None else first.mask & second.mask
    return series.but(x=torch.lerp(first.x, second.x, part), observed=known)


CHANGES: dict[str, tuple[Change, float]] = {
    "jitter": (jitter, 0.03),
    "scaling": (scale, 0.1),
    "permutation": (permute, 4),
    "time-warp": (warp, 0.2),
}
"""Name -> what is done, and how strongly if nothing is said."""


def chosen(texts: Sequence[str]) -> Callable[[Series, Tensor, Tensor, Draws], Series]:
    """What `--augment jitter,time-warp=0.3` asks for, one after the other.

    Returns:
        a change of raw series, given their channels' mean and deviation, both [C, 1]

    Raises:
        OptionError: there is no such change, or its strength is no number above 0
    """
    steps = []
    for text in texts:
        name, equals, number = text.partition("=")
        if name not in CHANGES:
            raise OptionError(f"--augment {text}: there are {', '.join(CHANGES)}.{did_you_mean(name, CHANGES)}")
        change, strength = CHANGES[name]
        try:
            strength = float(number) if equals else strength
        except ValueError:
            strength = 0.0
        if not 0 < strength < math.inf:
            raise OptionError(f"--augment {text}: expected a strength above 0, such as {name}={CHANGES[name][1]}")
        steps.append((change, strength))

    def changed(series: Series, mean: Tensor, std: Tensor, draws: Draws) -> Series:
        series = series.but(x=(series.x - mean) / std)
        for change, strength in steps:
            series = change(series, strength, draws)
        x = series.x * std + mean
        return series.but(x=x if series.observed is None else x.masked_fill(~series.observed, 0))

    return changed


def _at(series: Series, index: Tensor) -> Series:
    """Samples at `index` [B, T] of all channels."""
    index = index[:, None].expand(-1, series.x.shape[1], -1)
    observed = None if series.observed is None else series.observed.gather(2, index)
    return series.but(x=series.x.gather(2, index), observed=observed)
