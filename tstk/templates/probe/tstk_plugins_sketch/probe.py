"""A classifier of frozen features: the class whose mean is nearest."""

import numpy as np

from tstk.evaluation.probe_classifiers import FeatureSet, ProbeClassifier


class Sketch(ProbeClassifier):
    """Nearest class mean in Euclidean distance; it has no hyperparameters."""

    def predict(
        self, train: FeatureSet, val: FeatureSet, test: FeatureSet, seed: int
    ) -> tuple[dict[str, float], np.ndarray]:
        """Return the selected hyperparameters, of which there are none, and the predicted classes [N] of test."""
        rows = train + val
        classes = np.unique(rows.y)
        means = np.stack([rows.x[rows.y == label].mean(0) for label in classes])
        return {}, classes[np.square(test.x[:, None] - means).sum(-1).argmin(1)]
