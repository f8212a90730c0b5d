"""The linear map equals ridge regression on explicit windows, and its settings are the best on validation."""

from itertools import product

import numpy as np
import pytest
import torch

from tstk.core.types import Spec
from tstk.data.datasets import WindowDataset
from tstk.evaluation import linear_forecast
from tstk.evaluation.linear_forecast import (
    LEVELS,
    RIDGES,
    compute_window_gram,
    fit_linear_map,
    why_linear_map_too_large,
)

CONTEXT, HORIZON = 7, 3


def random_walk(channels, rows, seed=0):
    return torch.randn(channels, rows, generator=torch.Generator().manual_seed(seed)).cumsum(1)


def parts(table, cut):
    return WindowDataset(table[:, :cut], CONTEXT, HORIZON), WindowDataset(table[:, cut - CONTEXT :], CONTEXT, HORIZON)


def solve_directly(train, val, std):
    """Return (validation error, level, shared or own, forecast) of every setting, by numpy's least squares."""

    def pair(part, level):
        rows = (part.table.unfold(1, CONTEXT + HORIZON, 1) / std[:, :, None]).double().numpy()
        x, y = rows[..., :CONTEXT], rows[..., CONTEXT:]
        offset = x[..., -1:] if level == "last value" else x.mean(-1, keepdims=True)
        return x - offset, y - offset, offset

    result = []
    for level, own in product(LEVELS, (False, True)):
        (x, y, _), (vx, vy, offset) = pair(train, level), pair(val, level)
        groups = [[c] for c in range(len(x))] if own else [list(range(len(x)))]
        predictions = np.empty_like(vy)
        for g in groups:
            px, py = x[g].reshape(-1, CONTEXT), y[g].reshape(-1, HORIZON)
            scale = np.trace(px.T @ px) / CONTEXT
            best = None
            for ridge in RIDGES.numpy():
                more = np.concatenate([px, np.sqrt(ridge * scale) * np.eye(CONTEXT)])
                matrix = np.linalg.lstsq(more, np.concatenate([py, np.zeros((CONTEXT, HORIZON))]), rcond=None)[0]
                error = np.square(vx[g] @ matrix - vy[g]).sum()
                if best is None or error < best[0]:
                    best = error, matrix
            predictions[g] = vx[g] @ best[1]
        error = np.square(predictions - vy).mean()
        result.append((error, level, own, (predictions + offset) * std[:, :, None].numpy()))
    return result


@pytest.mark.slow
def test_sums_over_windows_are_those_of_the_windows_written_out():
    for rows in (5, 9, 64):
        table = random_walk(1, rows)[0].double()
        windows = table.unfold(0, 5, 1)
        torch.testing.assert_close(compute_window_gram(table, 5), windows.T @ windows, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_the_map_is_the_best_on_validation_of_all_ridge_regressions(seed):
    table = random_walk(3, 120, seed) * torch.tensor([[1.0], [20.0], [0.3]]) + 5
    table[0] += 4 * torch.sin(torch.arange(120.0))
    std = torch.tensor([[1.0], [20.0], [0.3]])
    train, val = parts(table, 80)
    choices = solve_directly(train, val, std)
    best = min(choices, key=lambda one: one[0])
    result = fit_linear_map(train, val, std)
    assert result.val_mse == pytest.approx(best[0], rel=1e-6)
    assert f"relative to the {best[1]}," in result.description
    assert result.description.startswith("a map for each channel" if best[2] else "one map for all channels")
    forecast = result.forecaster(val.batch(torch.arange(len(val))))
    torch.testing.assert_close(forecast.transpose(0, 1).double(), torch.from_numpy(best[3]), rtol=1e-4, atol=1e-4)


def test_channels_that_follow_different_rules_get_maps_of_their_own():
    time = torch.arange(300.0)
    table = torch.stack([torch.sin(time / 2), torch.sin(time / 9) * (1 + 0.2 * torch.sin(time))])
    table += 0.01 * torch.randn(2, 300, generator=torch.Generator().manual_seed(0))
    assert fit_linear_map(*parts(table, 200), torch.ones(2, 1)).description.startswith("a map for each channel")


def test_a_map_follows_level_and_scale_of_the_context():
    table = torch.sin(torch.arange(200.0) / 4)[None] + 3
    train, val = parts(table, 150)
    answer = fit_linear_map(train, val, torch.ones(1, 1)).forecaster
    series = val.batch(torch.arange(len(val)))
    torch.testing.assert_close(answer(series), series.y, atol=1e-2, rtol=0)
    moved = series.replace(x=series.x * 30 + 500)
    torch.testing.assert_close(answer(moved), answer(series) * 30 + 500, rtol=1e-4, atol=1e-2)


def test_noise_is_forecast_by_its_mean():
    noise = torch.randn(1, 400, generator=torch.Generator().manual_seed(3))
    result = fit_linear_map(*parts(noise, 300), torch.ones(1, 1))
    assert "relative to the mean" in result.description
    assert result.forecaster.matrix.abs().max() < 0.2


def test_a_table_with_missing_samples_or_none_at_all_gets_finite_forecasts():
    table = torch.sin(torch.arange(200.0) / 4).repeat(2, 1)
    table[0, 0] = table[0, 50] = table[0, 120:123] = table[0, -1] = torch.nan
    table[1] = torch.nan
    train, val = parts(table, 150)
    answer = fit_linear_map(train, val, torch.ones(2, 1)).forecaster
    assert answer(train.batch(torch.arange(len(train)))).isfinite().all()
    whole = table[:1].clone()
    whole[0] = torch.sin(torch.arange(200.0) / 4)
    series = WindowDataset(whole, CONTEXT, HORIZON).batch(torch.arange(100, 110))
    torch.testing.assert_close(answer(series.replace(x=series.x.repeat(1, 2, 1)))[:, :1], series.y, atol=0.1, rtol=0)


def test_a_stride_of_the_training_windows_changes_nothing():
    table = random_walk(2, 150)
    train, val = parts(table, 100)
    sparse = WindowDataset(train.table, CONTEXT, HORIZON, 5)
    std = torch.ones(2, 1)
    assert torch.equal(*(fit_linear_map(part, val, std).forecaster.matrix for part in (sparse, train)))


def test_a_map_that_would_take_too_long_is_refused_with_the_reason(monkeypatch):
    spec = Spec(channels=2, length=7, task="forecasting", horizon=3)
    assert why_linear_map_too_large(spec) == ""
    monkeypatch.setattr(linear_forecast, "MAX_SHARED_COST", 199)
    assert why_linear_map_too_large(spec) == "channels x (context + horizon)^2 is 2.0e+02, more than 2e+02"


def test_many_channels_share_one_map(monkeypatch):
    time = torch.arange(300.0)
    table = torch.stack([torch.sin(time / 2), torch.sin(time / 9) * (1 + 0.2 * torch.sin(time))])
    monkeypatch.setattr(linear_forecast, "MAX_PER_CHANNEL_COST", 10)
    assert fit_linear_map(*parts(table, 200), torch.ones(2, 1)).description.startswith("one map for all channels")
