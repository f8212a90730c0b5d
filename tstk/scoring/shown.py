"""How scores are shown: which come first, and with how many digits."""

from __future__ import annotations

MEASURES = ("accuracy", "f1_macro", "mse", "mae", "probe")
"""Scores of a task, shown before the terms of the loss."""
FURTHER = ("mase", "smape", "crps")
"""Scores of a task that are shown where there is room."""


def number(value: float) -> str:
    """A score, short."""
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.3g}"
