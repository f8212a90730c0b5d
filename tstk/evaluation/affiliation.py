"""Affiliation precision and recall of reported events (Huet et al. 2022, "Local Evaluation of Time Series Anomaly
Detection Algorithms", KDD).

Each known event has a zone, the times that are nearer to it than to any other. In a zone, a distance counts by how
likely a random time of the zone is at least as far away: 1 for a hit, about 1/2 for a random report. Times are
continuous: sample t is the interval from t to t + 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Intervals = NDArray[np.float64]
"""[K, 2] first and last time of intervals, in order and apart."""


def affiliation_metrics(reported: Intervals, known: Intervals, length: float) -> dict[str, float]:
    """Return `affiliation_precision`, `affiliation_recall` and `affiliation_f1`, their harmonic mean.

    Precision is the mean over the zones with a report, and recall that over all zones, 0 where nothing is reported.

    Args:
        reported: [R, 2] intervals that a method reports
        known: [K, 2] known events, at least one
        length: of the series, which begins at 0

    Returns:
        the metrics; without precision and F1 if nothing is reported
    """
    middles = (known[1:, 0] + known[:-1, 1]) / 2
    borders = np.concatenate([[0.0], middles, [length]])
    precisions, recalls = [], []
    for event, zone in zip(known, np.stack([borders[:-1], borders[1:]], 1), strict=True):
        inside = np.clip(reported, *zone)
        inside = inside[inside[:, 1] > inside[:, 0]]
        if len(inside):
            precisions.append(affiliation_precision(inside, event, zone))
        recalls.append(affiliation_recall(inside, event, zone) if len(inside) else 0.0)
    recall = float(np.mean(recalls))
    if not precisions:
        return {"affiliation_recall": recall}
    precision = float(np.mean(precisions))
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return {"affiliation_precision": precision, "affiliation_recall": recall, "affiliation_f1": f1}


def affiliation_precision(reported: Intervals, event: Array, zone: Array) -> float:
    """Return the mean over the reported times of P(a random time of the zone is at least as far from the event).

    Args:
        reported: [R, 2] intervals within the zone
        event: [2]
        zone: [2], which contains the event
    """
    (begin, end), margins = event, np.abs(event - zone)
    hit = np.clip(reported, begin, end)
    total = (hit[:, 1] - hit[:, 0]).sum()
    before, after = begin - np.minimum(reported, begin)[:, ::-1], np.maximum(reported, end) - end
    for distances in (before, after):  # [R, 2] nearest and farthest
        nearest, farthest = (_integrate_survival(d, margins) for d in distances.T)
        total += ((farthest - nearest) / (zone[1] - zone[0])).sum()
    return float(total / (reported[:, 1] - reported[:, 0]).sum())


def _integrate_survival(distance: Array, margins: Array) -> Array:
    """Return the integral from 0 to `distance` [R] of the length of a zone that is farther from its event.

    Args:
        distance: upper limits
        margins: [2] lengths of the zone before and after the event
    """
    upper = np.minimum(distance[:, None], margins)
    return np.asarray((margins * upper - upper**2 / 2).sum(1))


def affiliation_recall(reported: Intervals, event: Array, zone: Array) -> float:
    """Return the mean over the times of the event of P(a random time of the zone is at least as far as the reports).

    Args: as of `affiliation_precision`, with at least one interval
    """
    ends = reported.ravel()
    gaps = (ends[1:-1:2] + ends[2::2]) / 2
    # between these times, the probability is linear: where the nearest report, or the smaller side, changes
    breaks = np.concatenate([event, ends, gaps, (ends + zone[0]) / 2, (ends + zone[1]) / 2])
    times = np.unique(np.clip(breaks, *event))
    distance = np.maximum(reported[:, 0] - times[:, None], times[:, None] - reported[:, 1]).clip(min=0).min(1)
    farther = (times - distance - zone[0]).clip(min=0) + (zone[1] - times - distance).clip(min=0)
    area = ((farther[1:] + farther[:-1]) / 2 * np.diff(times)).sum()
    return float(area / ((zone[1] - zone[0]) * (event[1] - event[0])))
