"""Estimators keep samples apart whose level is large beside their variation."""

import numpy as np
import pytest

from tstk.estimators.sklearn import SeriesClassifier, SeriesForecaster

LEVEL = 1e8
SMALL = {"tokenizer__dim": 8, "encoder__dim": 8, "encoder__depth": 1, "encoder__heads": 2, "device": "cpu"}


@pytest.mark.slow
def test_a_level_does_not_change_a_classifier():
    rng, y = np.random.default_rng(0), np.arange(24) % 2
    X = np.sin(np.arange(20) * (0.4 + 0.6 * y[:, None])) + 0.1 * rng.normal(size=(24, 20))
    low, high = (SeriesClassifier(steps=20, **SMALL).fit(x, y).predict_proba(x) for x in (X, X + LEVEL))
    np.testing.assert_allclose(high, low, atol=1e-3)


@pytest.mark.slow
def test_forecasts_of_a_table_at_a_high_level_are_in_its_units():
    table = np.sin(np.arange(120) / 3)[:, None]
    low, high = (
        SeriesForecaster(context=20, horizon=5, steps=5, **SMALL).fit(x).predict() for x in (table, table + LEVEL)
    )
    np.testing.assert_allclose(high - LEVEL, low, atol=1e-3)


def test_a_value_beyond_float32_is_refused():
    X = np.ones((4, 1, 8))
    X[1, 0, 2] = 1e300
    with pytest.raises(ValueError, match="infinity or a value too large for float32"):
        SeriesClassifier(steps=1).fit(X, [0, 1, 0, 1])
