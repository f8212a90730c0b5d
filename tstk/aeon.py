"""Estimators for aeon: `AeonClassifier`, `AeonRegressor` and `AeonEncoder`."""

from tstk.estimators.aeon import AeonClassifier, AeonEncoder, AeonRegressor

__all__ = ["AeonClassifier", "AeonEncoder", "AeonRegressor"]
