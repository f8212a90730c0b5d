"""Estimators for aeon: `AeonClassifier` and `AeonEncoder`."""

from tstk.estimators.aeon import AeonClassifier, AeonEncoder

__all__ = ["AeonClassifier", "AeonEncoder"]
