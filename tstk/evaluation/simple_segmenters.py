"""Baselines of a class per sample: classifiers of the mean and deviation of windows around each sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from tstk.core.task import Baselines
from tstk.core.types import Series, Spec, Split
from tstk.evaluation.evaluate import iter_batches
from tstk.evaluation.segments import join_windows, score_segmentation
from tstk.nn.logistic_regression import LogisticRegression

WINDOWS = (9, 33, 129)
"""Samples of the windows around a sample whose mean and standard deviation are its features."""
MAX_TRAIN_SAMPLES = 5000
"""Samples to fit on; evenly spaced where there are more."""


class SampleClassifier(Protocol):
    """Interface of the classifiers of samples by their features."""

    def fit(self, features: Tensor, y: Tensor) -> SampleClassifier:
        """Fit on features [M, F] of samples of classes [M]."""

    def predict(self, features: Tensor) -> Tensor:
        """Predict the class index [M] from features [M, F]."""


class NearestCentroid:
    """The class whose mean features are the nearest, after standardization."""

    def fit(self, features: Tensor, y: Tensor) -> NearestCentroid:
        """Compute the mean of each class."""
        self.mean, std = features.mean(0), features.std(0, correction=0)
        self.std = std.where(std > 0, 1.0)
        self.classes = y.unique()
        self.centroids = torch.stack([self._standardize(features[y == k]).mean(0) for k in self.classes])
        return self

    def predict(self, features: Tensor) -> Tensor:
        """Predict the class index [M]."""
        return self.classes[torch.cdist(self._standardize(features), self.centroids).argmin(1)]

    def _standardize(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.std


SEGMENTERS: dict[str, Callable[[], SampleClassifier]] = {"centroid": NearestCentroid, "logistic": LogisticRegression}
"""Baselines by the name used in results."""


def compute_moving_features(series: Series) -> Tensor:
    """Return [B, T, F] float64: mean and deviation of each channel in windows centred at each sample.

    Only observed samples of the series count; the features of a window without any are 0.
    """
    observed = series.observed_mask.double()
    x = series.x.double() * observed
    features = []
    for window in WINDOWS:
        count, total, squares = (_moving_sum(t, window) for t in (observed, x, x.square()))
        mean = total / count.clamp(min=1)
        features += [mean, (squares / count.clamp(min=1) - mean.square()).clamp(min=0).sqrt()]
    return torch.cat(features, 1).mT


def _moving_sum(values: Tensor, window: int) -> Tensor:
    """Return the sums over windows centred at each sample of [B, C, T]; samples outside count as 0."""
    half = window // 2
    sums = F.pad(values, (half + 1, half)).cumsum(-1)
    return sums[..., window:] - sums[..., :-window]


def score_segmenters(train: Sequence[Split], split: Split, spec: Spec, batch_size: int = 256) -> Baselines:
    """Score the majority class and the classifiers of `SEGMENTERS`.

    Args:
        train: splits with a class per sample; the majority class is that of the first
        split: the split to predict, with a class per sample
        spec: spec of the data
        batch_size: series at a time
    """
    assert train[0].y is not None
    assert split.y is not None
    num_classes, recordings = spec.num_outputs or 0, join_windows(split, len(split), spec.length)

    def score(predictions: Tensor) -> dict[str, float]:
        assert split.y is not None
        return score_segmentation(split.y, predictions, num_classes, recordings)

    majority = torch.bincount(train[0].y[train[0].y >= 0], minlength=num_classes).argmax()
    if not (scores := score(majority.expand_as(split.y))):
        return Baselines()
    baselines = Baselines({"majority class": scores})
    features, y = _gather_samples(train, batch_size)
    for name, method in SEGMENTERS.items():
        classifier = method().fit(features, y)
        predictions = torch.zeros_like(split.y)
        for series in iter_batches(split, batch_size, "cpu"):
            assert series.sample_id is not None
            values = compute_moving_features(series)
            predictions[series.sample_id, : values.shape[1]] = classifier.predict(values.flatten(0, 1)).view(
                values.shape[:2]
            )
        baselines.scores[name] = score(predictions)
    baselines.details = dict.fromkeys(
        SEGMENTERS, f"mean and deviation of {', '.join(map(str, WINDOWS))} samples around each, {len(y):,} of training"
    )
    return baselines


def _gather_samples(splits: Sequence[Split], batch_size: int) -> tuple[Tensor, Tensor]:
    """Return features [M, F] and classes [M] of at most `MAX_TRAIN_SAMPLES` samples with a known class."""
    num_known = sum(int((split.y >= 0).sum()) for split in splits if split.y is not None)
    step = -(-num_known // MAX_TRAIN_SAMPLES)
    features, labels, num_seen = [], [], 0
    for split in splits:
        for series in iter_batches(split, batch_size, "cpu"):
            assert series.y is not None
            index = (series.y >= 0).flatten().nonzero().flatten()
            chosen = index[-num_seen % step :: step]
            num_seen += len(index)
            features.append(compute_moving_features(series).flatten(0, 1)[chosen])
            labels.append(series.y.flatten()[chosen])
    return torch.cat(features), torch.cat(labels)
