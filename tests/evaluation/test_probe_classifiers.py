"""The probe of several labels fits a logistic regression to each label, on the series for which it is known."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from tstk.errors import DataError
from tstk.evaluation.probe_classifiers import FeatureSet, MultilabelProbe, RidgeProbe

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)


def make_rows(count):
    """Return features and three labels: of the first, of the second feature, and of chance."""
    x = RNG.normal(size=(count, 4)) * [1, 10, 1, 1]
    noise = RNG.normal(size=(count, 2))
    return FeatureSet(
        x, np.stack([x[:, 0] + noise[:, 0] > 1, x[:, 1] + noise[:, 1] > 0, noise[:, 0] > 1], 1).astype(int)
    )


SPLITS = [make_rows(n) for n in (90, 40, 30)]


def test_each_label_is_fitted_by_the_logistic_regression_with_the_least_log_loss_on_validation():
    train, val, test = SPLITS
    params, logits = MultilabelProbe().predict(train, val, test, seed=0)
    rows = train + val
    for k in range(3):
        losses = {}
        for c in (0.001, 0.01, 0.1, 1.0, 10.0):
            scaler = StandardScaler().fit(train.x)
            model = LogisticRegression(C=c, max_iter=1000).fit(scaler.transform(train.x), train.y[:, k])
            p = model.predict_proba(scaler.transform(val.x))[:, 1]
            losses[c] = -np.where(val.y[:, k] == 1, np.log(p), np.log1p(-p)).sum()
        best = min(losses, key=losses.get)
        assert params[f"C of label {k + 1}"] == best
        scaler = StandardScaler().fit(rows.x)
        model = LogisticRegression(C=best, max_iter=1000).fit(scaler.transform(rows.x), rows.y[:, k])
        np.testing.assert_allclose(logits[:, k], model.decision_function(scaler.transform(test.x)), rtol=1e-6)


@pytest.mark.parametrize("select_on", ["val", "folds", "test"])
def test_series_with_an_unknown_label_are_left_out_of_its_fit_alone(select_on):
    train, val, test = SPLITS
    half = FeatureSet(train.x, train.y.copy())
    half.y[::2, 0] = -1
    _, logits = MultilabelProbe(select_on=select_on).predict(half, val, test, seed=0)
    fewer = train.subset(np.arange(1, 90, 2))
    _, expected = MultilabelProbe(select_on=select_on).predict(fewer, val, test, seed=0)
    np.testing.assert_array_equal(logits[:, 0], expected[:, 0])
    _, others = MultilabelProbe(select_on=select_on).predict(train, val, test, seed=0)
    np.testing.assert_array_equal(logits[:, 1:], others[:, 1:])


@pytest.mark.parametrize("select_on", ["val", "folds", "test"])
def test_a_label_that_all_series_have_or_none_or_that_is_unknown_has_a_constant_logit(select_on):
    train, val, test = (FeatureSet(rows.x, rows.y.copy()) for rows in SPLITS)
    for rows in (train, val):
        rows.y[:] = [1, 0, -1]
    params, logits = MultilabelProbe(select_on=select_on).predict(train, val, test, seed=0)
    assert params == {}
    assert (np.sign(logits) == [1, -1, -1]).all()


def test_a_label_that_is_unknown_in_validation_takes_the_strongest_penalty():
    train, val, test = SPLITS
    val = FeatureSet(val.x, np.full_like(val.y, -1))
    params, _ = MultilabelProbe().predict(train, val, test, seed=0)
    assert set(params.values()) == {0.001}


@pytest.mark.parametrize("select_on", ["val", "folds"])
def test_a_ridge_probe_without_a_series_of_known_targets_is_refused(select_on):
    numbers = [FeatureSet(part.x, np.where([True, False], np.nan, part.y[:, :2])) for part in SPLITS]
    with pytest.raises(DataError, match=r"none of \d+ series to fit a ridge probe on has all 2 targets"):
        RidgeProbe(select_on=select_on).predict(*numbers, seed=0)
