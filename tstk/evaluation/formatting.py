"""How scores are shown: which come first, and with how many digits."""

from __future__ import annotations

from collections.abc import Mapping

MEASURES = ("accuracy", "f1_macro", "mse", "mae", "probe")
"""Scores of a task, shown before the terms of the loss."""
FURTHER = ("mase", "smape", "crps")
"""Scores of a task that are shown where there is room."""


def beaten_by(scores: Mapping[str, float], baselines: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return a sentence for each baseline with a better accuracy, or a lower mean square error, than these scores.

    Scores that look equal are: a run that is left with its linear map differs from the baseline by rounding alone.
    """
    sentences = []
    for name, others in baselines.items():
        for score, sign in (("accuracy", 1), ("mse", -1)):
            if score not in scores or score not in others:
                continue
            mine, other = number(scores[score]), number(others[score])
            if sign * others[score] > sign * scores[score] and mine != other:
                sentences.append(f"This model loses to the baseline {name}: {score} {mine} against {other}.")
    return sentences


def number(value: float) -> str:
    """A score, short."""
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.3g}"
