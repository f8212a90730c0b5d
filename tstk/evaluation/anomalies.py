"""Metrics and baselines of anomaly detection: per sample, per event, and aware of the ranges of events.

The range-aware metrics are the areas of Paparrizos et al. 2022 ("Volume Under the Surface", PVLDB 15(11)): labels are
extended by slopes on both sides of an event, so that a score near an event counts in part, and recall is weighted by
the share of events that are found at all; the volume (VUS) is the mean over widths of the slopes. Unlike the published
code, the larger of two slopes counts where they overlap, not their sum, and widths are at most `NUM_BUFFERS`.
Affiliation metrics are in `affiliation`. Point-adjusted scores, for which one sample of an event counts as all of it,
are not computed: random scores do well by them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tstk.evaluation.affiliation import affiliation_metrics
from tstk.evaluation.imputation import fill_by_interpolation

Array = NDArray[np.float64]
Labels = NDArray[np.bool_]

NUM_THRESHOLDS = 250
"""Thresholds of a range-aware curve, evenly spaced among the sorted scores, as in the published code."""
NUM_BUFFERS = 17
"""Widths of slopes that a volume is averaged over, evenly spaced from 0 to the largest."""
MAX_PROFILE_PAIRS = 5e10
"""Series x channels x squared samples above which there is no matrix profile; a core takes some minutes for as many."""


def score_detection(
    scores: Array, labels: Labels, scored: Labels | None = None, threshold: float | None = None
) -> dict[str, float]:
    """Compare scores with labels per sample.

    Args:
        scores: [N, T] higher where more anomalous; NaN counts as the lowest score
        labels: [N, T] bool, True at anomalous samples
        scored: [N, T] bool, the samples that count; all if None
        threshold: of the scores

    Returns:
        `auroc`, `auprc`, `vus_roc` and `vus_pr`; with a threshold also `precision`, `recall` and `f1`, per sample,
        and those of `affiliation_metrics`. Series follow each other, with room for the slopes of events between them.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    scored = np.ones(labels.shape, dtype=bool) if scored is None else scored
    lowest = np.nanmin(scores)
    filled = np.where(np.isfinite(scores), scores, lowest)
    y, s = labels[scored], filled[scored]
    if y.all() or not y.any():
        return {}
    starts, stops = find_ranges(np.concatenate([[False], *([*row, False] for row in labels)]).astype(bool))
    buffer = max(10, int(np.median(stops - starts)))
    gap = np.zeros(buffer, dtype=bool)

    def join(values: NDArray[Any], filling: NDArray[Any]) -> NDArray[Any]:
        joined = np.concatenate([part for row, ok in zip(values, scored, strict=True) for part in (row[ok], filling)])
        return joined[:-buffer] if len(values) == 1 else joined

    flat_labels, flat_scores = join(labels, gap), join(filled, np.full(buffer, lowest))
    pr, roc = volume_under_surface(flat_labels, flat_scores, buffer)
    result = {
        "auroc": float(roc_auc_score(y, s)),
        "auprc": float(average_precision_score(y, s)),
        "vus_roc": roc,
        "vus_pr": pr,
    }
    if threshold is None:
        return result
    reported, known = (
        np.stack(find_ranges(flags), 1).astype(np.float64) for flags in (join(filled > threshold, gap), flat_labels)
    )
    return result | _score_decisions(s > threshold, y) | affiliation_metrics(reported, known, len(flat_labels))


def _score_decisions(reported: Labels, labels: Labels) -> dict[str, float]:
    """Return precision, recall and F1 of the samples [T] that are reported."""
    true_positives = int((reported & labels).sum())
    precision = true_positives / max(int(reported.sum()), 1)
    recall = true_positives / int(labels.sum())
    f1 = 2 * precision * recall / (precision + recall) if true_positives else 0.0
    return {"precision": precision, "recall": recall, "f1": f1}


def find_ranges(labels: Labels) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first samples of the runs of True in `labels` [T], and the samples after their last ones."""
    edges = np.diff(np.concatenate([[0], labels.astype(np.int64), [0]]))
    return (edges == 1).nonzero()[0], (edges == -1).nonzero()[0]


def extend_labels(labels: Labels, buffer: int) -> Array:
    """Return labels [T] from 0 to 1 that fall off within `buffer // 2` samples on both sides of every event.

    The label at distance d is sqrt(1 - d / buffer).
    """
    soft = labels.astype(np.float64)
    starts, stops = find_ranges(labels)
    distance = np.arange(1, buffer // 2 + 1)
    if buffer > 1:
        slope = np.sqrt(1 - distance / buffer)
        for sign, ends in ((1, stops - 1), (-1, starts)):
            places = ends[:, None] + sign * distance
            inside = (places >= 0) & (places < len(labels))
            np.maximum.at(soft, places[inside], np.broadcast_to(slope, places.shape)[inside])
    return soft


def range_areas(labels: Labels, scores: Array, buffer: int) -> tuple[float, float]:
    """Return the areas under the range-aware precision-recall and ROC curves.

    Args:
        labels: [T] bool
        scores: [T], finite
        buffer: width of the slopes of the labels
    """
    soft = extend_labels(labels, buffer)
    order = np.argsort(-scores, kind="stable")
    sorted_scores = scores[order]
    thresholds = sorted_scores[np.linspace(0, len(scores) - 1, NUM_THRESHOLDS).astype(int)]
    count = np.searchsorted(-sorted_scores, -thresholds, side="right")
    true_positives = soft[order].cumsum()[count - 1]
    positives = (labels.sum() + soft.sum()) / 2
    starts, stops = find_ranges(soft > 0)
    peaks = np.array([scores[start:stop].max() for start, stop in zip(starts, stops, strict=True)])
    existence = (peaks[:, None] >= thresholds).mean(0)
    recall = np.minimum(true_positives / positives, 1) * existence
    fall_out = np.minimum((count - true_positives) / (len(labels) - positives), 1)
    recall, fall_out = np.concatenate([[0], recall, [1]]), np.concatenate([[0], fall_out, [1]])
    precision = np.concatenate([[1], true_positives / count])
    pr = float(((recall[1:-1] - recall[:-2]) * (precision[1:] + precision[:-1]) / 2).sum())
    return pr, float(((fall_out[1:] - fall_out[:-1]) * (recall[1:] + recall[:-1]) / 2).sum())


def volume_under_surface(labels: Labels, scores: Array, max_buffer: int) -> tuple[float, float]:
    """Return VUS-PR and VUS-ROC: the means of `range_areas` over widths from 0 to `max_buffer`."""
    buffers = np.unique(np.linspace(0, max_buffer, NUM_BUFFERS).round().astype(int))
    areas = np.array([range_areas(labels, scores, int(buffer)) for buffer in buffers])
    return float(areas[:, 0].mean()), float(areas[:, 1].mean())


# -------------------------------------------------------------------- baselines


def score_by_moving_deviation(x: Array, window: int) -> Array:
    """Return the absolute difference of each sample from the mean of the window around it, averaged over channels.

    Args:
        x: [N, C, T] standardized, NaN where missing
        window: samples

    Returns:
        [N, T]
    """
    from scipy.ndimage import uniform_filter1d

    filled = np.nan_to_num(fill_by_interpolation(x))
    return np.abs(filled - uniform_filter1d(filled, window, axis=-1, mode="nearest")).mean(1)


def score_by_last_value(x: Array, window: int) -> Array:
    """Return the absolute difference of each sample from the one before, averaged over channels. See above."""
    filled = np.nan_to_num(fill_by_interpolation(x))
    return np.abs(np.diff(filled, axis=-1, prepend=filled[..., :1])).mean(1)


def score_by_matrix_profile(x: Array, window: int) -> Array | str:
    """Return the mean distance of the windows of a sample to their nearest neighbour in the series itself, or a reason.

    Distances are averaged over channels, see `matrix_profile`.
    """
    num_series, num_channels, length = x.shape
    if (pairs := num_series * num_channels * length**2) > MAX_PROFILE_PAIRS:
        return (
            f"a matrix profile of {num_series:,} x {num_channels:,} x {length:,} samples takes too long: "
            f"{pairs:.0e} pairs, more than {MAX_PROFILE_PAIRS:.0e}; score a part of the data"
        )
    if length < 3 * window:
        return f"series of {length} samples are too short for a matrix profile of windows of {window}"
    filled = np.nan_to_num(fill_by_interpolation(x))
    counts = np.convolve(np.ones(length - window + 1), np.ones(window))
    scores = np.zeros((num_series, length))
    for row, series in zip(scores, filled, strict=True):
        for channel in series:
            row += np.convolve(matrix_profile(channel, window), np.ones(window)) / counts / num_channels
    return scores


def matrix_profile(x: Array, window: int) -> Array:
    """Return the distance of each window of `x` [T] to the nearest other one, [T - window + 1] (Yeh et al. 2016).

    Distances are Euclidean, of z-normalized windows; windows whose first samples are at most a quarter of a window
    apart are not compared. The distance of a constant window is 0 from another one, and sqrt(window) from others.
    """
    from scipy.ndimage import maximum_filter1d, minimum_filter1d

    x = x - x.mean()
    count = len(x) - window + 1
    mean, square = _window_means(x, window), _window_means(x**2, window)
    middles = slice(window // 2, window // 2 + count)
    is_constant = (maximum_filter1d(x, window) == minimum_filter1d(x, window))[middles]
    std = np.sqrt(np.maximum(square - mean**2, 0))
    scale = np.where(is_constant | (std == 0), 0.0, 1 / np.where(std > 0, std, 1))
    half = 0.5 * is_constant  # a correlation of 1/2 for one constant window, and of 1 for two
    best = np.full(count, -1.0)
    for lag in range(-(-window // 4) + 1, count):  # all pairs of windows this far apart
        covariance = _window_means(x[:-lag] * x[lag:], window) - mean[:-lag] * mean[lag:]
        correlation = covariance * scale[:-lag] * scale[lag:] + half[:-lag] + half[lag:]
        np.maximum(best[:-lag], correlation, out=best[:-lag])
        np.maximum(best[lag:], correlation, out=best[lag:])
    return np.asarray(np.sqrt(2 * window * np.maximum(1 - best, 0)))


def _window_means(x: Array, window: int) -> Array:
    """Return the means of all windows of `x` [T], [T - window + 1]."""
    total = np.concatenate([[0.0], x.cumsum()])
    return np.asarray((total[window:] - total[:-window]) / window)


BASELINES: dict[str, Callable[[Array, int], Array | str]] = {
    "moving deviation": score_by_moving_deviation,
    "last value": score_by_last_value,
    "matrix profile": score_by_matrix_profile,
}
