"""Segmentation: one of several classes for each sample of a series, such as stages of sleep or activities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tstk.core.standardization import StandardizedModel
from tstk.core.task import Baselines, Prediction, Task
from tstk.core.types import Series, Split, StepOutput
from tstk.evaluation.segments import join_windows, score_segmentation
from tstk.evaluation.simple_segmenters import SEGMENTERS, score_segmenters


class Segmentation(Task):
    """Predict the class of each sample.

    The main metric is macro F1, since recordings hold far more samples of some classes than of others.
    """

    target_type = "sample-class"
    default_head = "per-token"
    default_loss = "cross-entropy"
    main_metric = "f1_macro"
    requirement = "a class per sample"
    remedy = "name the column of labels that change within a series with --label-column, or give other data with --data"

    def decode(self, pipeline: StandardizedModel, outputs: Tensor, sample_paths: Tensor | None = None) -> Prediction:
        """Return the names of the classes [N, T] and their probabilities [N, K, T]."""
        best, names = outputs.argmax(1).numpy(), pipeline.classes
        return Prediction(np.array(names)[best] if names else best, outputs.double().softmax(1).numpy(), names)

    def create_metrics(self, pipeline: StandardizedModel) -> SegmentationMetrics:
        """Return metrics that keep classes rather than logits, since the logits of all samples may not fit memory."""
        return SegmentationMetrics(pipeline.spec.num_outputs or 0)

    def score(
        self, outputs: Tensor, targets: Tensor, names: Sequence[str], groups: list[str] | None = None
    ) -> dict[str, float]:
        """Compute scores by sample and by segment; each row is a series."""
        return score_segmentation(targets, outputs.argmax(1), outputs.shape[1])

    def score_baselines(self, pipeline: StandardizedModel, data: Any, split: Split, batch_size: int = 256) -> Baselines:
        """Score the majority class, and two classifiers of moving averages and deviations."""
        return score_segmenters(data.training_splits, split, pipeline.spec, batch_size)

    def score_fitted_baselines(self, pipeline: StandardizedModel, split: Split, reason: str) -> Baselines:
        """Score the majority class."""
        assert split.y is not None
        majority = torch.tensor(pipeline.spec.class_counts).argmax()
        recordings = join_windows(split, len(split), pipeline.spec.length)
        scores = score_segmentation(split.y, majority.expand_as(split.y), pipeline.spec.num_outputs or 0, recordings)
        return Baselines({"majority class": scores} if scores else {}, dict.fromkeys(SEGMENTERS, reason))


class SegmentationMetrics:
    """The classes of a split, which are scored together.

    Args:
        num_classes: number of classes
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.predictions: list[Tensor] = []
        self.targets: list[Tensor] = []

    def update(self, series: Series, step_output: StepOutput) -> None:
        """Add a batch with its predictions."""
        if step_output.head_output is not None and step_output.targets is not None:
            self.predictions.append(step_output.head_output.argmax(1).cpu())
            self.targets.append(step_output.targets.cpu())

    def compute(self, split: Split) -> dict[str, float]:
        """Return the metrics of all batches; consecutive windows of a recording are joined."""
        if not self.targets:
            return {}
        targets, predictions = torch.cat(self.targets), torch.cat(self.predictions)
        recordings = join_windows(split, *targets.shape)
        return score_segmentation(targets, predictions, self.num_classes, recordings)
