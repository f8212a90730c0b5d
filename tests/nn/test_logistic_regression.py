"""Logistic regression: scikit-learn's solutions, absent classes, and folds."""

import numpy as np
import pytest
import torch

from tstk.nn.logistic_regression import fit_logistic_path, make_fold_masks


@pytest.mark.parametrize(("rows", "width", "classes"), [(60, 5, 3), (30, 50, 2), (200, 8, 5)])
def test_the_logistic_regression_is_that_of_scikit_learn(rows, width, classes):
    from sklearn.linear_model import LogisticRegression

    draw = np.random.default_rng(rows)
    x, y = draw.normal(size=(rows, width)), draw.integers(0, classes, rows)
    x[:, 0] += y
    new = draw.normal(size=(100, width))
    c_values = (0.01, 1.0, 10.0)
    models = fit_logistic_path(torch.from_numpy(x), torch.from_numpy(y), c_values, tolerance=1e-9)
    for strength, model in zip(c_values, models, strict=True):
        # with two classes scikit-learn has one column of weights, whose penalty is twice that of two columns
        wanted = LogisticRegression(C=strength * (2 if classes == 2 else 1), tol=1e-9, max_iter=10_000).fit(x, y)
        result = model.logits(torch.from_numpy(new)).softmax(1).numpy()
        np.testing.assert_allclose(result, wanted.predict_proba(new), atol=1e-5)


def test_classes_without_training_series_are_never_predicted():
    x = torch.randn(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (model,) = fit_logistic_path(x, torch.arange(40) % 2 * 3 + 1, (1.0,))
    assert set(model.predict(x).tolist()) <= {1, 4}


def test_every_series_is_held_out_once_and_groups_stay_together():
    y = torch.arange(60) % 3
    folds = make_fold_masks(y, None)
    assert torch.stack(folds).sum(0).tolist() == [1] * 60
    assert all(torch.bincount(y[fold]).tolist() == [4, 4, 4] for fold in folds)
    groups = [f"person {i % 7}" for i in range(60)]
    held_out = [{g for g, out in zip(groups, fold.tolist(), strict=True) if out} for fold in make_fold_masks(y, groups)]
    assert sorted(name for names in held_out for name in names) == sorted(set(groups))
    assert make_fold_masks(torch.tensor([0, 1]), None) == []
