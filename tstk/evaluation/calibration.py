"""Calibration of class probabilities by a temperature, and the choice of a threshold; pure functions of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tstk.errors import DataError, OptionError
from tstk.evaluation.classification import (
    Ranking,
    compute_intervals,
    divide,
    draw_resamples,
    number_groups,
    plan_resampling,
)

Array = NDArray[Any]
Rate = Literal["sensitivity", "specificity"]

MAX_LOG_TEMPERATURE = np.log(1000.0)


def fit_temperature(logits: Array, targets: Array) -> float:
    """Return the temperature T that minimizes the log loss of softmax(logits / T), as in Guo et al. (2017).

    The log loss is convex in 1 / T, so its derivative, the mean of E_p[z] - z_y, is bisected.

    Args:
        logits: [N, K]
        targets: [N] class index; rows with -1 (unknown) are ignored

    Raises:
        DataError: no label is known, or no temperature in 0.001 to 1000 is best
    """
    known = targets >= 0
    z, y = logits[known].astype(np.float64), targets[known]
    if not len(z):
        raise DataError("no label of the validation split is known")
    z = z - z.max(1, keepdims=True)
    true_logits = np.take_along_axis(z, y[:, None], 1)[:, 0]

    def differentiate(log_temperature: float) -> float:
        p = np.exp(z * np.exp(-log_temperature))
        return float(((p * z).sum(1) / p.sum(1) - true_logits).mean())

    low, high = -MAX_LOG_TEMPERATURE, MAX_LOG_TEMPERATURE
    if differentiate(low) <= 0:
        raise DataError("all validation series are classified correctly, so no temperature is best")
    if differentiate(high) >= 0:
        raise DataError("the logits of the validation series are no better than chance, so no temperature is best")
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if differentiate(middle) > 0 else (low, middle)
    return float(np.exp((low + high) / 2))


def softmax(logits: Array, temperature: float = 1.0) -> Array:
    """Return the probabilities [N, K] of logits [N, K]."""
    z = logits.astype(np.float64) / temperature
    p = np.exp(z - z.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


@dataclass(frozen=True, kw_only=True)
class ThresholdScores:
    """Decisions of two classes by a threshold of the probability of the second.

    Args:
        positive_class: name of the second class, which is predicted if its probability is `threshold` or more
        threshold: chosen on the validation split
        requested: what it was chosen for, in words
        validation: sensitivity, specificity, precision and npv on the validation split
        scores: the same on the split that is scored
        intervals: score -> lower and upper end of the 95 % bootstrap interval of `scores`
        resampling: what the intervals are over, or why there are none, in words
    """

    positive_class: str
    threshold: float
    requested: str
    validation: dict[str, float]
    scores: dict[str, float]
    intervals: dict[str, list[float]] = field(default_factory=dict)
    resampling: str = ""


def parse_rate(text: str) -> tuple[Rate, float]:
    """Parse `sensitivity=0.95` or `specificity=0.9`.

    Raises:
        OptionError: it is neither
    """
    name, _, number = text.partition("=")
    try:
        value = float(number)
    except ValueError:
        value = np.nan
    if name not in get_args(Rate) or not 0 < value <= 1:
        raise OptionError(
            f"--threshold-for {text}: expected sensitivity=VALUE or specificity=VALUE, above 0 and at most 1"
        )
    return name, value  # type: ignore[return-value]


def choose_threshold(targets: Array, probabilities: Array, rate: Rate, minimum: float) -> float:
    """Return the threshold that reaches a sensitivity or specificity and, among those, has the best other rate.

    Args:
        targets: [N] index of the class, 0 or 1; rows with -1 (unknown) are ignored
        probabilities: [N] of class 1, which is predicted if this is the threshold or more
        rate: which rate to reach
        minimum: its smallest value

    Raises:
        DataError: a class has no series, or no threshold reaches the specificity
    """
    known = targets >= 0
    is_positive = targets[known] == 1
    if is_positive.all() or not is_positive.any():
        raise DataError("a threshold is chosen on validation series of both classes, but they are all of one")
    ranking = Ranking(probabilities[known], is_positive)
    true_positive, false_positive = (n[0] for n in ranking.count_above(np.ones((1, len(is_positive)))))
    if rate == "sensitivity":
        return float(ranking.thresholds[np.argmax(true_positive / is_positive.sum() >= minimum)])
    reached = 1 - false_positive / (~is_positive).sum() >= minimum
    if not reached.any():
        raise DataError(
            f"no threshold has a specificity of {minimum:g} on validation: the series with the highest probability is "
            "negative; ask for less, or for a sensitivity"
        )
    return float(ranking.thresholds[np.flatnonzero(reached)[-1]])


def score_threshold(
    targets: Array, probabilities: Array, threshold: float, groups: Sequence[str] | None = None, *, seed: int = 0
) -> tuple[dict[str, float], dict[str, list[float]], str]:
    """Score the decisions of a threshold: sensitivity, specificity, precision and npv (negative predictive value).

    Args:
        targets: [N] index of the class, 0 or 1; rows with -1 (unknown) are ignored
        probabilities: [N] of class 1
        threshold: class 1 is predicted from it on
        groups: N names of dependent rows, which are resampled together
        seed: of the resampling

    Returns:
        the scores, those that are undefined left out; their 95 % bootstrap intervals; what these are over, in words
    """
    known = targets >= 0
    is_positive, is_predicted = targets[known] == 1, probabilities[known] >= threshold
    cells = np.stack(
        [
            is_positive & is_predicted,
            is_positive & ~is_predicted,
            ~is_positive & is_predicted,
            ~(is_positive | is_predicted),
        ],
        1,
    ).astype(np.float64)

    def compute(weights: Array) -> dict[str, Array]:
        tp, fn, fp, tn = (weights @ cells).T
        return {
            "sensitivity": divide(tp, tp + fn),
            "specificity": divide(tn, tn + fp),
            "precision": divide(tp, tp + fp),
            "npv": divide(tn, tn + fn),
        }

    group_ids = number_groups(groups, known)
    scores = compute(np.ones((1, len(cells))))
    num_resamples, resampling = plan_resampling(len(cells), 2, group_ids)
    parts = [compute(weights) for weights in draw_resamples(len(cells), group_ids, num_resamples, seed)]
    intervals = compute_intervals(scores, {name: [part[name] for part in parts] for name in scores})
    return {name: float(v[0]) for name, v in scores.items() if np.isfinite(v[0])}, intervals, resampling
