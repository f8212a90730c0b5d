"""Baselines and hidden samples of imputation."""

import numpy as np
import pytest

from tstk.evaluation.imputation import BASELINES, hide_samples, score_imputation

NAN = np.nan


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mean", [3, 1, 3, 3, 5, 3]),
        ("last value", [1, 1, 1, 1, 5, 5]),
        ("linear interpolation", [1, 1, 7 / 3, 11 / 3, 5, 5]),
    ],
)
def test_baselines_fill_gaps_and_ends_from_observed_samples(name, expected):
    x = np.array([[NAN, 1, NAN, NAN, 5, NAN], [NAN] * 6])
    filled = BASELINES[name](x)
    np.testing.assert_allclose(filled[0], expected)
    assert np.isnan(filled[1]).all()


def test_random_samples_are_hidden_per_channel_and_blocks_in_all_channels():
    observed = np.ones((2, 3, 400), dtype=bool)
    observed[0, 0, :200] = False
    random, block = (hide_samples(observed, 0.25, p, 10, np.random.default_rng(0)) for p in ("random", "block"))
    assert not (random & ~observed).any()
    assert random[1].mean() == pytest.approx(0.25, abs=0.05)
    assert (random[1, 0] != random[1, 1]).any()
    assert block[1].mean() == 0.25
    assert (block[1] == block[1, :1]).all()
    assert (block[1, 0].reshape(-1, 10).all(1) == block[1, 0].reshape(-1, 10).any(1)).all()


def test_methods_are_compared_at_the_samples_that_the_model_fills():
    x = np.random.default_rng(0).normal(size=(1, 2, 200))

    def fill_the_first_channel(given):
        filled = np.where(np.isnan(given), x + 0.5, given)
        filled[:, 1] = np.where(np.isnan(given[:, 1]), NAN, given[:, 1])
        return filled

    rows = score_imputation(x, fill_the_first_channel, block=10)
    model = [row for row in rows if row["method"] == "model"]
    assert all(row["mae"] == pytest.approx(0.5) and row["rmse"] == pytest.approx(0.5) for row in model)
    assert [row["count"] for row in rows if row["method"] == "mean"] == [row["count"] for row in model]
    assert all(row["unfilled"] > 0 for row in model)
