"""Classification: one of several classes per series."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tstk.core.standardization import StandardizedModel
from tstk.core.task import Baselines, Prediction, Task
from tstk.core.types import Split
from tstk.evaluation.baselines import score_classification_baselines, score_majority_class
from tstk.evaluation.classification import accuracy_standard_error, classification_metrics
from tstk.evaluation.simple_classifiers import CLASSIFIERS


class Classification(Task):
    """Predict the class of each series."""

    target_type = "class"
    default_loss = "cross-entropy"
    default_probe = "linear"
    main_metric = "accuracy"
    requirement = "class labels"
    remedy = "name their column with --label-column, other data with --data, or forecast with --head forecast"

    def decode(self, pipeline: StandardizedModel, outputs: Tensor, sample_paths: Tensor | None = None) -> Prediction:
        """Return the names of the classes and their probabilities."""
        best, names = outputs.argmax(1).numpy(), pipeline.classes
        temperature = 1.0 if pipeline.temperature is None else pipeline.temperature.cpu().double()
        probabilities = (outputs.double() / temperature).softmax(1).numpy()
        return Prediction(np.array(names)[best] if names else best, probabilities, names)

    def score(
        self, outputs: Tensor, targets: Tensor, names: Sequence[str], groups: list[str] | None = None
    ) -> dict[str, float]:
        """Compute accuracy, its standard error, and macro F1."""
        predictions = outputs.argmax(-1)
        metrics = classification_metrics(targets, predictions)
        if not metrics:
            return {}
        return metrics | {"accuracy_se": accuracy_standard_error(targets, predictions, groups)}

    def score_baselines(self, pipeline: StandardizedModel, data: Any, split: Split, batch_size: int = 256) -> Baselines:
        """Score the majority class, the nearest neighbour, and logistic regression on summary features."""
        return score_classification_baselines(data.training_splits, split, data.spec)

    def score_fitted_baselines(self, pipeline: StandardizedModel, split: Split, reason: str) -> Baselines:
        """Score the majority class."""
        assert split.y is not None
        if not pipeline.spec.class_counts:  # of an imported run, whose training data are unknown
            return Baselines(skipped=dict.fromkeys(("majority class", *CLASSIFIERS), reason))
        majority = score_majority_class(torch.tensor(pipeline.spec.class_counts), split.y)
        return Baselines(majority, dict.fromkeys(CLASSIFIERS, reason))
