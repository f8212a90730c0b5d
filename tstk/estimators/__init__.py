"""Estimators for scikit-learn and aeon."""
