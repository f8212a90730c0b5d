"""The estimators for sktime pass its checks; skipped where sktime is not installed."""

import numpy as np
import pytest

pytest.importorskip("sktime", reason="pip install sktime, in an environment of its own")

from sktime.utils.estimator_checks import check_estimator

import tstk.estimators.sktime
from tstk.sklearn import SeriesForecaster

TINY = {"tokenizer__dim": 8, "encoder__dim": 8, "encoder__depth": 1, "encoder__heads": 2, "steps": 2, "device": "cpu"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", tstk.estimators.sktime.__all__)
def test_sktimes_checks_pass_without_exception(name):
    results = check_estimator(getattr(tstk.estimators.sktime, name), verbose=False)
    assert len(results) > 100
    assert {check: result for check, result in results.items() if result != "PASSED"} == {}


def test_a_forecast_has_the_requested_steps_and_goes_on_from_new_rows():
    import pandas

    days = pandas.period_range("2024-01", periods=70, freq="M")
    y = pandas.Series(np.sin(np.arange(70) / 3), days, name="load")
    forecaster = tstk.estimators.sktime.SktimeForecaster(SeriesForecaster(context=12, **TINY)).fit(y[:60], fh=[1, 4])
    forecast = forecaster.predict()
    assert forecast.index.equals(days[[60, 63]])
    assert forecaster.estimator_.horizon == 4
    later = forecaster.update(y[60:], update_params=False).predict()
    assert later.index[0] == days[-1] + 1
    expected = forecaster.estimator_.predict(y.to_numpy()[:, None])
    np.testing.assert_allclose(later.to_numpy(), expected[[0, 3], 0])


@pytest.mark.parametrize("levels", [("shop",), ("town", "shop")])
def test_the_series_of_a_panel_or_hierarchy_train_one_forecaster(levels):
    import pandas

    months = pandas.period_range("2024-01", periods=40, freq="M", name="month")
    names = [("north", "a"), ("north", "b"), ("south", "a")] if len(levels) == 2 else ["b", "a"]
    series = {n: pandas.DataFrame({"sales": np.sin(np.arange(40) / 3) + i}, months) for i, n in enumerate(names)}
    y = pandas.concat(series, names=levels)
    forecaster = tstk.estimators.sktime.SktimeForecaster(SeriesForecaster(context=12, **TINY)).fit(y, fh=[1, 3])
    forecast = forecaster.predict()
    assert not hasattr(forecaster, "forecasters_"), "sktime trained one for each series"
    assert list(forecast.index.names) == [*levels, "month"]
    for name in names:
        rows = forecast.loc[name]
        assert list(rows.index) == [months[-1] + 1, months[-1] + 3]
        expected = forecaster.estimator_.predict(series[name].to_numpy())
        np.testing.assert_allclose(rows.to_numpy(), expected[[0, 2]], rtol=1e-3, atol=1e-5)
    shorter = y.drop(index=(*np.atleast_1d(names[0]), months[-1]))
    forecast = forecaster.fit(shorter, fh=[1, 3]).predict()
    assert list(forecast.loc[names[0]].index) == [months[-1], months[-1] + 2], "it goes on from its own end"
    assert list(forecast.loc[names[1]].index) == [months[-1] + 1, months[-1] + 3]
