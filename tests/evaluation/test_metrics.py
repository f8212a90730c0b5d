"""Scores of forecasts against plain loops."""

import numpy as np
import pytest
import torch

from tstk.evaluation.metrics import ForecastMetrics, crps


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_scores_are_those_of_plain_loops_whatever_the_batches():
    mean, std = torch.tensor([[2.0], [-1.0]]), torch.tensor([[3.0], [0.5]])
    predictions, targets, past = random(6, 2, 4), random(6, 2, 4, seed=1), random(6, 2, 9, seed=2)
    targets[1, 0, 2] = past[3, 1, 4] = torch.nan
    metrics = ForecastMetrics(mean, std)
    for rows in (slice(0, 1), slice(1, 6)):
        metrics.update(predictions[rows], targets[rows], past[rows])
    result = metrics.compute()
    g, t, p = (x.double().numpy() for x in (predictions, targets, past))
    error = np.abs(g - t)
    assert result["mse"] == pytest.approx(np.nanmean(error**2))
    assert result["mae"] == pytest.approx(np.nanmean(error))
    raw = [x * std.numpy() + mean.numpy() for x in (g, t)]
    assert result["smape"] == pytest.approx(np.nanmean(200 * abs(raw[0] - raw[1]) / (abs(raw[0]) + abs(raw[1]))), 1e-5)
    step = np.nanmean(abs(np.diff(p)), (0, 2))
    assert result["mase"] == pytest.approx((np.nanmean(error, (0, 2)) / step).mean())
    assert "crps" not in result


def test_crps_is_the_mean_distance_less_half_the_spread():
    draws, targets = random(7, 2, 3), random(2, 3, seed=1)
    near = (draws - targets).abs().mean(0)
    spread = (draws[:, None] - draws[None]).abs().mean((0, 1))
    torch.testing.assert_close(crps(draws, targets), (near - spread / 2).double())
    torch.testing.assert_close(crps(targets[None] + 1, targets), torch.ones(2, 3).double())


def test_a_context_that_does_not_move_has_no_mase_and_an_unknown_future_no_score():
    metrics = ForecastMetrics(torch.zeros(1, 1), torch.ones(1, 1))
    metrics.update(random(2, 1, 3), random(2, 1, 3, seed=1), torch.ones(2, 1, 5))
    assert "mase" not in metrics.compute()
    metrics = ForecastMetrics(torch.zeros(1, 1), torch.ones(1, 1))
    metrics.update(random(2, 1, 3), torch.full((2, 1, 3), torch.nan), torch.ones(2, 1, 5))
    assert metrics.compute() == {}
