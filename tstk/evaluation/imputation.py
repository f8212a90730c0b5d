"""Scores of imputation: observed samples are hidden, imputed and compared with what they were."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RATIOS = (0.1, 0.25, 0.5)
"""Shares of the observed samples that are hidden."""
PATTERNS = ("random", "block")
"""`random`: samples of each channel; `block`: stretches of time in all channels, such as outages of a device."""


def hide_samples(
    observed: NDArray[np.bool_], ratio: float, pattern: str, block: int, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Choose observed samples to hide, [N, C, T] bool.

    Args:
        observed: [N, C, T] bool
        ratio: share of the samples, or of the blocks, to hide
        pattern: one of `PATTERNS`
        block: samples per block
        rng: draws one number per sample, or per block
    """
    num_series, _, length = observed.shape
    if pattern == "random":
        return observed & (rng.random(observed.shape) < ratio)
    num_blocks = -(-length // block)
    order = rng.random((num_series, num_blocks)).argsort(1).argsort(1)
    hidden = (order < round(ratio * num_blocks)).repeat(block, 1)[:, :length]
    return observed & np.broadcast_to(hidden[:, None], observed.shape)


def fill_with_mean(x: Array) -> Array:
    """Fill the gaps of each channel with its mean.

    Args:
        x: [..., T], NaN where missing; a channel without any sample stays missing
    """
    count = (~np.isnan(x)).sum(-1, keepdims=True)
    mean = np.where(count > 0, np.nansum(x, -1, keepdims=True) / np.maximum(count, 1), np.nan)
    return np.where(np.isnan(x), mean, x)


def fill_with_last_value(x: Array) -> Array:
    """Carry the last observed sample forward, and the first one back to the start. `x` as in `fill_with_mean`."""
    time, observed = np.arange(x.shape[-1]), ~np.isnan(x)
    last = np.maximum.accumulate(np.where(observed, time, -1), -1)
    first = np.where(observed.any(-1), observed.argmax(-1), 0)[..., None]
    return np.take_along_axis(x, np.where(last < 0, first, last), -1)


def fill_by_interpolation(x: Array) -> Array:
    """Interpolate linearly, and repeat the nearest sample at the ends. `x` as in `fill_with_mean`."""
    filled, time = x.copy(), np.arange(x.shape[-1])
    for channel in filled.reshape(-1, x.shape[-1]):
        observed = ~np.isnan(channel)
        if observed.any():
            channel[~observed] = np.interp(time[~observed], time[observed], channel[observed])
    return filled


BASELINES: dict[str, Callable[[Array], Array]] = {
    "mean": fill_with_mean,
    "last value": fill_with_last_value,
    "linear interpolation": fill_by_interpolation,
}


def score_imputation(
    x: Array, impute: Callable[[Array], Array], *, block: int, seed: int = 0
) -> list[dict[str, float | str | int]]:
    """Hide observed samples in several ways, and score a method and the baselines on the same samples.

    Args:
        x: [N, C, T] standardized, NaN where missing
        impute: the method; maps x with more NaN to filled series, NaN where it cannot fill
        block: samples per block
        seed: of the samples to hide

    Returns:
        a row per pattern, ratio and method with "pattern", "ratio", "method", "mae", "rmse" and the number of samples
        "count", those that the method filled; "unfilled" is the number of those that it could not fill
    """
    rows: list[dict[str, float | str | int]] = []
    for pattern in PATTERNS:
        for ratio in RATIOS:
            hidden = hide_samples(~np.isnan(x), ratio, pattern, block, np.random.default_rng(seed))
            given = np.where(hidden, np.nan, x)
            outputs = {"model": impute(given)} | {name: fill(given) for name, fill in BASELINES.items()}
            scored = hidden & np.isfinite(np.stack(list(outputs.values()))).all(0)
            for name, output in outputs.items():
                error = np.abs(output[scored] - x[scored])
                row = {"mae": float(error.mean()), "rmse": float(np.sqrt((error**2).mean()))} if error.size else {}
                counts = {"count": int(scored.sum()), "unfilled": int((hidden & ~scored).sum())}
                rows.append({"pattern": pattern, "ratio": ratio, "method": name, **row, **counts})
    return rows
