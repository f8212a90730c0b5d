"""Estimators for scikit-learn: `SeriesClassifier`, `SeriesRegressor`, `SeriesForecaster` and `TokenEncoder`."""

from tstk.estimators.sklearn import SeriesClassifier, SeriesForecaster, SeriesRegressor, TokenEncoder

__all__ = ["SeriesClassifier", "SeriesForecaster", "SeriesRegressor", "TokenEncoder"]
