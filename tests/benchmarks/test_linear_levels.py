"""The maps of `benchmarks.linear_levels`, beside the linear map that tstk fits and forecasts of every window."""

import numpy as np
import pytest
import torch

from benchmarks.linear_levels import MAPS, compute_squared_errors, measure
from tstk.data.config import DataConfig
from tstk.data.load import load_data
from tstk.evaluation.linear_forecast import compute_window_gram, fit_linear_map


@pytest.fixture
def table(tmp_path):
    """A csv file of two channels: a wave with a level that drifts, and noise."""
    rng = np.random.default_rng(0)
    time = np.arange(400)
    columns = np.stack([np.sin(time / 3) + np.cumsum(rng.normal(size=400)) / 10, rng.normal(size=400)], 1)
    path = tmp_path / "table.csv"
    np.savetxt(path, columns, delimiter=",", header="a,b", comments="", fmt="%.6f")
    return str(path)


def test_the_map_that_follows_the_level_has_the_validation_error_of_the_fitted_linear_map(table):
    module = load_data(table, DataConfig(context=12, horizon=4))
    fit = fit_linear_map(module.train, module.val, module.std[:, None])
    scores = measure(table, 12, 4, None)
    assert scores.keys() == MAPS.keys()
    if "last value" in fit.description:
        assert scores["follows"][0] == pytest.approx(fit.val_mse, rel=1e-6)
    else:
        assert scores["follows"][0] > fit.val_mse
    assert len({pair[1] for pair in scores.values()}) == 3


def test_squared_errors_are_those_of_forecasting_every_window():
    torch.manual_seed(0)
    rows, operator = torch.randn(2, 30).double(), torch.randn(2, 5, 3).double()
    grams = torch.stack([compute_window_gram(row, 8) for row in rows])[:, None]
    windows = rows.unfold(1, 8, 1)
    expected = ((windows[..., :5] @ operator - windows[..., 5:]) ** 2).sum()
    assert compute_squared_errors(grams, operator) == pytest.approx([float(expected)])
