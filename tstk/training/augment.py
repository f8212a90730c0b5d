"""Data augmentation of training series: cropping, mixup, and the transforms of `--augment`.

The transforms are entries of the kind `augmentation`, functions of a batch of standardized series and a generator, with
the option `strength`. Unobserved samples stay unobserved, and padding stays at the end. Those of the core are by Um et
al. 2017 (arXiv:1706.00527).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated

import torch
from annotated_types import Gt, Le
from torch import Tensor
from torch.nn import functional as F

from tstk.core.pipeline import Pipeline
from tstk.core.rng import SampleRNG
from tstk.core.types import Series
from tstk.nn.resample import observed_lengths
from tstk.plugins.registry import get_registry
from tstk.plugins.signature import read_signature

if TYPE_CHECKING:
    from tstk.data.data_module import DataModule
    from tstk.training.config import TrainConfig


def make_transform(pipeline: Pipeline, data: DataModule, config: TrainConfig) -> Callable[[Series, SampleRNG], Series]:
    """Return the function that crops, augments and mixes a batch of training series, as the options say."""
    apply_augmentations = parse_augmentations(config.augment)

    def transform(series: Series, rng: SampleRNG) -> Series:
        if config.crop is not None:
            series = random_crop(series, config.crop, rng)
        if config.augment:
            series = apply_augmentations(series, pipeline.mean, pipeline.std, rng)
        if config.mixup:
            series = apply_mixup(series, config.mixup, len(data.classes), rng)
        return series

    return transform


def random_crop(series: Series, size: int, rng: SampleRNG) -> Series:
    """Crop each series to `size` consecutive samples at a random position; shorter series are kept whole.

    Args:
        series: x [B, C, T]
        size: samples to keep
        rng: one uniform number per series is drawn
    """
    x, observed = series.x, series.observed
    num_channels, num_samples = x.shape[1:]
    if num_samples <= size:
        return series
    offsets = torch.arange(1, num_samples + 1, device=x.device)
    lengths = observed_lengths(series.observed_mask)
    starts = (rng.uniform() * (lengths - size + 1).clamp(min=1)).long()
    index = (starts[:, None] + offsets[:size] - 1)[:, None].expand(-1, num_channels, -1)
    return series.replace(x=x.gather(2, index), observed=None if observed is None else observed.gather(2, index))


def apply_mixup(series: Series, alpha: float, num_classes: int, rng: SampleRNG) -> Series:
    """Mix each labelled series, and its label, with another series of the batch (mixup, Zhang et al. 2018).

    Where only one of the two is observed, its value is taken unmixed.

    Args:
        series: x [B, C, T], y [B] class index, -1 where unknown
        alpha: the weight of the series itself is drawn from Beta(alpha, alpha)
        num_classes: number of classes, K
        rng: two uniform numbers per series are drawn; they do not depend on the batch, but the pairing does

    Returns:
        y [B, K] holds the weights of the classes; an unknown label has weight 0
    """
    from scipy.special import betaincinv

    assert series.y is not None
    order = rng.uniform().argsort()
    partner = torch.empty_like(order).scatter_(0, order, order.roll(1))
    uniform = rng.uniform().double().cpu().numpy()
    weight = torch.from_numpy(betaincinv(alpha, alpha, uniform)).to(series.x)
    label = F.one_hot(series.y.clamp(min=0), num_classes) * (series.y >= 0)[:, None]

    def mix(values: Tensor) -> Tensor:
        w = weight.reshape(-1, *[1] * (values.ndim - 1))
        return w * values + (1 - w) * values[partner]

    x, mask, partner_mask = mix(series.x), series.observed_mask, series.observed_mask[partner]
    if series.observed is None:
        return series.replace(x=x, y=mix(label))
    unmixed = torch.where(mask, series.x, series.x[partner])
    return series.replace(x=torch.where(mask & partner_mask, x, unmixed), observed=mask | partner_mask, y=mix(label))


# -------------------------------------------------------------------- transforms by name and strength

Augmentation = Callable[[Series, SampleRNG], Series]


def add_jitter(series: Series, rng: SampleRNG, *, strength: Annotated[float, Gt(0), Le(100)] = 0.03) -> Series:
    """Add normal noise to every sample.

    Args:
        series: x [B, C, T], standardized
        rng: two numbers per sample are drawn
        strength: standard deviation of the noise
    """
    num_channels, num_samples = series.x.shape[1:]
    # time first, so that a sample's noise does not depend on the longest series of the batch
    return series.replace(x=series.x + strength * rng.normal(num_samples, num_channels).transpose(1, 2))


def scale_channels(series: Series, rng: SampleRNG, *, strength: Annotated[float, Gt(0), Le(100)] = 0.1) -> Series:
    """Multiply each channel of each series by a factor drawn from N(1, strength^2).

    Args:
        series: x [B, C, T], standardized
        rng: two numbers per channel are drawn
        strength: standard deviation of the factors
    """
    return series.replace(x=series.x * (1 + strength * rng.normal(series.x.shape[1])[..., None]))


def permute_segments(series: Series, rng: SampleRNG, *, strength: Annotated[float, Gt(0), Le(1000)] = 4.0) -> Series:
    """Cut each series into segments of equal length and permute them.

    Args:
        series: x [B, C, T]
        rng: one number per segment is drawn
        strength: number of segments
    """
    num_segments, num_samples = max(int(strength), 1), series.x.shape[2]
    lengths = observed_lengths(series.observed_mask)[:, None]
    segments = torch.arange(num_segments + 1, device=lengths.device)
    bounds = (lengths * segments + num_segments // 2) // num_segments
    order = rng.uniform(num_segments).argsort(1)
    starts, sizes = bounds[:, :-1].gather(1, order), bounds.diff(dim=1).gather(1, order)
    ends = sizes.cumsum(1)
    time = torch.arange(num_samples, device=lengths.device).expand(len(lengths), -1).contiguous()
    segment = torch.searchsorted(ends, time, right=True).clamp(max=num_segments - 1)
    index = starts.gather(1, segment) + time - (ends - sizes).gather(1, segment)
    return _gather_samples(series, torch.where(time < lengths, index, time))


def warp_time(series: Series, rng: SampleRNG, *, strength: Annotated[float, Gt(0), Le(100)] = 0.2) -> Series:
    """Resample each series at a varying speed, drawn from N(1, strength^2) at six knots.

    Unlike the paper, speed is linear between knots rather than a cubic spline, and at least 0.1.

    Args:
        series: x [B, C, T]
        rng: two numbers per knot are drawn
        strength: standard deviation of the speeds
    """
    x, observed = series.x, series.observed
    num_samples = x.shape[2]
    lengths = observed_lengths(series.observed_mask)[:, None]
    knot_speeds = (1 + strength * rng.normal(6)).clamp(min=0.1)
    time = torch.arange(num_samples, device=x.device).expand(len(x), -1)
    knot_position = (time / (lengths - 1).clamp(min=1) * 5).clamp(max=5)
    knot = knot_position.long().clamp(max=4)
    speed = torch.lerp(knot_speeds.gather(1, knot), knot_speeds.gather(1, knot + 1), knot_position - knot)
    distance = speed.cumsum(1) - speed[:, :1]
    total = distance.gather(1, (lengths - 1).clamp(min=0))
    position = torch.where(time < lengths, distance / total.clamp(min=1e-6) * (lengths - 1), time)
    before = position.long().clamp(max=num_samples - 1)
    after = (before + 1).clamp(max=num_samples - 1)
    fraction = (position - before)[:, None].to(x.dtype)
    left = _gather_samples(series, before)
    right = _gather_samples(series, torch.where(position > before, after, before))
    observed = None if observed is None else left.observed_mask & right.observed_mask
    return series.replace(x=torch.lerp(left.x, right.x, fraction), observed=observed)


def parse_augmentations(augment: Sequence[str]) -> Callable[[Series, Tensor, Tensor, SampleRNG], Series]:
    """Return the composition of the transforms in `augment`.

    Args:
        augment: transforms as NAME or NAME=STRENGTH, in the order in which they are applied

    Returns:
        a function of a raw series, its channels' mean and standard deviation (both [C, 1]) and a generator

    Raises:
        UnknownNameError: no augmentation has this name
        OptionError: a strength is not a number in its range
    """
    transforms: list[Augmentation] = []
    for text in augment:
        name, equals, number = text.partition("=")
        entry = get_registry().find("augmentation", name)
        option = read_signature(entry.target).options["strength"]
        strength = option.parse(number, f"--augment {name}") if equals else option.default
        transforms.append(partial(get_registry().load(entry), strength=strength))

    def apply_transforms(series: Series, mean: Tensor, std: Tensor, rng: SampleRNG) -> Series:
        series = series.replace(x=(series.x - mean) / std)
        for transform in transforms:
            series = transform(series, rng)
        x = series.x * std + mean
        return series.replace(x=x if series.observed is None else x.masked_fill(~series.observed, 0))

    return apply_transforms


def _gather_samples(series: Series, index: Tensor) -> Series:
    """Gather the samples at `index` [B, T] in all channels."""
    index = index[:, None].expand(-1, series.x.shape[1], -1)
    observed = None if series.observed is None else series.observed.gather(2, index)
    return series.replace(x=series.x.gather(2, index), observed=observed)
