"""Estimators for aeon that wrap those of `tstk.sklearn`: multivariate, unequal lengths, missing values.

    from tstk.aeon import AeonClassifier
    from tstk.sklearn import SeriesClassifier
    AeonClassifier(SeriesClassifier(encoder="bert", head="cot")).fit(X, y)

aeon allows no variadic constructor arguments, so options belong to the wrapped estimator; `set_params` sets them as
`estimator__encoder__depth`.
"""

from __future__ import annotations

from typing import Any

from aeon.classification import BaseClassifier
from aeon.regression.base import BaseRegressor
from aeon.transformations.collection import BaseCollectionTransformer

from tstk.estimators.sklearn import SeriesClassifier, SeriesRegressor, TokenEncoder
from tstk.estimators.wrapper import CAPABILITY_TAGS, TEST_PARAMS, Wrapper

__all__ = ["AeonClassifier", "AeonEncoder", "AeonRegressor"]

AEON_TAGS = {**CAPABILITY_TAGS, "X_inner_type": ["np-list", "numpy3D"], "capability:multithreading": False}


class AeonWrapper(Wrapper):
    """`Wrapper` with parameters for aeon's own checks, in which series to predict may be longer than those to fit."""

    @classmethod
    def _get_test_params(cls, parameter_set: str = "default") -> dict[str, Any]:
        return {"estimator": cls.wrapped_class(**TEST_PARAMS, length=32)}


class AeonClassifier(AeonWrapper, BaseClassifier):
    """Classifier of time series.

    Args:
        estimator: unfitted estimator to wrap; a `SeriesClassifier` with defaults if None
    """

    wrapped_class = SeriesClassifier
    _tags = {**AEON_TAGS, "algorithm_type": "deeplearning"}


class AeonRegressor(AeonWrapper, BaseRegressor):
    """Regressor of time series: one number per series.

    Args:
        estimator: unfitted estimator to wrap; a `SeriesRegressor` with defaults if None
    """

    wrapped_class = SeriesRegressor
    _tags = {**AEON_TAGS, "algorithm_type": "deeplearning"}


class AeonEncoder(AeonWrapper, BaseCollectionTransformer):
    """Self-supervised features of time series, one vector per series.

    Args:
        estimator: unfitted estimator to wrap; a `TokenEncoder` with defaults if None
    """

    wrapped_class = TokenEncoder
    _tags = {**AEON_TAGS, "output_data_type": "Tabular"}
