"""A linear map from context to future: the forecaster that a model has to beat.

    fit = fit_linear_map(train, val, std)
    fit.forecaster(series)      # [B, C, H]

Ridge regression over every window of the training part, solved in closed form (Zeng et al. 2023, arXiv:2205.13504,
"NLinear", train such a map by gradient descent; Toner and Darlow 2024, arXiv:2403.14587, solve it). Inputs and targets
are taken relative to a level of the context. The validation part chooses the level (the last value or the mean of the
context), the ridge, and whether all channels share one map or each has its own.

The windows of a table overlap, so that the Gram matrix of all of them follows from its first row and from the ends of
the table, and one eigendecomposition gives the validation error for every ridge.

Symbols: C channels, T samples of context, H of the future, L = T + H, R ridges.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from tstk.core.types import Spec
from tstk.data.datasets import Windows
from tstk.nn.linear_map import LinearMap

MAX_SHARED = 10**8
"""Channels x (context + horizon)^2, above which the linear map is skipped."""
MAX_OWN = 4 * 10**9
"""Channels x context^2 x (context + horizon), above which channels do not get maps of their own."""
RIDGES = 10.0 ** (torch.arange(-48, 33, dtype=torch.float64) / 4)
"""Penalties of squared weights in units of the mean eigenvalue of the inputs' Gram matrix, a quarter of a decade apart:
from the least that double precision resolves to where the map vanishes and the level alone is left."""
LEVELS = ("last value", "mean")
"""What a context is taken relative to."""


def why_too_large(spec: Spec, maps: str = "auto") -> str:
    """Return the reason why the map would take too long; empty if it would not.

    Args:
        spec: of the data: channels, length of the context and horizon
        maps: see `fit_linear_map`
    """
    length = spec.length + (spec.horizon or 0)
    shared, own = spec.channels * length**2, spec.channels * spec.length**2 * length
    if shared > MAX_SHARED:
        return f"channels x (context + horizon)^2 is {shared:.1e}, more than {MAX_SHARED:.0e}"
    if maps == "per-channel" and own > MAX_OWN:
        return f"channels x context^2 x (context + horizon) is {own:.1e}, more than {MAX_OWN:.0e}"
    return ""


@dataclass(frozen=True)
class LinearFit:
    """A linear map and how it was chosen.

    Args:
        forecaster: the map
        choice: what the validation part chose, in words
        error: mean square error on the validation part, in the units of fitting
    """

    forecaster: LinearMap
    choice: str
    error: float


def fit_linear_map(
    train: Windows, val: Windows, std: Tensor, maps: Literal["auto", "shared", "per-channel"] = "auto"
) -> LinearFit:
    """Fit maps of both kinds at both levels and return the one with the least validation error.

    Every window of the training part's table counts, whatever its stride. Missing samples are interpolated.

    Args:
        train: windows to learn from
        val: windows to choose by, with the same context and horizon
        std: [C, 1] in whose units all channels weigh alike
        maps: shared, one for all channels; per-channel, one for each; auto, what is better on the validation part
    """
    context, length = train.context, train.context + train.horizon
    channels = len(train.table)
    weights = {level: _weights(level, context) for level in LEVELS}
    sums = {level: torch.zeros(2, length, length, dtype=torch.float64) for level in LEVELS}
    own: dict[str, list[_Fit]] = {level: [] for level in LEVELS}
    for c in range(channels):
        tables = [(_complete(part.table[c]) / std[c]).double() for part in (train, val)]
        grams = [window_gram(table - tables[0].mean(), length) for table in tables]
        for level in LEVELS:
            pair = torch.stack([_relative(gram, weights[level]) for gram in grams])
            sums[level] += pair
            if maps != "shared" and channels > 1 and channels * context**2 * length <= MAX_OWN:
                own[level].append(_fit(pair, context))
    counts = (val.table.shape[1] - length + 1) * train.horizon * channels
    found = []
    for level in LEVELS:
        shared = [] if maps == "per-channel" and channels > 1 else [_fit(sums[level], context)]
        for fits in (shared, own[level]):
            if fits:
                matrix = torch.stack([fit.matrix for fit in fits]).float()
                error = sum(fit.error for fit in fits) / counts
                forecaster = LinearMap(matrix, weights[level].float())
                found.append(LinearFit(forecaster, _words(level, [fit.ridge for fit in fits]), error))
    return min(found, key=lambda fit: fit.error)


def window_gram(table: Tensor, length: int) -> Tensor:
    """Sum of w w^T over all windows w of a row.

    Args:
        table: [rows] float64, without missing samples
        length: L of a window

    Returns:
        [L, L]; entry (i + 1, j + 1) is entry (i, j) plus the product that enters, less the one that leaves
    """
    count = len(table) - length + 1
    size = 1 << len(table).bit_length()  # padded with zeros, so that lags do not wrap around
    spectrum = torch.fft.rfft(table[:count], size).conj() * torch.fft.rfft(table, size)
    gram = table.new_empty(length, length)
    gram[0] = torch.fft.irfft(spectrum, size)[:length]
    gram[:, 0] = gram[0]
    leaves, enters = table[: length - 1], table[count : count + length - 1]
    for i in range(length - 1):
        gram[i + 1, 1:] = gram[i, :-1] + enters[i] * enters - leaves[i] * leaves
    return gram


@dataclass(frozen=True)
class _Fit:
    """A map [T, H], its ridge, and its squared validation error summed over windows and steps."""

    matrix: Tensor
    ridge: float
    error: float


def _fit(pair: Tensor, context: int) -> _Fit:
    """Solve the ridge regression with the ridge that has the least validation error.

    Args:
        pair: [2, L, L] Gram matrices of training and of validation windows
        context: T
    """
    train, val = pair
    values, vectors = torch.linalg.eigh(train[:context, :context])
    rotated = vectors.T @ train[:context, context:]
    scale = values.mean().clamp(min=torch.finfo(values.dtype).tiny)
    inverse = 1 / (values.clamp(min=0) + RIDGES[:, None] * scale)  # [R, T]
    quadratic = (vectors.T @ val[:context, :context] @ vectors) * (rotated @ rotated.T)
    linear = (rotated * (vectors.T @ val[:context, context:])).sum(1)
    errors = ((inverse @ quadratic) * inverse).sum(1) - 2 * inverse @ linear + val.diagonal()[context:].sum()
    best = int(errors.argmin())
    return _Fit(vectors @ (rotated * inverse[best, :, None]), float(RIDGES[best]), float(errors[best]))


def _weights(level: str, context: int) -> Tensor:
    """[T] of the samples whose weighted sum is the level."""
    if level == "mean":
        return torch.full((context,), 1 / context, dtype=torch.float64)
    return torch.eye(context, dtype=torch.float64)[-1]


def _relative(gram: Tensor, weights: Tensor) -> Tensor:
    """Gram matrix of windows less their level, from that of the windows."""
    cross = weights @ gram[: len(weights)]
    return gram - cross - cross[:, None] + cross[: len(weights)] @ weights


def _complete(row: Tensor) -> Tensor:
    """A row of a table, missing samples interpolated; 0 if all are."""
    known = ~row.isnan()
    if known.all() or not known.any():
        return row.nan_to_num(0.0)
    at = np.arange(len(row))
    return torch.from_numpy(np.interp(at, at[known.numpy()], row[known].double().numpy())).to(row.dtype)


def _words(level: str, ridges: list[float]) -> str:
    """Say what was chosen."""
    low, high = f"{min(ridges):.2g}", f"{max(ridges):.2g}"
    maps = "one map for all channels" if len(ridges) == 1 else "a map for each channel"
    return f"{maps}, relative to the {level}, ridge {low}" + ("" if low == high else f" to {high}")
