"""Multinomial logistic regression: a baseline, and the initial weights of a linear head.

Written in torch, so that training does not have to import scikit-learn or scipy; deterministic.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from tstk.nn.standardize import Standardizer

NUM_FOLDS = 5
LBFGS_MEMORY, MAX_LBFGS_STEPS = 10, 500
"""Steps whose gradient changes are kept, and steps at most."""
SINGLE_FOLD_ABOVE = 1000
"""Number of training series above which a single fold is held out instead of five."""
C_VALUES = (0.01, 0.1, 1.0, 10.0)
"""Values of C, the inverse L2 penalty, strongest regularization first."""


class LogisticRegression:
    """Multinomial logistic regression on features standardized with the training statistics.

    C is selected among `C_VALUES` by five-fold cross-validation on the training series, stratified by class without
    shuffling, or grouped if series have groups. With more than `SINGLE_FOLD_ABOVE` series only the first fold is held
    out. Ties go to the strongest penalty.
    """

    def fit(self, features: Tensor, y: Tensor, groups: list[str] | None = None) -> LogisticRegression:
        """Standardize the features, select C, and fit.

        Args:
            features: [N, F] float64, NaN where unknown
            y: [N] class index
            groups: N names; rows of one group stay in the same fold
        """
        self.standardizer = Standardizer(features)
        x = self.standardizer.transform(features)
        folds = make_fold_masks(y, groups)[: 1 if len(x) > SINGLE_FOLD_ABOVE else None]
        num_correct = torch.zeros(len(C_VALUES))
        for held_out in folds:
            path = fit_logistic_path(x[~held_out], y[~held_out], C_VALUES, tolerance=1e-3)
            num_correct += torch.stack([(model.predict(x[held_out]) == y[held_out]).sum() for model in path])
        self.C = C_VALUES[int(num_correct.argmax())] if folds else 1.0
        (self.model,) = fit_logistic_path(x, y, (self.C,))
        return self

    def predict(self, features: Tensor) -> Tensor:
        """Predict the class index [N] from features [N, F]."""
        return self.model.predict(self.standardizer.transform(features))

    def logits(self, features: Tensor) -> Tensor:
        """Return logits [N, K] for features [N, F]; columns are the classes that occur in training, in order."""
        return self.model.logits(self.standardizer.transform(features))


def make_fold_masks(y: Tensor, groups: list[str] | None) -> list[Tensor]:
    """Return one mask [N] of held-out series per fold; an empty list if no split is possible."""
    names = sorted(set(groups or ()))
    if groups is not None and len(names) > 1:
        sizes, fold_sizes = Counter(groups), [0] * min(NUM_FOLDS, len(names))
        fold_of: dict[str, int] = {}
        for name in sorted(names, key=lambda n: -sizes[n]):
            fold_of[name] = fold_sizes.index(min(fold_sizes))
            fold_sizes[fold_of[name]] += sizes[name]
        group_folds = torch.tensor([fold_of[name] for name in groups])
        masks = [group_folds == fold for fold in range(len(fold_sizes))]
    else:
        fold_index = torch.empty_like(y)
        num_class_folds = min(NUM_FOLDS, int(torch.bincount(y).max()))
        for label in y.unique():
            rows = (y == label).nonzero().flatten()
            fold_index[rows] = torch.arange(len(rows)) * num_class_folds // len(rows)
        masks = [fold_index == fold for fold in range(num_class_folds)] if num_class_folds > 1 else []
    return [mask for mask in masks if 0 < int(mask.sum()) < len(y)]


@dataclass(frozen=True, repr=False)
class LinearModel:
    """Linear classifier.

    Args:
        weight: [F, K]
        bias: [K]
        classes: [K] class index of each column
    """

    weight: Tensor
    bias: Tensor
    classes: Tensor

    def logits(self, x: Tensor) -> Tensor:
        """Return logits [N, K] for features [N, F]."""
        return x @ self.weight + self.bias

    def predict(self, x: Tensor) -> Tensor:
        """Predict the class index [N] from features [N, F]."""
        return self.classes[self.logits(x).argmax(1)]


def fit_logistic_path(x: Tensor, y: Tensor, c_values: Sequence[float], *, tolerance: float = 1e-4) -> list[LinearModel]:
    """Fit a multinomial logistic regression for each C, minimizing summed cross-entropy + |W|^2 / (2 C).

    The objective is scikit-learn's (the intercept is not penalized).

    Args:
        x: [N, F] float64, standardized
        y: [N] class index; classes that do not occur are never predicted
        c_values: values of C; each fit starts from the solution of the previous one
        tolerance: stop when the largest absolute derivative, divided by N, is at most this
    """
    classes, target = y.unique(return_inverse=True)
    onehot = F.one_hot(target, len(classes)).double()
    center = x.mean(0)
    # in the basis of singular vectors, the curvature is at most half the squared singular values (Boehning 1992)
    _, sizes, basis = torch.linalg.svd(x - center, full_matrices=False)
    inputs = torch.cat([(x - center) @ basis.T, torch.ones(len(x), 1, dtype=x.dtype)], 1)
    weights = torch.zeros(inputs.shape[1], len(classes), dtype=x.dtype)
    models = []
    for c_value in c_values:
        penalty = torch.full((len(weights), 1), 1 / c_value, dtype=x.dtype)
        penalty[-1] = 0  # the intercept is not penalized

        def loss(weights: Tensor, penalty: Tensor = penalty) -> tuple[Tensor, Tensor]:
            logits = inputs @ weights
            value = (logits.logsumexp(1) - (logits * onehot).sum(1)).sum() + (penalty * weights.square()).sum() / 2
            return value, inputs.T @ (logits.softmax(1) - onehot) + penalty * weights

        curvature = torch.cat([sizes.square(), torch.tensor([float(len(x))], dtype=x.dtype)])[:, None] / 2 + penalty
        weights = minimize_lbfgs(loss, weights, 1 / curvature, tolerance * len(x))
        weight = basis.T @ weights[:-1]
        models.append(LinearModel(weight, weights[-1] - center @ weight, classes))
    return models


def minimize_lbfgs(
    loss: Callable[[Tensor], tuple[Tensor, Tensor]], start: Tensor, inverse_curvature: Tensor, tolerance: float
) -> Tensor:
    """Minimize a convex function by L-BFGS (Nocedal and Wright 2006, algorithm 7.5) with backtracking line search.

    Unlike `torch.optim.LBFGS`, does not import torch's compiler.

    Args:
        loss: maps a point to its value and gradient
        start: initial point
        inverse_curvature: initial estimate of the diagonal of the inverse Hessian
        tolerance: stop when no absolute derivative is larger

    Returns:
        the last point
    """
    point, (value, gradient) = start, loss(start)
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []
    for _ in range(MAX_LBFGS_STEPS):
        if gradient.abs().max() <= tolerance:
            break
        direction, factors = gradient, []
        for step, change, curvature in reversed(pairs):
            factors.append((step * direction).sum() / curvature)
            direction = direction - factors[-1] * change
        direction = direction * inverse_curvature
        for step, change, curvature in pairs:
            direction = direction + (factors.pop() - (change * direction).sum() / curvature) * step
        slope, size = (direction * gradient).sum(), 1.0
        while True:
            moved = point - size * direction
            new_value, new_gradient = loss(moved)
            if new_value <= value - 1e-4 * size * slope:
                break
            size /= 2
            if size < 1e-10:  # rounding hides any further descent
                return point
        step, change = moved - point, new_gradient - gradient
        if (curvature := (step * change).sum()) > 0:
            pairs = [*pairs[1 - LBFGS_MEMORY :], (step, change, curvature)]
        point, value, gradient = moved, new_value, new_gradient
    return point
