"""Estimators for aeon that wrap those of `tstk.sklearn`: multivariate, unequal lengths, missing values.

    from tstk.aeon import AeonClassifier
    from tstk.sklearn import SeriesClassifier
    AeonClassifier(SeriesClassifier(encoder="bert", head="cot")).fit(X, y)

aeon allows no variadic constructor arguments, so options belong to the wrapped estimator; `set_params` sets them as
`estimator__encoder__depth`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from aeon.classification import BaseClassifier
from aeon.regression.base import BaseRegressor
from aeon.transformations.collection import BaseCollectionTransformer
from numpy.typing import NDArray
from sklearn.base import clone

from tstk.estimators.sklearn import SeriesClassifier, SeriesRegressor, TokenEncoder

__all__ = ["AeonClassifier", "AeonEncoder", "AeonRegressor"]

CAPABILITY_TAGS = {
    "X_inner_type": ["np-list", "numpy3D"],
    "capability:multivariate": True,
    "capability:unequal_length": True,
    "capability:missing_values": True,
    "capability:multithreading": False,
    "python_dependencies": "torch",
}
TEST_PARAMS: dict[str, Any] = {
    "tokenizer__dim": 8,
    "encoder__dim": 8,
    "encoder__depth": 1,
    "encoder__heads": 2,
    "steps": 2,
    "threads": 1,
    "length": 32,
}
"""Parameters of a small estimator for aeon's own checks, in which series to predict may be longer than those to fit."""


class AeonClassifier(BaseClassifier):
    """Classifier of time series.

    Args:
        estimator: unfitted estimator to wrap; a `SeriesClassifier` with defaults if None
    """

    _tags = {**CAPABILITY_TAGS, "algorithm_type": "deeplearning"}

    def __init__(self, estimator: SeriesClassifier | None = None) -> None:
        self.estimator = estimator
        super().__init__()

    def _fit(self, X: Any, y: NDArray[Any]) -> AeonClassifier:
        self.estimator_ = clone(self.estimator or SeriesClassifier()).fit(X, y)
        return self

    def _predict(self, X: Any) -> NDArray[Any]:
        return self.estimator_.predict(X)

    def _predict_proba(self, X: Any) -> NDArray[np.float64]:
        return self.estimator_.predict_proba(X)

    @classmethod
    def _get_test_params(cls, parameter_set: str = "default") -> dict[str, Any]:
        return {"estimator": SeriesClassifier(**TEST_PARAMS, device="cpu")}


class AeonRegressor(BaseRegressor):
    """Regressor of time series: one number per series.

    Args:
        estimator: unfitted estimator to wrap; a `SeriesRegressor` with defaults if None
    """

    _tags = {**CAPABILITY_TAGS, "algorithm_type": "deeplearning"}

    def __init__(self, estimator: SeriesRegressor | None = None) -> None:
        self.estimator = estimator
        super().__init__()

    def _fit(self, X: Any, y: NDArray[Any]) -> AeonRegressor:
        self.estimator_ = clone(self.estimator or SeriesRegressor()).fit(X, y)
        return self

    def _predict(self, X: Any) -> NDArray[Any]:
        return self.estimator_.predict(X)

    @classmethod
    def _get_test_params(cls, parameter_set: str = "default") -> dict[str, Any]:
        return {"estimator": SeriesRegressor(**TEST_PARAMS, device="cpu")}


class AeonEncoder(BaseCollectionTransformer):
    """Self-supervised features of time series, one vector per series.

    Args:
        estimator: unfitted estimator to wrap; a `TokenEncoder` with defaults if None
    """

    _tags = {**CAPABILITY_TAGS, "output_data_type": "Tabular"}

    def __init__(self, estimator: TokenEncoder | None = None) -> None:
        self.estimator = estimator
        super().__init__()

    def _fit(self, X: Any, y: Any = None) -> AeonEncoder:
        self.estimator_ = clone(self.estimator or TokenEncoder()).fit(X)
        return self

    def _transform(self, X: Any, y: Any = None) -> NDArray[np.float32]:
        return self.estimator_.transform(X)

    @classmethod
    def _get_test_params(cls, parameter_set: str = "default") -> dict[str, Any]:
        return {"estimator": TokenEncoder(**TEST_PARAMS, device="cpu")}
