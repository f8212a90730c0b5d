"""Estimators for sktime that wrap those of `tstk.sklearn`, with sktime's containers of data.

    from tstk.estimators.sktime import SktimeForecaster
    from tstk.sklearn import SeriesForecaster
    SktimeForecaster(SeriesForecaster(context=48, head="forecast")).fit(y, fh=range(1, 13)).predict()

Options belong to the wrapped estimator; `set_params` sets them as `estimator__encoder__depth`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sktime.classification.base import BaseClassifier
from sktime.forecasting.base import BaseForecaster
from sktime.regression.base import BaseRegressor
from sktime.transformations.base import BaseTransformer

from tstk.estimators.frames import split_panel
from tstk.estimators.sklearn import SeriesClassifier, SeriesForecaster, SeriesRegressor, TokenEncoder
from tstk.estimators.wrapper import CAPABILITY_TAGS, TEST_PARAMS, Wrapper

__all__ = ["SktimeClassifier", "SktimeEncoder", "SktimeForecaster", "SktimeRegressor"]

PANEL_TAGS = {**CAPABILITY_TAGS, "X_inner_mtype": ["df-list", "numpy3D"]}


class SktimeWrapper(Wrapper):
    """`Wrapper` with parameters for sktime's own checks."""

    @classmethod
    def get_test_params(cls, parameter_set: str = "default") -> list[dict[str, Any]]:
        """Return the parameters of small estimators, for sktime's checks."""
        return [{"estimator": cls.wrapped_class(**TEST_PARAMS, length=length)} for length in (64, 100)]


class SktimeClassifier(SktimeWrapper, BaseClassifier):
    """Classifier of time series.

    Args:
        estimator: unfitted estimator to wrap; a `SeriesClassifier` with defaults if None

    Examples:
        >>> from sktime.datasets import load_unit_test
        >>> from tstk.estimators.sktime import SktimeClassifier
        >>> from tstk.sklearn import SeriesClassifier
        >>> X, y = load_unit_test("train")
        >>> classifier = SktimeClassifier(SeriesClassifier(encoder__depth=1, steps=5)).fit(X, y)
        >>> classifier.predict(X).shape
        (20,)
    """

    wrapped_class = SeriesClassifier
    _tags = {**PANEL_TAGS, "y_inner_mtype": "numpy1D", "capability:predict_proba": True}


class SktimeRegressor(SktimeWrapper, BaseRegressor):
    """Regressor of time series: one number per series.

    Args:
        estimator: unfitted estimator to wrap; a `SeriesRegressor` with defaults if None

    Examples:
        >>> from sktime.datasets import load_unit_test
        >>> from tstk.estimators.sktime import SktimeRegressor
        >>> from tstk.sklearn import SeriesRegressor
        >>> X, y = load_unit_test("train")
        >>> regressor = SktimeRegressor(SeriesRegressor(encoder__depth=1, steps=5)).fit(X, y.astype(float))
        >>> regressor.predict(X).shape
        (20,)
    """

    wrapped_class = SeriesRegressor
    _tags = {**PANEL_TAGS, "y_inner_mtype": "numpy1D"}


class SktimeEncoder(SktimeWrapper, BaseTransformer):
    """Self-supervised features of time series, one row per series.

    Args:
        estimator: unfitted estimator to wrap; a `TokenEncoder` with defaults if None

    Examples:
        >>> from sktime.datasets import load_unit_test
        >>> from tstk.estimators.sktime import SktimeEncoder
        >>> from tstk.sklearn import TokenEncoder
        >>> X, _ = load_unit_test("train")
        >>> SktimeEncoder(TokenEncoder(encoder__dim=16, encoder__depth=1, steps=5)).fit_transform(X).shape
        (20, 16)
    """

    wrapped_class = TokenEncoder
    _tags = {
        **PANEL_TAGS,
        "scitype:transform-input": "Series",
        "scitype:transform-output": "Primitives",
        "scitype:instancewise": False,
        "y_inner_mtype": "None",
        "fit_is_empty": False,
    }

    def _transform(self, X: Any, y: Any = None) -> Any:
        import pandas

        return pandas.DataFrame(super()._transform(X), columns=self.estimator_.get_feature_names_out())

    @classmethod
    def get_test_params(cls, parameter_set: str = "default") -> list[dict[str, Any]]:
        """Return the parameters of small estimators, for sktime's checks."""
        return [{"estimator": TokenEncoder(**TEST_PARAMS, length=n, val_fraction=0.0)} for n in (64, 100)]


class SktimeForecaster(BaseForecaster):
    """Forecaster of a series, of one or several variables, or of all series of a panel or hierarchy together.

    The forecasting horizon is given to `fit`, whose largest step is the horizon of the wrapped estimator. `update` with
    `update_params=False` forecasts from the new rows without training.

    Args:
        estimator: unfitted estimator to wrap; a `SeriesForecaster` with defaults if None

    Examples:
        >>> from sktime.datasets import load_airline
        >>> from tstk.estimators.sktime import SktimeForecaster
        >>> from tstk.sklearn import SeriesForecaster
        >>> y = load_airline()
        >>> forecaster = SktimeForecaster(SeriesForecaster(context=24, encoder__depth=1, steps=5))
        >>> forecaster.fit(y, fh=[1, 3]).predict().index.tolist()
        [Period('1961-01', 'M'), Period('1961-03', 'M')]
    """

    _tags = {
        "scitype:y": "both",
        "y_inner_mtype": ["pd.DataFrame", "pd-multiindex", "pd_multiindex_hier"],
        "X_inner_mtype": ["pd.DataFrame", "pd-multiindex", "pd_multiindex_hier"],
        "requires-fh-in-fit": True,
        "capability:exogenous": False,
        "capability:missing_values": True,
        "capability:insample": False,
        "python_dependencies": "torch",
    }

    def __init__(self, estimator: SeriesForecaster | None = None) -> None:
        self.estimator = estimator
        super().__init__()
        self.set_config(remember_data=True)  # forecasts begin at the last row, which `update` adds to

    def _fit(self, y: Any, X: Any = None, fh: Any = None) -> SktimeForecaster:
        steps = self._get_steps(fh)
        estimator = clone(self.estimator or SeriesForecaster()).set_params(horizon=int(steps.max()))
        self.estimator_ = estimator.fit(_to_table(y))
        return self

    def _predict(self, fh: Any, X: Any = None) -> Any:
        import pandas

        y, steps = self._y, self._get_steps(fh)
        forecast = self.estimator_.predict(_to_table(y))
        if y.index.nlevels == 1:
            return pandas.DataFrame(forecast[steps - 1], fh.to_absolute_index(self.cutoff), y.columns)
        numbers, names = pandas.factorize(y.index.droplevel(-1))
        relative, times = fh.to_relative(self.cutoff), y.index.get_level_values(-1)
        parts = {}
        for number, rows in split_panel(forecast).items():
            last = times[numbers == number][-1:]  # a series that ends early is continued from its own last row
            index = relative.to_absolute_index(last)
            parts[names[number]] = pandas.DataFrame(rows.to_numpy()[steps - 1], index, y.columns)
        return pandas.concat(parts, names=y.index.names)

    def _get_steps(self, fh: Any) -> NDArray[np.int64]:
        """Return the steps of a forecasting horizon after the last row, from 1."""
        return np.asarray(fh.to_relative(self.cutoff).to_numpy(), np.int64)

    @classmethod
    def get_test_params(cls, parameter_set: str = "default") -> list[dict[str, Any]]:
        """Return the parameters of small estimators, for sktime's checks."""
        return [{"estimator": SeriesForecaster(**TEST_PARAMS, context=context, val_fraction=0.4)} for context in (2, 3)]


def _to_table(y: Any) -> Any:
    """Return the rows of a series as an array, or those of a panel or hierarchy as a frame with its series numbered."""
    import pandas

    if y.index.nlevels == 1:
        return y.to_numpy(np.float64)
    numbers, times = pandas.factorize(y.index.droplevel(-1))[0], y.index.get_level_values(-1)
    return y.set_axis(pandas.MultiIndex.from_arrays([numbers, times], names=["series", "time"])).astype(np.float64)
