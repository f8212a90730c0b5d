"""The baselines against their definitions."""

import pytest
import torch

from tstk.core.linear_map import get_last_value
from tstk.core.types import Series
from tstk.data.datasets import WindowDataset
from tstk.evaluation.baselines import estimate_period, score_majority_class, seasonal_naive


def table(rows, period):
    t = torch.arange(rows)
    noise = torch.randn(2, rows, generator=torch.Generator().manual_seed(0))
    return torch.stack([(t % period).float(), -2.0 * (t % period)]) + 0.1 * noise


@pytest.mark.parametrize("season", [3, 7, 24])
def test_the_period_of_a_seasonal_table_is_found(season):
    assert estimate_period(WindowDataset(table(400, season), 30, 11)) == season


def test_a_walk_has_no_season():
    walk = torch.randn(1, 600, generator=torch.Generator().manual_seed(1)).cumsum(1)
    assert estimate_period(WindowDataset(walk, 30, 5)) == 1


def test_a_season_is_repeated_from_its_start_for_as_long_as_is_asked():
    x = torch.arange(6.0).expand(1, 1, 6)
    series = Series(x, y=torch.zeros(1, 1, 5))
    assert seasonal_naive(series, 3).flatten().tolist() == [3, 4, 5, 3, 4]
    assert seasonal_naive(series, 1).flatten().tolist() == get_last_value(series).flatten().tolist() * 5


def test_what_was_not_observed_is_not_repeated():
    observed = torch.tensor([[[True, True, True, True, False, False]]])
    series = Series(torch.arange(6.0).expand(1, 1, 6), observed, y=torch.zeros(1, 1, 3))
    assert get_last_value(series).item() == 3
    assert seasonal_naive(series, 3).flatten().tolist() == [3, 3, 3]
    nothing = Series(torch.ones(1, 1, 4), torch.zeros(1, 1, 4, dtype=torch.bool), y=torch.zeros(1, 1, 2))
    assert get_last_value(nothing).item() == 0


def test_the_majority_is_that_of_training():
    scores = score_majority_class(torch.tensor([1, 5, 2]), torch.tensor([0, 1, 1, 2]))
    assert scores["majority class"]["accuracy"] == 0.5
