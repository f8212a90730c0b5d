"""Linear map from context to horizon: the baseline that a forecaster should beat.

    fit = fit_linear_map(train, val, std)
    fit.forecaster(series)      # [B, C, H]

Ridge regression over every training window, solved in closed form (Zeng et al. 2023, arXiv:2205.13504, "NLinear", train
such a map by gradient descent; Toner and Darlow 2024, arXiv:2403.14587, solve it). A level of the context is subtracted
from inputs and targets. Validation error selects the level (last value or mean of the context), the ridge penalty, and
one shared map or one map per channel.

The windows of a table overlap, so the Gram matrix of all windows follows from its first row and the two ends of the
table, and one eigendecomposition gives the validation error of every ridge penalty.

Symbols: C channels, T context samples, H horizon samples, L = T + H, R ridge penalties.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from tstk.core.linear_map import LinearMap
from tstk.core.repr import ShortRepr
from tstk.core.types import Spec
from tstk.data.datasets import WindowDataset

MAX_SHARED_COST = 10**8
"""Channels x (context + horizon)^2, above which the linear map is skipped."""
MAX_PER_CHANNEL_COST = 4 * 10**9
"""Channels x context^2 x (context + horizon), above which maps per channel are not tried."""
RIDGES = 10.0 ** (torch.arange(-48, 33, dtype=torch.float64) / 4)
"""Ridge penalties relative to the mean eigenvalue of the input Gram matrix, four per decade: from the smallest that
float64 resolves to values at which the map vanishes and the forecast is the level."""
LEVELS = ("last value", "mean")
"""Levels of the context that may be subtracted."""


def why_linear_map_too_large(spec: Spec, maps: str = "auto") -> str:
    """Return the reason why fitting would take too long; empty if it would not.

    Args:
        spec: spec of the data: channels, length of the context and horizon
        maps: see `fit_linear_map`
    """
    length = spec.length + (spec.horizon or 0)
    shared_cost, per_channel_cost = spec.channels * length**2, spec.channels * spec.length**2 * length
    if shared_cost > MAX_SHARED_COST:
        return f"channels x (context + horizon)^2 is {shared_cost:.1e}, more than {MAX_SHARED_COST:.0e}"
    if maps == "per-channel" and per_channel_cost > MAX_PER_CHANNEL_COST:
        cost, limit = f"{per_channel_cost:.1e}", f"{MAX_PER_CHANNEL_COST:.0e}"
        return f"channels x context^2 x (context + horizon) is {cost}, more than {limit}"
    return ""


@dataclass(frozen=True, repr=False)
class LinearMapFit(ShortRepr):
    """A fitted linear map.

    Args:
        forecaster: the map
        description: the hyperparameters selected on validation, in words
        val_mse: mean squared error on the validation split, in units of the `std` it was fitted with
    """

    forecaster: LinearMap
    description: str
    val_mse: float


def fit_linear_map(
    train: WindowDataset, val: WindowDataset, std: Tensor, maps: Literal["auto", "shared", "per-channel"] = "auto"
) -> LinearMapFit:
    """Fit shared and per-channel maps at both levels and return the one with the least validation error.

    All windows of the training table are used, whatever the stride of `train`. Missing samples are interpolated.

    Args:
        train: windows to fit on
        val: windows that select the hyperparameters, with the same context and horizon
        std: [C, 1] each channel is divided by
        maps: shared (one for all channels), per-channel, or auto (the better of both on validation)
    """
    context, length = train.context, train.context + train.horizon
    channels = len(train.table)
    weights = {level: _level_weights(level, context) for level in LEVELS}
    sums = {level: torch.zeros(2, length, length, dtype=torch.float64) for level in LEVELS}
    channel_fits: dict[str, list[RidgeFit]] = {level: [] for level in LEVELS}
    for channel in range(channels):
        train_tables, val_tables = (
            [(_interpolate_missing(table[channel]) / std[channel]).double() for table in split.list_tables()]
            for split in (train, val)
        )
        mean = torch.cat(train_tables).mean()
        grams = [
            torch.stack([compute_window_gram(table - mean, length) for table in tables if len(table) >= length]).sum(0)
            for tables in (train_tables, val_tables)
        ]
        for level in LEVELS:
            pair = torch.stack([subtract_level(gram, weights[level]) for gram in grams])
            sums[level] += pair
            if maps != "shared" and channels > 1 and channels * context**2 * length <= MAX_PER_CHANNEL_COST:
                channel_fits[level].append(fit_ridge(pair, context))
    num_windows = sum(max(table.shape[1] - length + 1, 0) for table in val.list_tables())
    num_targets = num_windows * train.horizon * channels
    candidates = []
    for level in LEVELS:
        shared = [] if maps == "per-channel" and channels > 1 else [fit_ridge(sums[level], context)]
        for ridge_fits in (shared, channel_fits[level]):
            if ridge_fits:
                matrix = torch.stack([fit.matrix for fit in ridge_fits]).float()
                error = sum(fit.error for fit in ridge_fits) / num_targets
                forecaster = LinearMap(matrix, weights[level].float())
                candidates.append(
                    LinearMapFit(forecaster, _describe_choice(level, [fit.ridge for fit in ridge_fits]), error)
                )
    return min(candidates, key=lambda fit: fit.val_mse)


def compute_window_gram(table: Tensor, length: int) -> Tensor:
    """Compute the sum of w w^T over all windows w of a channel.

    Entry (i + 1, j + 1) is entry (i, j) plus the product that enters the sum, minus the one that leaves it.

    Args:
        table: [rows] float64, without missing samples
        length: window length L

    Returns:
        [L, L] Gram matrix
    """
    count = len(table) - length + 1
    size = 1 << len(table).bit_length()  # padded with zeros, so that lags do not wrap around
    spectrum = torch.fft.rfft(table[:count], size).conj() * torch.fft.rfft(table, size)
    gram = table.new_empty(length, length)
    gram[0] = torch.fft.irfft(spectrum, size)[:length]
    gram[:, 0] = gram[0]
    leaving, entering = table[: length - 1], table[count : count + length - 1]
    for i in range(length - 1):
        gram[i + 1, 1:] = gram[i, :-1] + entering[i] * entering - leaving[i] * leaving
    return gram


@dataclass(frozen=True)
class RidgeFit:
    """A map [T, H], its ridge penalty, and its squared validation error summed over windows and steps."""

    matrix: Tensor
    ridge: float
    error: float


def fit_ridge(grams: Tensor, context: int) -> RidgeFit:
    """Solve the ridge regression with the penalty that has the least validation error.

    Args:
        grams: [2, L, L] Gram matrices of training and of validation windows
        context: T
    """
    train, val = grams
    values, vectors = torch.linalg.eigh(train[:context, :context])
    rotated = vectors.T @ train[:context, context:]
    scale = values.mean().clamp(min=torch.finfo(values.dtype).tiny)
    inverse = 1 / (values.clamp(min=0) + RIDGES[:, None] * scale)  # [R, T]
    quadratic = (vectors.T @ val[:context, :context] @ vectors) * (rotated @ rotated.T)
    linear = (rotated * (vectors.T @ val[:context, context:])).sum(1)
    errors = ((inverse @ quadratic) * inverse).sum(1) - 2 * inverse @ linear + val.diagonal()[context:].sum()
    best = int(errors.argmin())
    return RidgeFit(vectors @ (rotated * inverse[best, :, None]), float(RIDGES[best]), float(errors[best]))


def _level_weights(level: str, context: int) -> Tensor:
    """Return the weights [T] of the context samples whose weighted sum is the level."""
    if level == "mean":
        return torch.full((context,), 1 / context, dtype=torch.float64)
    return torch.eye(context, dtype=torch.float64)[-1]


def subtract_level(gram: Tensor, weights: Tensor) -> Tensor:
    """Compute the Gram matrix of windows after subtracting their level, from that of the windows."""
    cross = weights @ gram[: len(weights)]
    return gram - cross - cross[:, None] + cross[: len(weights)] @ weights


def _interpolate_missing(row: Tensor) -> Tensor:
    """Interpolate the missing samples of a channel linearly; all zeros if every sample is missing."""
    known = ~row.isnan()
    if known.all() or not known.any():
        return row.nan_to_num(0.0)
    time = np.arange(len(row))
    return torch.from_numpy(np.interp(time, time[known.numpy()], row[known].double().numpy())).to(row.dtype)


def _describe_choice(level: str, ridges: list[float]) -> str:
    """Describe the selected hyperparameters in words."""
    low, high = f"{min(ridges):.2g}", f"{max(ridges):.2g}"
    maps = "one map for all channels" if len(ridges) == 1 else "a map for each channel"
    return f"{maps}, relative to the {level}, ridge {low}" + ("" if low == high else f" to {high}")
