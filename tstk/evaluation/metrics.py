"""How far forecasts are from what came, summed up over batches: MSE, MAE, MASE, sMAPE, and CRPS of drawn futures."""

from __future__ import annotations

import torch
from torch import Tensor


class Measures:
    """Sums over the known samples of futures, in deviations of the training data unless said otherwise.

    Args:
        mean: [C, 1] what turns scaled values into those of the data
        std: [C, 1] likewise
    """

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        self.mean, self.std = mean.cpu(), std.cpu()
        channels = len(mean)
        self.sums: dict[str, Tensor] = {}
        self.count = torch.zeros(channels, dtype=torch.float64)
        self.steps, self.stepped = torch.zeros(channels, dtype=torch.float64), torch.zeros(channels)

    def add(self, guess: Tensor, truth: Tensor, past: Tensor, futures: Tensor | None = None) -> None:
        """A batch.

        Args:
            guess: [B, C, H]
            truth: [B, C, H], NaN where it is not known
            past: [B, C, T], NaN where it was not observed
            futures: [S, B, C, H] draws, whose mean is the guess
        """
        guess, truth, past = guess.cpu(), truth.cpu(), past.cpu()
        known = truth.isfinite()
        error = (guess - truth).double()
        raw = [(t * self.std + self.mean).abs() for t in (guess, truth)]
        relative = 200 * (error.abs() * self.std) / sum(raw).clamp(min=1e-30)  # type: ignore[union-attr]
        each = {"mse": error.square(), "mae": error.abs(), "smape": relative}
        if futures is not None:
            each["crps"] = crps(futures.cpu(), truth)
        for name, values in each.items():
            self.sums[name] = self.sums.get(name, 0) + values.where(known, 0).sum((0, 2))
        self.count += known.sum((0, 2))
        steps = past.diff().abs()
        self.steps += steps.nansum((0, 2))
        self.stepped += steps.isfinite().sum((0, 2))

    def scores(self) -> dict[str, float]:
        """Means over all samples; nothing, if none is known.

        `mase` is the absolute error in units of the mean absolute step from one sample of the context to the next, of
        each channel (Hyndman and Koehler 2006, with lag 1); `smape` is in percent, in the units of the data.
        """
        if not self.count.sum():
            return {}
        found = {name: float(total.sum() / self.count.sum()) for name, total in self.sums.items()}
        moves = (self.steps > 0) & (self.count > 0)
        if moves.any():
            step = self.steps / self.stepped.clamp(min=1)
            found["mase"] = float((self.sums["mae"] / self.count / step)[moves].mean())
        return {name: found[name] for name in ("mse", "mae", "mase", "smape", "crps") if name in found}


def crps(futures: Tensor, truth: Tensor) -> Tensor:
    """Continuous ranked probability score of draws: E|X - y| - E|X - X'| / 2 over all pairs, in their units.

    Args:
        futures: [S, ...] draws
        truth: [...]
    """
    draws = futures.double().sort(0).values
    count = len(draws)
    rank = torch.arange(count, dtype=draws.dtype).view(-1, *[1] * truth.ndim)
    spread = (draws * (2 * rank - count + 1)).sum(0) / count**2
    return (draws - truth).abs().mean(0) - spread
