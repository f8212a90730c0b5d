"""Standardization of features by the statistics of the training rows, for linear models on summary features."""

from __future__ import annotations

from torch import Tensor

MIN_RELATIVE_STD = 1e-7
"""Standard deviation, relative to the mean, up to which a feature is constant but for rounding; it is not scaled."""


class Standardizer:
    """Subtracts the mean of the training rows and divides by their deviation; unknown values become the mean.

    Args:
        features: [N, F] training rows, NaN where unknown
    """

    def __init__(self, features: Tensor) -> None:
        count = (~features.isnan()).sum(0).clamp(min=1)
        self.mean = features.nansum(0) / count
        self.std = ((features - self.mean).square().nansum(0) / count).sqrt()
        self.std[self.std <= MIN_RELATIVE_STD * self.mean.abs()] = 1.0

    def transform(self, features: Tensor) -> Tensor:
        """Return features [N, F] in units of the deviation, 0 where unknown."""
        return ((features - self.mean) / self.std).nan_to_num(0.0)
