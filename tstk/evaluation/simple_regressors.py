"""Baselines of regression and of several labels: nearest neighbour, and linear models on summary features.

Written in torch, as the baseline classifiers are, and deterministic. Symbols: N series, F features, K targets.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tstk.evaluation.classification import select_groups
from tstk.evaluation.simple_classifiers import LabelledArrays, NearestNeighbor, compute_summary_features
from tstk.nn.logistic_regression import LogisticRegression, make_fold_masks
from tstk.nn.standardize import Standardizer

ALPHAS = (1000.0, 100.0, 10.0, 1.0, 0.1)
"""Values of alpha, the L2 penalty, strongest regularization first."""
UNLABELLED_LOGIT = 10.0
"""Absolute logit of a label that all training series have, or none."""


class NearestNeighborRegressor:
    """Predicts the targets of the nearest training series, and the mean where one of them is unknown."""

    def fit(self, train: LabelledArrays) -> NearestNeighborRegressor:
        """Store the training series."""
        self.neighbor, self.mean = NearestNeighbor().fit(train), train.y.nanmean(0)
        return self

    def predict(self, test: LabelledArrays) -> Tensor:
        """Predict the targets [N, K]."""
        targets = self.neighbor.predict(test)
        return torch.where(targets.isnan(), self.mean, targets)


class SummaryRidge:
    """Ridge regression on the features of `compute_summary_features`, standardized, one model per target.

    Alpha is selected among `ALPHAS` by the mean squared error of cross-validation, whose folds are contiguous, or
    divide groups if series have groups.
    """

    def fit(self, train: LabelledArrays) -> SummaryRidge:
        """Select alpha for each target, and fit."""
        features = compute_summary_features(train)
        self.standardizer = Standardizer(features)
        x = self.standardizer.transform(features)
        models = [_fit_ridge_cv(x, y, train.groups) for y in train.y.T]
        self.weight = torch.stack([weight for weight, _, _ in models], 1)
        self.bias = torch.stack([bias for _, bias, _ in models])
        self.alphas = [alpha for _, _, alpha in models]
        return self

    def predict(self, test: LabelledArrays) -> Tensor:
        """Predict the targets [N, K]."""
        return self.standardizer.transform(compute_summary_features(test)) @ self.weight + self.bias


def _fit_ridge_cv(x: Tensor, y: Tensor, groups: list[str] | None) -> tuple[Tensor, Tensor, float]:
    """Return weights [F], bias and alpha of one target [N]; rows where it is unknown are left out."""
    known = ~y.isnan()
    known_groups = select_groups(groups, known)
    x, y = x[known], y[known]
    if not len(y):
        return torch.zeros(x.shape[1], dtype=x.dtype), torch.zeros((), dtype=x.dtype), ALPHAS[0]
    errors = torch.zeros(len(ALPHAS), dtype=x.dtype)
    for held_out in make_fold_masks(torch.zeros_like(y, dtype=torch.long), known_groups):
        for i, (weight, bias) in enumerate(_fit_ridge_path(x[~held_out], y[~held_out], ALPHAS)):
            errors[i] += (x[held_out] @ weight + bias - y[held_out]).square().sum()
    alpha = ALPHAS[int(errors.argmin())]
    ((weight, bias),) = _fit_ridge_path(x, y, (alpha,))
    return weight, bias, alpha


def _fit_ridge_path(x: Tensor, y: Tensor, alphas: tuple[float, ...]) -> list[tuple[Tensor, Tensor]]:
    """Return weights and bias for each alpha: those that minimize the sum of squared errors + alpha |w|^2."""
    center, mean = x.mean(0), y.mean()
    left, sizes, right = torch.linalg.svd(x - center, full_matrices=False)
    projection = left.T @ (y - mean)
    weights = [right.T @ (projection * sizes / (sizes.square() + alpha)) for alpha in alphas]
    return [(weight, mean - center @ weight) for weight in weights]


class NearestNeighborLabels:
    """Predicts the labels of the nearest training series as logits of 1 or -1; an unknown label counts as absent."""

    def fit(self, train: LabelledArrays) -> NearestNeighborLabels:
        """Store the training series."""
        self.neighbor = NearestNeighbor().fit(train)
        return self

    def predict(self, test: LabelledArrays) -> Tensor:
        """Predict logits [N, K]."""
        return 2.0 * (self.neighbor.predict(test) == 1) - 1


class SummaryLogisticLabels:
    """A logistic regression per label on the features of `compute_summary_features`."""

    def fit(self, train: LabelledArrays) -> SummaryLogisticLabels:
        """Fit a model for each label, on the series for which it is known."""
        features = compute_summary_features(train)
        self.models: list[LogisticRegression | float] = []
        for y in train.y.T:
            known = y >= 0
            if len(y[known].unique()) < 2:
                is_present = bool(known.any()) and bool((y[known] == 1).all())
                self.models.append(UNLABELLED_LOGIT if is_present else -UNLABELLED_LOGIT)
                continue
            known_groups = select_groups(train.groups, known)
            self.models.append(LogisticRegression().fit(features[known], y[known], known_groups))
        return self

    def predict(self, test: LabelledArrays) -> Tensor:
        """Predict logits [N, K]."""
        features = compute_summary_features(test)
        columns = [
            torch.full((len(features),), model, dtype=torch.float64)
            if isinstance(model, float)
            else model.logits(features).diff(dim=1)[:, 0]
            for model in self.models
        ]
        return torch.stack(columns, 1)
