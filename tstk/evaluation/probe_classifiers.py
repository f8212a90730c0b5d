"""Models that a probe fits on frozen features, each with the search for its hyperparameters."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from tstk.core.task import TargetType
from tstk.errors import DataError, OptionError
from tstk.evaluation.features import Features
from tstk.evaluation.simple_regressors import UNLABELLED_LOGIT

SelectOn = Literal["val", "folds", "test"]
Array = NDArray[Any]


@dataclass
class FeatureSet:
    """Features [N, W] and targets of a split: class indices [N], or numbers or labels [N, K]."""

    x: Array
    y: Array

    def subset(self, index: Array) -> FeatureSet:
        """Return the rows at `index`."""
        return FeatureSet(self.x[index], self.y[index])

    def select_label(self, k: int) -> FeatureSet:
        """Return the rows for which label `k` is known, with 0 or 1 as the class."""
        return FeatureSet(self.x, self.y[:, k]).subset(np.flatnonzero(self.y[:, k] >= 0))

    def __add__(self, other: FeatureSet) -> FeatureSet:
        return FeatureSet(np.concatenate([self.x, other.x]), np.concatenate([self.y, other.y]))


class ProbeClassifier:
    """Base class of the entries of kind `probe`.

    Args:
        param: hyperparameter to use instead of a search; None to search
        select_on: data that select the hyperparameters, as in `tstk.evaluation.probe.probe`
        features: kind of the features, likewise

    Raises:
        OptionError: the classifier does not support these options
    """

    target_types: ClassVar[tuple[TargetType, ...]] = ("class",)
    """Types of targets that it predicts."""
    is_random: ClassVar[bool] = False
    """Whether predictions depend on the seed."""
    param_description: ClassVar[str] = ""
    """What `param` must be, for messages; empty if there is no such hyperparameter."""

    def __init__(self, param: float | None = None, select_on: SelectOn = "val", features: Features = "pooled") -> None:
        if param is not None and not self.param_description:
            raise OptionError(f"param={param} has no effect: this classifier has no single hyperparameter")
        if param is not None and not self.is_valid_param(param):
            raise OptionError(f"param={param}: expected {self.param_description}")
        self.param, self.select_on, self.features = param, select_on, features

    def is_valid_param(self, param: float) -> bool:
        """Return whether the hyperparameter may have this value."""
        return param > 0

    def predict(
        self, train: FeatureSet, val: FeatureSet, test: FeatureSet, seed: int
    ) -> tuple[dict[str, float], Array]:
        """Select hyperparameters and refit on train and validation; return them and the predictions for test."""
        raise NotImplementedError


class GridSearchProbe(ProbeClassifier):
    """A classifier of scikit-learn on standardized features, with a grid search for its hyperparameters."""

    param_description = "C, a number above 0"

    def build_param_grid(self, width: int, rows: int) -> list[dict[str, float]]:
        """Return the hyperparameters to search, strongest regularization first; only `param` if it is given.

        Args:
            width: number of features
            rows: rows of the smallest set to fit on
        """
        raise NotImplementedError

    def build(self, params: dict[str, float]) -> Any:
        """Return the estimator."""
        raise NotImplementedError

    def fit(self, params: dict[str, float], rows: FeatureSet) -> Any:
        """Fit the estimator with these hyperparameters."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        with warnings.catch_warnings():
            # a fit that has not converged is validated like any other
            warnings.simplefilter("ignore", ConvergenceWarning)
            return make_pipeline(StandardScaler(), self.build(params)).fit(rows.x, rows.y)

    def predict(
        self, train: FeatureSet, val: FeatureSet, test: FeatureSet, seed: int
    ) -> tuple[dict[str, float], Array]:
        """Select the hyperparameters, refit on train and validation; return them and the predictions for test."""
        params = self.select(train, val, test)
        return params, self.apply(self.fit(params, train + val), test.x)

    def select(self, train: FeatureSet, val: FeatureSet, test: FeatureSet) -> dict[str, float]:
        """Return the hyperparameters with the best held-out predictions; ties go to the strongest penalty."""
        train_and_val = train + val
        folds = {"val": [(train, val)], "test": [(train_and_val, test)]}.get(self.select_on)
        folds = _make_folds(train_and_val) if folds is None else folds
        grid = self.build_param_grid(train.x.shape[1], min(len(fit.y) for fit, _ in folds))
        return grid[0] if len(grid) == 1 else grid[int(np.argmax([self._score_folds(p, folds) for p in grid]))]

    def apply(self, model: Any, x: Array) -> Array:
        """Return the predictions of a fitted estimator."""
        return np.asarray(model.predict(x))

    def score(self, predictions: Array, y: Array) -> float:
        """Return the score of held-out predictions, higher is better: the number that are correct."""
        return int((predictions == y).sum())

    def _score_folds(self, params: dict[str, float], folds: list[tuple[FeatureSet, FeatureSet]]) -> float:
        return sum(
            self.score(self.apply(self.fit(params, fit), held_out.x), held_out.y)
            for fit, held_out in folds
            if len(held_out.y)  # for some labels none may be known
        )


class LinearProbe(GridSearchProbe):
    """Logistic regression."""

    def build_param_grid(self, width: int, rows: int) -> list[dict[str, float]]:
        """Return values of C, the inverse L2 penalty."""
        return [{"C": c} for c in ((0.001, 0.01, 0.1, 1.0, 10.0) if self.param is None else (self.param,))]

    def build(self, params: dict[str, float]) -> Any:
        """Return the estimator."""
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(max_iter=1000, **params)


class MultilabelProbe(LinearProbe):
    """A logistic regression for each label, on the series for which it is known; predicts logits.

    C is selected for each label by the log loss, since the number of correct predictions hardly changes with the
    features of a rare label.
    """

    target_types = ("labels",)

    def predict(
        self, train: FeatureSet, val: FeatureSet, test: FeatureSet, seed: int
    ) -> tuple[dict[str, float], Array]:
        """Select C and refit for each label in turn; return `C of label K` and the logits [N, K] for test."""
        params: dict[str, float] = {}
        logits = []
        for k in range(train.y.shape[1]):
            label_train, label_val, label_test = (part.select_label(k) for part in (train, val, test))
            label_params = {"C": np.nan}
            if len(np.unique((label_train + label_val).y)) > 1:
                label_params = self.select(label_train, label_val, label_test)
                params |= {f"{name} of label {k + 1}": value for name, value in label_params.items()}
            logits.append(self.apply(self.fit(label_params, label_train + label_val), test.x))
        return params, np.stack(logits, 1)

    def fit(self, params: dict[str, float], rows: FeatureSet) -> Any:
        """Fit the estimator; return the logit itself, a constant, if no row has the label or all have it."""
        if len(np.unique(rows.y)) < 2:
            return UNLABELLED_LOGIT if rows.y.any() else -UNLABELLED_LOGIT
        return super().fit(params, rows)

    def apply(self, model: Any, x: Array) -> Array:
        """Return the logits [N]."""
        return np.full(len(x), model) if isinstance(model, float) else np.asarray(model.decision_function(x))

    def score(self, predictions: Array, y: Array) -> float:
        """Return the negative sum of log losses."""
        return -float(np.logaddexp(0, np.where(y == 1, -predictions, predictions)).sum())


class RidgeProbe(GridSearchProbe):
    """Ridge regression of standardized targets; series of which a target is unknown are left out of the fit."""

    target_types = ("numbers",)
    param_description = "alpha, a number above 0"

    def build_param_grid(self, width: int, rows: int) -> list[dict[str, float]]:
        """Return values of alpha, the L2 penalty."""
        return [{"alpha": a} for a in ((1000.0, 100.0, 10.0, 1.0, 0.1) if self.param is None else (self.param,))]

    def build(self, params: dict[str, float]) -> Any:
        """Return the estimator."""
        from sklearn.compose import TransformedTargetRegressor
        from sklearn.linear_model import Ridge
        from sklearn.preprocessing import StandardScaler

        return TransformedTargetRegressor(Ridge(**params), transformer=StandardScaler(), check_inverse=False)

    def fit(self, params: dict[str, float], rows: FeatureSet) -> Any:
        """Fit on the series whose targets are known.

        Raises:
            DataError: there are none
        """
        complete = np.flatnonzero(~np.isnan(rows.y).any(1))
        if not len(complete):
            raise DataError(
                f"none of {len(rows.y)} series to fit a ridge probe on has all {rows.y.shape[1]} targets; give data "
                "with more known targets with --data, or a larger --label-fraction"
            )
        return super().fit(params, rows.subset(complete))

    def score(self, predictions: Array, y: Array) -> float:
        """Return the negative sum of squared errors, each in units of its target's deviation."""
        deviation = np.nanstd(y, 0)
        return -float(np.nansum(((predictions - y) / np.where(deviation > 0, deviation, 1)) ** 2))


class KNNProbe(GridSearchProbe):
    """Nearest neighbours."""

    param_description = "a whole number of neighbours"

    def is_valid_param(self, param: float) -> bool:
        """Return whether this is a number of neighbours."""
        return param > 0 and param == int(param)

    def build_param_grid(self, width: int, rows: int) -> list[dict[str, float]]:
        """Return numbers of neighbours, at most `rows`."""
        counts = (15, 9, 5, 3, 1) if self.param is None else (int(self.param),)
        return [{"n_neighbors": k} for k in counts if k <= rows]

    def build(self, params: dict[str, float]) -> Any:
        """Return the estimator."""
        from sklearn.neighbors import KNeighborsClassifier

        return KNeighborsClassifier(**params)


class SVMProbe(GridSearchProbe):
    """Support vector machine with an RBF kernel."""

    def build_param_grid(self, width: int, rows: int) -> list[dict[str, float]]:
        """Return values of C, the inverse L2 penalty, and of gamma, the inverse squared width of the kernel."""
        if self.param is not None:
            return [{"C": self.param, "gamma": 1 / width}]
        return [{"C": c, "gamma": g / width} for c in (1.0, 10.0, 100.0) for g in (0.1, 1.0, 10.0)]

    def build(self, params: dict[str, float]) -> Any:
        """Return the estimator."""
        from sklearn.svm import SVC

        return SVC(**params)


def _make_folds(rows: FeatureSet) -> list[tuple[FeatureSet, FeatureSet]]:
    """Return (fit, held-out) rows of five stratified folds without shuffling, so that neighbouring rows stay together.

    There are fewer folds if even the largest class has fewer rows. Numbers are not stratified.
    """
    from sklearn.model_selection import KFold, StratifiedKFold

    if rows.y.ndim == 2:
        count = min(5, len(rows.y))
        splits = KFold(count).split(rows.x) if count > 1 else [(np.arange(len(rows.y)),) * 2]
        return [(rows.subset(fit), rows.subset(held_out)) for fit, held_out in splits]
    count = min(5, int(np.bincount(rows.y).max()))
    if count < 2:
        return [(rows, rows)]
    folds = StratifiedKFold(count)
    with warnings.catch_warnings():
        # a class with fewer rows than folds is missing from some of them
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        return [(rows.subset(fit), rows.subset(held_out)) for fit, held_out in folds.split(rows.x, rows.y)]
