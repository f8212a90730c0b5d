"""Formatting of metrics: which are shown first, and with how many digits."""

from __future__ import annotations

from collections.abc import Mapping

MAIN_METRICS = ("accuracy", "f1_macro", "mse", "mae", "probe")
"""Task metrics, shown before the losses."""
EXTRA_METRICS = ("mase", "smape", "crps")
"""Task metrics that are shown if there is room."""

PROBABILITY_SCORE_LABELS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "f1_macro": "macro F1",
    "kappa": "Cohen's kappa",
    "mcc": "Matthews correlation",
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "log_loss": "log loss",
    "brier": "Brier score",
    "ece": "expected calibration error",
}
"""Scores of classes and probabilities together."""
CLASS_SCORE_LABELS = {
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "precision": "precision",
    "f1": "F1",
    "auroc": "AUROC",
    "auprc": "AUPRC",
}
"""Scores of one class against all others."""


def describe_better_baselines(scores: Mapping[str, float], baselines: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return one sentence per baseline whose accuracy is higher, or whose MSE is lower, than that of the model.

    Values are compared as printed: a model whose best epoch is its initial linear map differs from the linear baseline
    by rounding alone.
    """
    sentences = []
    for name, baseline_scores in baselines.items():
        for metric, sign in (("accuracy", 1), ("mse", -1)):
            if metric not in scores or metric not in baseline_scores:
                continue
            own_value, baseline_value = format_number(scores[metric]), format_number(baseline_scores[metric])
            if sign * baseline_scores[metric] > sign * scores[metric] and own_value != baseline_value:
                sentences.append(
                    f"This model loses to the baseline {name}: {metric} {own_value} against {baseline_value}."
                )
    return sentences


def format_number(value: float) -> str:
    """Format a metric with four decimals, or three significant digits if it is very small or large."""
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.3g}"
