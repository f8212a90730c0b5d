"""Formatting of metrics: which are shown first, and with how many digits."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from tstk.plugins.registry import get_registry
from tstk.plugins.signature import read_signature

MAIN_METRICS = (
    *("accuracy", "f1_macro", "f1_micro", "auroc", "auprc", "subset_accuracy"),
    *("sample_accuracy", "edit", "f1_50"),
    *("r2", "rmse", "mse", "mae", "probe"),
)
"""Task metrics, shown before the losses."""
EXTRA_METRICS = ("mase", "smape", "crps", "balanced_accuracy", "kappa", "f1_10", "f1_25")
"""Task metrics that are shown if there is room."""
_ERRORS = (
    *("mse", "mae", "rmse", "mase", "smape", "crps", "loss", "log_loss", "brier", "ece"),
    *("cross_entropy", "binary_cross_entropy"),
)


def _list_task_attrs() -> list[dict[str, Any]]:
    """Return the class attributes of all tasks, read from source, those of the core first."""
    return [read_signature(entry.target).class_attrs for entry in get_registry().list_entries("task")]


def is_lower_better(metric: str) -> bool:
    """Return whether a metric is an error, of all targets or of one, such as `rmse load`."""
    name = metric.partition(" ")[0]
    for attrs in _list_task_attrs():
        if attrs["main_metric"] == name:
            return not attrs.get("higher_is_better", True)
    return name in _ERRORS or name.endswith("_se")


def find_main_metric(scores: Collection[str]) -> str | None:
    """Return the metric by which a run is compared with others: the main metric of the first task that has it."""
    return next((attrs["main_metric"] for attrs in _list_task_attrs() if attrs["main_metric"] in scores), None)


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
    """Return one sentence per baseline whose main metric is better than that of the model.

    Values are compared as printed: a model whose best epoch is its initial linear map differs from the linear baseline
    by rounding alone.
    """
    sentences = []
    metric = find_main_metric(scores)
    sign = -1 if metric is not None and is_lower_better(metric) else 1
    for name, baseline_scores in baselines.items():
        if metric is None or metric not in baseline_scores:
            continue
        own_value, baseline_value = format_number(scores[metric]), format_number(baseline_scores[metric])
        if sign * baseline_scores[metric] > sign * scores[metric] and own_value != baseline_value:
            sentences.append(f"This model loses to the baseline {name}: {metric} {own_value} against {baseline_value}.")
    return sentences


def format_number(value: float) -> str:
    """Format a metric with four decimals, or three significant digits if it is very small or large."""
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.3g}"
