"""Estimators for scikit-learn: `SeriesClassifier`, `SeriesForecaster` and `TokenEncoder`."""

from tstk.estimators.sklearn import SeriesClassifier, SeriesForecaster, TokenEncoder

__all__ = ["SeriesClassifier", "SeriesForecaster", "TokenEncoder"]
