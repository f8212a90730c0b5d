"""Baselines of regression and of several labels, against scikit-learn and plain loops."""

import numpy as np
import torch
from sklearn.linear_model import Ridge

from tstk.evaluation.simple_classifiers import LabelledArrays, compute_summary_features
from tstk.evaluation.simple_regressors import (
    ALPHAS,
    NearestNeighborLabels,
    NearestNeighborRegressor,
    SummaryLogisticLabels,
    SummaryRidge,
)


def some_arrays(count, seed, y=None):
    x = torch.randn(count, 2, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return LabelledArrays(x, None, torch.full((count,), 12), x.mean(2) * 3 + 7 if y is None else y)


def test_ridge_is_scikit_learns_on_standardized_features_for_the_selected_alpha():
    train, test = some_arrays(40, 0), some_arrays(9, 1)
    ridge = SummaryRidge().fit(train)
    features = compute_summary_features(train).numpy()
    mean, std = features.mean(0), features.std(0)
    for k, alpha in enumerate(ridge.alphas):
        assert alpha in ALPHAS
        expected = Ridge(alpha).fit((features - mean) / std, train.y[:, k].numpy())
        new = (compute_summary_features(test).numpy() - mean) / std
        np.testing.assert_allclose(ridge.predict(test)[:, k], expected.predict(new))


def test_ridge_leaves_unknown_targets_out():
    train, test = some_arrays(40, 0), some_arrays(9, 1)
    train.y[30:, 1] = torch.nan
    ridge, features = SummaryRidge().fit(train), compute_summary_features(train).numpy()
    mean, std = features.mean(0), features.std(0)
    expected = Ridge(ridge.alphas[1]).fit(((features - mean) / std)[:30], train.y[:30, 1].numpy())
    new = (compute_summary_features(test).numpy() - mean) / std
    np.testing.assert_allclose(ridge.predict(test)[:, 1], expected.predict(new))


def test_the_nearest_neighbour_lends_its_targets_and_the_mean_where_they_are_unknown():
    train = some_arrays(20, 0)
    train.y[4, 1] = torch.nan
    predicted = NearestNeighborRegressor().fit(train).predict(train)
    expected = train.y.clone()
    expected[4, 1] = train.y[:, 1].nanmean()
    torch.testing.assert_close(predicted, expected)


def test_labels_are_learned_one_by_one_and_those_without_variation_are_constant():
    x = some_arrays(60, 0).x
    y = torch.stack([(x.mean((1, 2)) > 0).long(), torch.ones(60).long(), torch.zeros(60).long()], 1)
    y[:5, 0] = -1
    train = some_arrays(60, 0, y)
    logits = SummaryLogisticLabels().fit(train).predict(train)
    known = y[:, 0] >= 0
    assert ((logits[:, 0] > 0) == (y[:, 0] == 1))[known].double().mean() > 0.9
    assert (logits[:, 1] > 0).all()
    assert (logits[:, 2] < 0).all()
    assert NearestNeighborLabels().fit(train).predict(train)[5:].tolist() == (2.0 * y[5:] - 1).tolist()
