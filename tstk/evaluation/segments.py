"""Scores of a class per sample: by sample, and by segment, which is a run of samples of one class.

The segmental scores are those of Lea et al. 2017, "Temporal Convolutional Networks for Action Segmentation and
Detection": they penalize too many and too few segments, which scores by sample hardly notice. Consecutive windows of a
recording are joined before segments are found, since a segment does not end where a window does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tstk.core.types import Split
from tstk.data.datasets import SeriesDataset
from tstk.evaluation.classification import classification_metrics, per_class_metrics

Labels = NDArray[np.int64]
OVERLAPS = (10, 25, 50)
"""Least overlap, in percent of the union of two segments, at which they match."""


def find_segments(labels: Labels) -> NDArray[np.int64]:
    """Return [M, 3], class, first sample and end (exclusive) of each run of equal labels [T]; -1 belongs to none."""
    edges = np.flatnonzero(np.diff(labels)) + 1
    starts, ends = np.append(0, edges), np.append(edges, len(labels))
    segments = np.stack([labels[starts], starts, ends], 1) if len(labels) else np.zeros((0, 3), np.int64)
    return segments[segments[:, 0] >= 0]


def join_windows(split: Split | None, count: int, length: int) -> list[list[int]]:
    """Return the rows of a split that follow each other in one recording, in order; whole series are alone.

    Args:
        split: the series; None if nothing is known of them
        count: number of series
        length: samples of a window
    """
    if not isinstance(split, SeriesDataset) or split.recordings is None or split.rows is None:
        return [[row] for row in range(count)]
    numbers, starts, lengths = (values.tolist() for values in (split.recordings, split.rows, split.lengths))
    recordings: list[list[int]] = []
    for row in range(count):
        previous = row - 1
        is_next = row > 0 and numbers[row] == numbers[previous] and starts[row] == starts[previous] + length
        if is_next and lengths[previous] == length:
            recordings[-1].append(row)
        else:
            recordings.append([row])
    return recordings


def score_segmentation(
    targets: Tensor, predictions: Tensor, num_classes: int, recordings: Sequence[Sequence[int]] | None = None
) -> dict[str, float]:
    """Compute the scores by sample and by segment; {} if no target is known.

    Args:
        targets: [N, T] class index of each sample, -1 where unknown
        predictions: [N, T] class index
        num_classes: number of classes
        recordings: rows of each series, from `join_windows`; None means that each row is a series
    """
    known = targets >= 0
    scores = classification_metrics(targets[known], predictions[known])
    if not scores:
        return {}
    scores["sample_accuracy"] = scores.pop("accuracy")
    recall = per_class_metrics(targets[known], predictions[known], num_classes)["recall"]
    scores["balanced_accuracy"] = float(recall[targets[known].unique()].mean())
    scores["kappa"] = _compute_kappa(targets[known], predictions[known], num_classes)
    arrays = targets.numpy(), predictions.where(known, -1).numpy()
    rows = [[row] for row in range(len(targets))] if recordings is None else recordings
    return scores | score_segments([tuple(np.concatenate(a[list(r)]) for a in arrays) for r in rows])


def _compute_kappa(targets: Tensor, predictions: Tensor, num_classes: int) -> float:
    """Return Cohen's kappa: agreement beyond that of independent labels of the same frequencies; 0 if undefined."""
    counts = [torch.bincount(labels, minlength=num_classes).double() / len(labels) for labels in (targets, predictions)]
    expected = float((counts[0] * counts[1]).sum())
    return (float((targets == predictions).double().mean()) - expected) / (1 - expected) if expected < 1 else 0.0


def score_segments(series: Sequence[tuple[Labels, ...]]) -> dict[str, float]:
    """Compute the segmental edit score and the F1 at each of `OVERLAPS`, all between 0 and 1.

    The edit score is a mean over series; F1 counts the segments of all series together.

    Args:
        series: targets and predictions [T] of each series, both -1 where the target is unknown
    """
    pairs = [(find_segments(targets), find_segments(predictions)) for targets, predictions in series]
    pairs = [pair for pair in pairs if len(pair[0])]
    scores = {"edit": float(np.mean([_edit_score(true[:, 0], predicted[:, 0]) for true, predicted in pairs]))}
    num_segments = sum(len(true) + len(predicted) for true, predicted in pairs)
    best = [_find_best_matches(true, predicted) for true, predicted in pairs]
    for overlap in OVERLAPS:
        num_matched = sum(len(np.unique(index[quality >= overlap / 100])) for index, quality in best)
        scores[f"f1_{overlap}"] = 2 * num_matched / num_segments
    return scores


def _edit_score(true: Labels, predicted: Labels) -> float:
    """Return 1 - (Levenshtein distance of two sequences of classes) / (length of the longer one)."""
    steps = np.arange(len(predicted) + 1)
    distances = steps
    for number, label in enumerate(true.tolist(), 1):
        best = np.append(number, np.minimum(distances[1:] + 1, distances[:-1] + (predicted != label)))
        distances = np.minimum.accumulate(best - steps) + steps  # insertions
    return 1 - float(distances[-1]) / max(len(true), len(predicted))


def _find_best_matches(
    true: NDArray[np.int64], predicted: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return for each predicted segment the true one of its class that it overlaps most, and the fraction of the union.

    The first of the predicted segments that overlap a true one enough matches it, all others are wrong, so the number
    of true segments that are matched is all that counts.
    """
    index, quality = np.zeros(len(predicted), np.int64), np.zeros(len(predicted))
    for i, (label, start, end) in enumerate(predicted):
        shared = np.minimum(end, true[:, 2]) - np.maximum(start, true[:, 1])
        union = np.maximum(end, true[:, 2]) - np.minimum(start, true[:, 1])
        fractions = np.where(true[:, 0] == label, shared / union, 0.0)
        index[i] = fractions.argmax()
        quality[i] = fractions[index[i]]
    return index, quality
