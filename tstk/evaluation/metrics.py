"""Forecast metrics accumulated over batches: MSE, MAE, MASE, sMAPE, and CRPS of sample paths."""

from __future__ import annotations

import torch
from torch import Tensor


class ForecastMetrics:
    """Forecast metrics of standardized values, over the known targets.

    Args:
        mean: [C, 1] channel means, to convert standardized values back to the units of the data
        std: [C, 1] channel standard deviations, likewise
    """

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        self.mean, self.std = mean.cpu(), std.cpu()
        channels = len(mean)
        self.sums: dict[str, Tensor] = {}
        self.count = torch.zeros(channels, dtype=torch.float64)
        self.step_sums, self.step_counts = torch.zeros(channels, dtype=torch.float64), torch.zeros(channels)

    def update(
        self, predictions: Tensor, targets: Tensor, context: Tensor, forecast_samples: Tensor | None = None
    ) -> None:
        """Add a batch of standardized values.

        Args:
            predictions: [B, C, H] point forecasts
            targets: [B, C, H], NaN where unknown
            context: [B, C, T], NaN where unobserved
            forecast_samples: [S, B, C, H] sample paths; adds `crps`
        """
        predictions, targets, context = predictions.cpu(), targets.cpu(), context.cpu()
        known = targets.isfinite()
        error = (predictions - targets).double()
        magnitudes = [(t * self.std + self.mean).abs() for t in (predictions, targets)]
        percentage_error = 200 * (error.abs() * self.std) / sum(magnitudes).clamp(min=1e-30)  # type: ignore[union-attr]
        errors = {"mse": error.square(), "mae": error.abs(), "smape": percentage_error}
        if forecast_samples is not None:
            errors["crps"] = crps(forecast_samples.cpu(), targets)
        for name, values in errors.items():
            self.sums[name] = self.sums.get(name, 0) + values.where(known, 0).sum((0, 2))
        self.count += known.sum((0, 2))
        differences = context.diff().abs()
        self.step_sums += differences.nansum((0, 2))
        self.step_counts += differences.isfinite().sum((0, 2))

    def compute(self) -> dict[str, float]:
        """Return the metrics, means over all known targets; {} if there are none.

        `mse`, `mae` and `crps` are in standardized units. `mase` divides each channel's MAE by the mean absolute
        difference of consecutive context samples (Hyndman and Koehler 2006, lag 1). `smape` is in percent, computed in
        the units of the data.
        """
        if not self.count.sum():
            return {}
        metrics = {name: float(total.sum() / self.count.sum()) for name, total in self.sums.items()}
        is_defined = (self.step_sums > 0) & (self.count > 0)
        if is_defined.any():
            mean_step = self.step_sums / self.step_counts.clamp(min=1)
            metrics["mase"] = float((self.sums["mae"] / self.count / mean_step)[is_defined].mean())
        return {name: metrics[name] for name in ("mse", "mae", "mase", "smape", "crps") if name in metrics}


def crps(forecast_samples: Tensor, targets: Tensor) -> Tensor:
    """Compute the continuous ranked probability score of samples: E|X - y| - E|X - X'| / 2, over all pairs.

    Args:
        forecast_samples: [S, ...] samples of the forecast distribution
        targets: [...]

    Returns:
        [...] float64, in the units of the targets
    """
    samples = forecast_samples.double().sort(0).values
    count = len(samples)
    rank = torch.arange(count, dtype=samples.dtype).view(-1, *[1] * targets.ndim)
    half_spread = (samples * (2 * rank - count + 1)).sum(0) / count**2
    return (samples - targets).abs().mean(0) - half_spread
