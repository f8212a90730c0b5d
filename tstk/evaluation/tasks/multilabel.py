"""Several labels: each series has any number of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tstk.core.standardization import StandardizedModel
from tstk.core.task import Baselines, Prediction, Task
from tstk.core.types import Split
from tstk.evaluation.baselines import score_fitted
from tstk.evaluation.metrics import multilabel_metrics
from tstk.evaluation.simple_regressors import NearestNeighborLabels, SummaryLogisticLabels

LABELLERS = {"1-NN": NearestNeighborLabels, "logistic": SummaryLogisticLabels}
"""Baselines by the name used in results."""


class Multilabel(Task):
    """Predict for each label whether a series has it."""

    target_type = "labels"
    default_loss = "binary-cross-entropy"
    default_probe = "multilabel"
    main_metric = "f1_macro"
    requirement = "a target of 0 or 1 for each label"
    remedy = (
        "name their columns with --target-columns, or what separates the labels of a cell with --label-separator; "
        "or give other data with --data"
    )

    def decode(self, pipeline: StandardizedModel, outputs: Tensor, sample_paths: Tensor | None = None) -> Prediction:
        """Return the probability of each label, and the labels with a probability of at least 0.5."""
        probabilities = outputs.double().sigmoid().numpy()
        names = pipeline.classes or tuple(str(i) for i in range(outputs.shape[1]))
        return Prediction(join_labels(probabilities >= 0.5, names), probabilities, names)

    def score(
        self, outputs: Tensor, targets: Tensor, names: Sequence[str], groups: list[str] | None = None
    ) -> dict[str, float]:
        """Compute F1, AUROC and AUPRC, averaged over labels and per label, and the share of exact sets."""
        return multilabel_metrics(outputs, targets, names)

    def score_baselines(self, pipeline: StandardizedModel, data: Any, split: Split, batch_size: int = 256) -> Baselines:
        """Score the prevalence of each label, the nearest neighbour, and logistic regressions on summary features."""
        names, train = data.classes, data.train.y
        assert split.y is not None
        known, present = (train >= 0).sum(0), (train == 1).sum(0)
        prevalence = ((present + 0.5) / (known + 1)).logit().expand(len(split.y), -1)
        metrics = self.score(prevalence, split.y, names)
        return Baselines({"prevalence": metrics} if metrics else {}) | score_fitted(
            LABELLERS, data.training_splits, split, data.spec, lambda outputs, y: self.score(outputs, y, names)
        )

    def score_fitted_baselines(self, pipeline: StandardizedModel, split: Split, reason: str) -> Baselines:
        """Skip all baselines: the prevalence of labels is not stored in a run."""
        return Baselines({}, dict.fromkeys(("prevalence", *LABELLERS), reason))


def name_true_labels(y: Tensor, names: Sequence[str]) -> np.ndarray[Any, Any]:
    """Return [N] names of the labels of each row of [N, K] targets, joined by ;, and NAME? where it is unknown."""
    known_and_unknown = torch.stack([y == 1, y < 0], 2).flatten(1)
    return join_labels(known_and_unknown.numpy(), [text for name in names for text in (name, f"{name}?")])


def join_labels(has_label: np.ndarray[Any, Any], names: Sequence[str]) -> np.ndarray[Any, Any]:
    """Return [N] names of the labels that each row of [N, K] bool has, joined by ;."""
    return np.array([";".join(name for name, ok in zip(names, row, strict=True) if ok) for row in has_label])
