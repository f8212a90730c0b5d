"""Scores of a classifier: counts of right and wrong classes, scores of probabilities, and bootstrap intervals.

Everything is a pure function of arrays. Each score is computed from weights [R, N] of the series: weights of one give
the score itself, and the numbers of times that resamples draw each series give its bootstrap distribution.
docs/metrics.md has the formulas. Training imports this module, so it needs no scikit-learn; the tests compare with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tstk.config.records import ClassificationScores

Array = NDArray[Any]

ECE_BINS = 15
"""Bins of equal width of the expected calibration error, as in Guo et al. (2017)."""
NUM_RESAMPLES = 1000
MIN_RESAMPLES = 100
MAX_RESAMPLED_VALUES = 1e8
"""Resamples x series x classes above which fewer resamples are drawn, down to `MIN_RESAMPLES`."""
MAX_VALUES = 1e7
"""Series x classes above which there are no intervals."""
FEW_GROUPS = 10
"""Below this number of groups an interval is too narrow to rely on."""


def classification_metrics(targets: Tensor, predictions: Tensor) -> dict[str, float]:
    """Compute accuracy and macro F1; return {} if no label is known.

    As in scikit-learn, macro F1 is the mean over the classes that occur in targets or predictions.

    Args:
        targets: [N] class index; rows with -1 (unknown) are ignored
        predictions: [N] class index
    """
    known = targets >= 0
    targets, predictions = targets[known], predictions[known]
    if not len(targets):
        return {}
    per_class = per_class_metrics(targets, predictions, int(torch.maximum(targets, predictions).max()) + 1)
    f1 = per_class["f1"][torch.cat([targets, predictions]).unique()]
    return {"accuracy": int((targets == predictions).sum()) / len(targets), "f1_macro": float(f1.numpy().mean())}


def per_class_metrics(targets: Tensor, predictions: Tensor, num_classes: int) -> dict[str, Tensor]:
    """Compute precision, recall and F1 of each class, [num_classes]; 0 for a class that does not occur.

    Args:
        targets: [N] class index; rows with -1 (unknown) are ignored
        predictions: [N] class index
        num_classes: number of classes
    """
    known = targets >= 0
    targets, predictions = targets[known], predictions[known]
    correct, actual, predicted = (
        torch.bincount(labels, minlength=num_classes).double()
        for labels in (targets[targets == predictions], targets, predictions)
    )
    return {
        "precision": correct / predicted.clamp(min=1),
        "recall": correct / actual.clamp(min=1),
        "f1": 2 * correct / (actual + predicted).clamp(min=1),
    }


def accuracy_standard_error(targets: Tensor, predictions: Tensor, groups: list[str] | None = None) -> float:
    """Compute the standard error of an accuracy, clustered by group if groups are given.

    Args:
        targets: [N] class index; rows with -1 (unknown) are ignored
        predictions: [N] class index
        groups: N names of dependent rows, such as the subject a window was recorded from
    """
    known = targets >= 0
    return standard_error_of_mean((targets == predictions)[known].double(), select_groups(groups, known))


def select_groups(groups: Sequence[str] | None, known: Tensor) -> list[str] | None:
    """Return the groups of the rows where `known` [N] is True; None without groups."""
    return None if groups is None else [name for name, ok in zip(groups, known.tolist(), strict=True) if ok]


def standard_error_of_mean(values: Tensor, groups: Sequence[str] | None = None) -> float:
    """Compute the standard error of a mean, over group means if there are at least two groups.

    Args:
        values: [N] float64, at least one
        groups: N names of dependent rows
    """
    if groups is not None and len(set(groups)) > 1:
        group_numbers = {name: i for i, name in enumerate(dict.fromkeys(groups))}
        numbers = torch.tensor([group_numbers[g] for g in groups])
        sums = torch.zeros(len(group_numbers), dtype=torch.float64).scatter_add_(0, numbers, values)
        group_means = sums / torch.bincount(numbers, minlength=len(group_numbers))
        return float(group_means.std() / len(group_means) ** 0.5)
    return float(values.std(correction=0) / len(values) ** 0.5)


def score_probabilities(
    targets: Array, probabilities: Array, classes: Sequence[str], groups: Sequence[str] | None = None, *, seed: int = 0
) -> ClassificationScores | None:
    """Score the probabilities of classes, with 95 % bootstrap intervals; return None if no label is known.

    Args:
        targets: [N] class index; rows with -1 (unknown) are ignored
        probabilities: [N, K], rows that sum to 1
        classes: K names; of two classes, the second is the positive one
        groups: N names of dependent rows, such as subjects, which are resampled together; None resamples rows
        seed: of the resampling
    """
    known = targets >= 0
    if not known.any():
        return None
    group_ids = number_groups(groups, known)
    scorer = _WeightedScorer(targets[known], probabilities[known].astype(np.float64))
    scores, class_scores = scorer.compute(np.ones((1, len(scorer.targets))))
    num_resamples, resampling = plan_resampling(len(scorer.targets), len(classes), group_ids)
    chunks = [scorer.compute(w) for w in draw_resamples(len(scorer.targets), group_ids, num_resamples, seed)]
    resampled = {name: [chunk[0][name] for chunk in chunks] for name in scores}
    class_resampled = {name: [chunk[1][name] for chunk in chunks] for name in class_scores}
    confusion = scorer.count_confusion()
    return ClassificationScores(
        classes=list(classes),
        scores={name: float(value[0]) for name, value in scores.items() if np.isfinite(value[0])},
        intervals=compute_intervals(scores, resampled),
        per_class={
            class_name: {name: float(v[0, k]) for name, v in class_scores.items() if np.isfinite(v[0, k])}
            for k, class_name in enumerate(classes)
        },
        per_class_intervals={
            class_name: compute_intervals({name: v[:, k] for name, v in class_scores.items()}, class_resampled, k)
            for k, class_name in enumerate(classes)
        },
        confusion=confusion.tolist(),
        resampling=resampling,
        notes=_describe_undefined(confusion, classes, [name for name, v in scores.items() if np.isnan(v[0])]),
    )


def compute_scores(targets: Array, probabilities: Array) -> dict[str, float]:
    """Compute the scores over all classes, without intervals; those that are undefined are left out.

    Args:
        targets: [N] class index, none unknown
        probabilities: [N, K] float64
    """
    scores, _ = _WeightedScorer(targets, probabilities).compute(np.ones((1, len(targets))))
    return {name: float(value[0]) for name, value in scores.items() if np.isfinite(value[0])}


class _WeightedScorer:
    """Scores of probabilities under weights of the series, NaN where undefined.

    Args:
        targets: [N] class index, none unknown
        probabilities: [N, K] float64
    """

    def __init__(self, targets: Array, probabilities: Array) -> None:
        self.targets, self.predictions = targets, probabilities.argmax(1)
        self.num_classes = probabilities.shape[1]
        is_correct = self.predictions == targets
        identity = np.eye(self.num_classes)
        self.actual, self.predicted = identity[targets], identity[self.predictions]
        self.correct = self.actual * is_correct[:, None]
        true_probability = np.take_along_axis(probabilities, targets[:, None], 1)[:, 0]
        self.log_losses = -np.log(true_probability.clip(np.finfo(np.float64).eps))
        self.square_errors = ((probabilities - self.actual) ** 2).sum(1) / (2 if self.num_classes == 2 else 1)
        confidence = probabilities.max(1)
        self.gaps = np.eye(ECE_BINS)[bin_confidence(confidence)] * (is_correct - confidence)[:, None]
        self.rankings = [Ranking(probabilities[:, k], targets == k) for k in range(self.num_classes)]

    def compute(self, weights: Array) -> tuple[dict[str, Array], dict[str, Array]]:
        """Compute all scores.

        Args:
            weights: [R, N] how often each series counts

        Returns:
            score -> [R], and score of a class -> [R, K]
        """
        correct, actual, predicted = weights @ self.correct, weights @ self.actual, weights @ self.predicted
        total = weights.sum(1, keepdims=True)
        areas = [ranking.compute_areas(weights) for ranking in self.rankings]
        class_scores = {
            "sensitivity": divide(correct, actual),
            "specificity": divide(total - actual - predicted + correct, total - actual),
            "precision": divide(correct, predicted),
            "f1": divide(2 * correct, actual + predicted),
            "auroc": np.stack([auroc for auroc, _ in areas], 1),
            "auprc": np.stack([auprc for _, auprc in areas], 1),
        }
        is_binary = self.num_classes == 2
        # kappa and Matthews' coefficient compare the agreement with that of independent labels
        chance = (actual * predicted).sum(1, keepdims=True)
        agreement = total * correct.sum(1, keepdims=True) - chance
        actual_spread, predicted_spread = (total**2 - (n**2).sum(1, keepdims=True) for n in (actual, predicted))
        matthews = agreement / np.sqrt(np.maximum(actual_spread * predicted_spread, 1))  # 0 for one predicted class
        scores = {
            "accuracy": correct.sum(1) / total[:, 0],
            "balanced_accuracy": _nanmean(class_scores["sensitivity"]),
            "f1_macro": _nanmean(class_scores["f1"]),
            "kappa": np.where(actual_spread > 0, divide(agreement, total**2 - chance), np.nan)[:, 0],
            "mcc": np.where(actual_spread > 0, matthews, np.nan)[:, 0],
            "auroc": class_scores["auroc"][:, 1] if is_binary else _nanmean(class_scores["auroc"]),
            "auprc": class_scores["auprc"][:, 1] if is_binary else _nanmean(class_scores["auprc"]),
            "log_loss": weights @ self.log_losses / total[:, 0],
            "brier": weights @ self.square_errors / total[:, 0],
            "ece": np.abs(weights @ self.gaps).sum(1) / total[:, 0],
        }
        return scores, class_scores

    def count_confusion(self) -> Array:
        """Count the series of each true class, in rows, by predicted class, [K, K]."""
        confusion = np.zeros((self.num_classes, self.num_classes), np.int64)
        np.add.at(confusion, (self.targets, self.predictions), 1)
        return confusion


class Ranking:
    """Series in descending order of the score of a class; equal scores are one threshold.

    Args:
        values: [N] score of the class
        is_positive: [N] bool, whether a series is of the class
    """

    def __init__(self, values: Array, is_positive: Array) -> None:
        self.order = np.argsort(-values, kind="stable")
        self.is_positive = is_positive[self.order]
        ordered = values[self.order]
        self.starts = np.flatnonzero(np.diff(ordered, prepend=np.inf))
        self.thresholds = ordered[self.starts]

    def count_above(self, weights: Array) -> tuple[Array, Array]:
        """Count the positive and negative series with a score of each threshold or more, [R, thresholds] each.

        Args:
            weights: [R, N] how often each series counts
        """
        ordered = weights[:, self.order]
        total = np.add.reduceat(ordered, self.starts, axis=1).cumsum(1)
        positive = np.add.reduceat(ordered * self.is_positive, self.starts, axis=1).cumsum(1)
        return positive, total - positive

    def compute_areas(self, weights: Array) -> tuple[Array, Array]:
        """Compute the areas under the ROC and the precision-recall curve, [R] each; NaN where undefined.

        The latter is the average precision, the sum of (R_i - R_{i-1}) P_i, without interpolation.

        Args:
            weights: [R, N] how often each series counts
        """
        positive, negative = self.count_above(weights)
        new_positive, new_negative = np.diff(positive, prepend=0), np.diff(negative, prepend=0)
        num_positive, num_negative = positive[:, -1], negative[:, -1]
        auroc = divide((new_negative * (positive - new_positive / 2)).sum(1), num_positive * num_negative)
        precision = positive / np.maximum(positive + negative, 1)
        auprc = divide((new_positive * precision).sum(1), num_positive)
        return auroc, np.where(num_negative > 0, auprc, np.nan)


def bin_confidence(confidence: Array) -> Array:
    """Return the bin of each confidence, [N], of `ECE_BINS` bins (low, high] of equal width."""
    return np.clip(np.ceil(confidence * ECE_BINS).astype(np.int64) - 1, 0, ECE_BINS - 1)


def divide(numerator: Array, denominator: Array) -> Array:
    """Divide; NaN where the denominator is 0."""
    return np.where(denominator > 0, numerator / np.where(denominator > 0, denominator, 1), np.nan)


def _nanmean(values: Array) -> Array:
    """Return the mean [R] of values [R, K] over those that are defined; NaN if none is."""
    return divide(np.nansum(values, 1), (~np.isnan(values)).sum(1))


# ------------------------------------------------------------------ bootstrap


def number_groups(groups: Sequence[str] | None, known: Array) -> Array | None:
    """Return the number of the group of each row that is known, from 0; None without groups."""
    return None if groups is None else np.unique(np.asarray(groups, dtype=str)[known], return_inverse=True)[1]


def plan_resampling(num_series: int, num_classes: int, group_ids: Array | None) -> tuple[int, str]:
    """Return how many resamples to draw, and a description for the user, which says why if there are none."""
    if num_series * num_classes > MAX_VALUES:
        return 0, f"no intervals: {num_series:,} series x {num_classes} classes are too many to resample"
    affordable = int(MAX_RESAMPLED_VALUES / (num_series * num_classes))
    num_resamples = min(NUM_RESAMPLES, max(MIN_RESAMPLES, affordable))
    num_units = num_series if group_ids is None else int(group_ids.max()) + 1
    unit = "series" if group_ids is None else "groups"
    if num_units < 2:
        return 0, f"no intervals: there is a single {'series' if group_ids is None else 'group'} to resample"
    caution = f"; intervals over fewer than {FEW_GROUPS} {unit} are too narrow" if num_units < FEW_GROUPS else ""
    return num_resamples, f"{num_resamples:,} bootstrap resamples of {num_units:,} {unit}{caution}"


def draw_resamples(num_series: int, group_ids: Array | None, num_resamples: int, seed: int) -> Iterator[Array]:
    """Yield weights [R, N]: how often resamples with replacement draw each series, some resamples at a time.

    Args:
        num_series: N
        group_ids: [N] number of the group of each series, from 0; a group is drawn as a whole. None draws series
        num_resamples: in total
        seed: of the resampling
    """
    generator = np.random.default_rng(seed)
    num_units = num_series if group_ids is None else int(group_ids.max()) + 1
    chunk = max(1, 1_000_000 // num_series)
    for start in range(0, num_resamples, chunk):
        rows = min(chunk, num_resamples - start)
        drawn = generator.integers(num_units, size=(rows, num_units)) + num_units * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * num_units).reshape(rows, num_units).astype(np.float64)
        yield counts if group_ids is None else counts[:, group_ids]


def compute_intervals(
    scores: dict[str, Array], resampled: dict[str, list[Array]], column: int | None = None
) -> dict[str, list[float]]:
    """Return the 2.5 and 97.5 % quantiles of each score that is defined, also in at least half of the resamples.

    Args:
        scores: score -> [1]
        resampled: score -> parts [R] of its values, or [R, K]
        column: of the latter
    """
    intervals = {}
    for name, score in scores.items():
        if np.isnan(score[0]) or not resampled[name]:
            continue
        values = np.concatenate([part if column is None else part[:, column] for part in resampled[name]])
        defined = values[~np.isnan(values)]
        if 2 * len(defined) >= len(values):
            intervals[name] = [float(end) for end in np.quantile(defined, [0.025, 0.975])]
    return intervals


def _describe_undefined(confusion: Array, classes: Sequence[str], undefined: Sequence[str]) -> list[str]:
    """Return a sentence for the scores that are undefined, for classes without series, and for unpredicted ones."""
    counts, predicted = confusion.sum(1), confusion.sum(0)
    notes = []
    if undefined:
        only = classes[int(counts.argmax())]
        notes.append(f"undefined: {', '.join(undefined)}; all {counts.sum():,} series are of class {only}")
    elif absent := [name for name, count in zip(classes, counts, strict=True) if not count]:
        notes.append(f"no series of class {', '.join(absent)}: it is left out of the means over classes")
    if unpredicted := [name for name, a, p in zip(classes, counts, predicted, strict=True) if a and not p]:
        notes.append(f"never predicted: {', '.join(unpredicted)}; the precision of a class that is not is undefined")
    return notes
