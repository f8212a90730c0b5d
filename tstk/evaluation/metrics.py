"""Metrics of forecasts (accumulated over batches), of numbers and of several labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tstk.evaluation.classification import Ranking

DOMINANT_MASE_RATIO = 3.0
"""MASE of a channel, over the median of all, from which the channel decides their mean."""

SMALL_STEP = 0.05
"""Mean difference of consecutive samples, in standard deviations, below which a channel hardly changes."""


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
        mase = self.compute_mase()
        if (is_defined := ~mase.isnan()).any():
            metrics["mase"] = float(mase[is_defined].mean())
        return {name: metrics[name] for name in ("mse", "mae", "mase", "smape", "crps") if name in metrics}

    def compute_mase(self) -> Tensor:
        """Return the MASE of each channel [C], NaN where all contexts are constant or no target is known."""
        is_defined = (self.step_sums > 0) & (self.count > 0)
        return (self.sums["mae"] / self.count / self.mean_step).where(is_defined, torch.nan)

    @property
    def mean_step(self) -> Tensor:
        """Mean absolute difference of consecutive context samples of each channel [C], standardized."""
        return self.step_sums / self.step_counts.clamp(min=1)

    def describe_mase(self, channels: Sequence[str]) -> str:
        """Return which channels decide the mean MASE, as they hardly change, and which it leaves out; "" if none.

        Args:
            channels: C names
        """
        mase, sentences = self.compute_mase(), []
        is_large = (mase > DOMINANT_MASE_RATIO * mase.nanmedian()) & (self.mean_step < SMALL_STEP)
        if is_large.any():
            listed = ", ".join(
                f"{channels[c]} (MASE {mase[c]:.3g}, mean step {self.mean_step[c]:.2g} standard deviations)"
                for c in is_large.nonzero().flatten().tolist()
            )
            sentences.append(
                f"MASE is a mean over channels, which is decided by {listed}; the median is {mase.nanmedian():.3g}. It "
                "divides by the mean step from one sample to the next, which is small where a channel hardly changes."
            )
        if constant := [channels[c] for c in ((self.count > 0) & mase.isnan()).nonzero().flatten().tolist()]:
            sentences.append(f"MASE leaves out {', '.join(constant)}, constant in every context.")
        return " ".join(sentences)


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


def regression_metrics(outputs: Tensor, targets: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Compute MAE, RMSE and R2 over the known targets; {} if none is known.

    With several targets, each metric is the mean over targets, followed by one per target, such as `rmse load`. As in
    scikit-learn, R2 of a target that is constant is 1 for perfect predictions and 0 for others.

    Args:
        outputs: [N, K] predictions in the units of the data
        targets: [N, K] float64, NaN where unknown
        names: K names of the targets; numbers if empty
    """
    known = targets.isfinite()
    per_target: dict[str, dict[str, float]] = {}
    for k, name in enumerate(names or map(str, range(targets.shape[1]))):
        known_targets = targets[known[:, k], k].double()
        if not len(known_targets):
            continue
        error = outputs[known[:, k], k].double() - known_targets
        residual, total = float(error.square().sum()), float((known_targets - known_targets.mean()).square().sum())
        per_target[name] = {
            "mae": float(error.abs().mean()),
            "rmse": (residual / len(known_targets)) ** 0.5,
            "r2": 1 - residual / total if total else float(residual == 0),
        }
    return _average_metrics(per_target, ("mae", "rmse", "r2"), targets.shape[1] > 1)


def _average_metrics(
    per_output: dict[str, dict[str, float]], metrics: Sequence[str], has_several: bool
) -> dict[str, float]:
    """Return the mean of each metric over the outputs that have it; with several, also those of each output."""
    averages = {}
    for metric in metrics:
        if values := [scores[metric] for scores in per_output.values() if metric in scores]:
            averages[metric] = sum(values) / len(values)
    if not has_several:
        return averages
    return averages | {f"{m} {name}": value for name, scores in per_output.items() for m, value in scores.items()}


def multilabel_metrics(logits: Tensor, targets: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Compute metrics of several labels over those that are known; {} if none is.

    F1 and the share of exact sets (`subset_accuracy`, over series whose labels are all known) count a label as
    predicted if its logit is at least 0. Macro averages are means over labels: of F1 over those that occur in targets
    or predictions, of AUROC and AUPRC (average precision) over those that some series have and others lack.

    Args:
        logits: [N, K]
        targets: [N, K] 1 or 0, -1 where unknown
        names: K names of the labels; numbers if empty
    """
    known, predicted = targets >= 0, logits >= 0
    if not known.any():
        return {}
    per_label: dict[str, dict[str, float]] = {}
    for k, name in enumerate(names or map(str, range(targets.shape[1]))):
        is_positive, scores = targets[known[:, k], k] == 1, logits[known[:, k], k]
        label_scores: dict[str, float] = {}
        if (size := int(is_positive.sum() + (scores >= 0).sum())) > 0:
            label_scores["f1"] = 2 * int((is_positive & (scores >= 0)).sum()) / size
        if is_positive.any() and not is_positive.all():
            ranking = Ranking(scores.double().numpy(), is_positive.numpy())
            areas = ranking.compute_areas(np.ones((1, len(scores))))
            label_scores |= {"auroc": float(areas[0][0]), "auprc": float(areas[1][0])}
        per_label[name] = label_scores
    has_label = (targets == 1) & known
    size = int(has_label.sum() + (predicted & known).sum())
    metrics = {"f1_micro": 2 * int((has_label & predicted).sum()) / size if size else 0.0}
    averages = _average_metrics(per_label, ("f1", "auroc", "auprc"), True)
    metrics["f1_macro"] = averages.pop("f1", 0.0)
    metrics |= {name: averages.pop(name) for name in ("auroc", "auprc") if name in averages}
    if (complete := known.all(1)).any():
        metrics["subset_accuracy"] = float((predicted == has_label)[complete].all(1).double().mean())
    return metrics | averages
