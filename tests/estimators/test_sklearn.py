"""The estimators: the checks of scikit-learn and aeon, unequal lengths and missing values."""

import pickle
import pickletools

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import tstk
from tstk.errors import OptionError
from tstk.sklearn import SeriesClassifier, SeriesForecaster, SeriesRegressor, TokenEncoder
from tstk.training.loop import FitResult

TINY = {
    "tokenizer__dim": 8,
    "encoder__dim": 8,
    "encoder__depth": 1,
    "encoder__heads": 2,
    "threads": 1,
    "device": "cpu",
}


def list_expected_failures(estimator):
    """Return the checks that cannot pass, with the reason."""
    if isinstance(estimator, SeriesForecaster):
        reason = "a forecast is of the rows after X, not of its rows"
        return dict.fromkeys(("check_methods_subset_invariance", "check_methods_sample_order_invariance"), reason)
    failures = {}
    if isinstance(estimator, SeriesRegressor):
        failures["check_methods_subset_invariance"] = "float32: the seventh digit depends on the size of the batch"
    if not isinstance(estimator, TokenEncoder):
        reason = "batches are drawn of other series where a series is repeated instead of weighted"
        failures["check_sample_weight_equivalence_on_dense_data"] = reason
    return failures


@pytest.mark.slow
@parametrize_with_checks(
    [
        # convolutions round by the size of a batch, in the seventh digit, which these checks compare
        SeriesClassifier(steps=20, lr=0.05, tokenizer="patch", **TINY),
        SeriesRegressor(steps=100, lr=0.02, tokenizer="patch", **TINY),
        TokenEncoder(steps=2, **TINY),
        SeriesForecaster(context=4, horizon=2, steps=2, **TINY),
    ],
    expected_failed_checks=list_expected_failures,
)
def test_scikit_learns_checks_pass(estimator, check):
    check(estimator)


@pytest.mark.slow
def test_numbers_of_a_series_do_not_depend_on_those_beside_it():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 1, 16)), rng.normal(size=20)
    regressor = SeriesRegressor(steps=20, tokenizer="patch", **TINY).fit(x, y)
    alone = np.concatenate([regressor.predict(x[i : i + 1]) for i in range(20)])
    np.testing.assert_allclose(alone, regressor.predict(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["AeonClassifier", "AeonRegressor", "AeonEncoder"])
def test_aeons_checks_pass_without_exception(name):
    pytest.importorskip("aeon", reason="pip install 'tstk-core[aeon]'")
    from aeon.testing.estimator_checking import check_estimator

    import tstk.aeon

    results = check_estimator(getattr(tstk.aeon, name))
    assert len(results) > 20
    assert {k: v for k, v in results.items() if v != "PASSED"} == {}


@pytest.mark.parametrize("options", [{"task": "segmentation"}, {"data": "a.csv"}, {"data__task": "regression"}])
def test_another_task_or_other_data_than_those_of_fit_are_refused(options):
    ((name, value),) = options.items()
    with pytest.raises(OptionError, match=f"{name}={value!r} has no effect: arrays are given to fit"):
        SeriesClassifier(**options, **TINY).fit(np.eye(8)[:, None], np.arange(8) % 2)
    SeriesClassifier(task="classification", steps=1, **TINY).fit(np.eye(8)[:, None], np.arange(8) % 2)


def test_the_estimators_are_found_from_the_package():
    import tstk

    assert tstk.sklearn.SeriesClassifier is SeriesClassifier


def waves(lengths, channels=2, seed=0):
    """Fast and slow sines of unequal lengths, with missing samples."""
    draw = np.random.default_rng(seed)
    y = np.arange(len(lengths)) % 2
    series = []
    for length, label in zip(lengths, y, strict=True):
        time = np.arange(length) + draw.random() * 9
        one = np.sin(time * (0.3, 1.5)[label]) + 0.1 * draw.normal(size=(channels, length))
        one[0, 3] = np.nan
        series.append(one)
    return series, np.array(["slow", "fast"])[y]


@pytest.mark.slow
def test_unequal_lengths_and_missing_values_are_learned_whatever_the_batch():
    X, y = waves([30, 40, 25, 33] * 10)
    model = SeriesClassifier(steps=60, lr=0.02, batch_size=16, **TINY).fit(X, y)
    later, truth = waves([28, 40, 35, 20] * 5, seed=1)
    assert list(model.classes_) == ["fast", "slow"]
    assert (model.predict(later) == truth).mean() > 0.9
    alone = np.concatenate([model.predict_proba([one]) for one in later])
    np.testing.assert_allclose(model.predict_proba(later), alone, atol=1e-5)
    padded = np.full((len(later), 2, 40), np.nan)
    for row, one in zip(padded, later, strict=True):
        row[:, : one.shape[1]] = one
    np.testing.assert_allclose(model.predict_proba(padded), alone, atol=1e-5)


@pytest.mark.slow
def test_a_classifier_of_few_series_trains_on_all_of_them_by_default(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "tstk.estimators.base.fit", lambda pipeline, data, *_, **__: seen.append(data) or FitResult([], {"epoch": 1})
    )
    X, y = waves([20] * 12)
    SeriesClassifier().fit(X, y)
    SeriesClassifier(val_fraction=0.25).fit(X, y)
    SeriesClassifier(epochs=1).fit(X, y)
    assert [len(data.train) for data in seen[:2]] == [12, 8]
    assert len(seen[2].val) > 0


@pytest.mark.slow
def test_an_estimator_is_what_the_command_line_trains(tmp_path):
    import tstk
    from tstk.data import load_data

    data = load_data("har-demo")
    x = np.concatenate([data.train.x.numpy(), data.val.x.numpy()])
    y = np.concatenate([data.train.y.numpy(), data.val.y.numpy()])
    model = SeriesClassifier(encoder="bert", head="cot", steps=3, **TINY).fit(x, y)
    names = {name: type(part).__name__ for name, part in model.pipeline_.named_slots()}
    assert (names["encoder"], names["head"]) == ("Bert", "CoT")
    assert model.history_[-1]["val"]["accuracy"] >= 0
    run = tstk.fit(encoder="bert", head="cot", steps=3, out=tmp_path / "run", **TINY)
    assert tstk.load(run.run_dir).state_dict().keys() == model.pipeline_.state_dict().keys()


@pytest.mark.slow
def test_a_pretrained_run_is_taken_up(tmp_path):
    import tstk

    run = str(tstk.fit(loss="masked", steps=1, out=tmp_path / "run", **TINY).run_dir)
    x = np.random.default_rng(0).normal(size=(12, 9, 128))
    model = SeriesClassifier(init_from=run, head="linear", steps=1, lr=0.0, device="cpu", threads=1).fit(
        x, [0, 1, 2] * 4
    )
    before, after = tstk.load(run).encoder.state_dict(), model.pipeline_.encoder.state_dict()
    assert before.keys() == after.keys()
    assert all((before[k] == after[k]).all() for k in before)


def test_options_are_parameters_that_clone_search_and_pickle_know():
    X, y = waves([30] * 16)
    X = np.stack(X)
    model = SeriesClassifier(encoder="transformer", steps=2, **TINY)
    assert clone(model).get_params() == model.get_params()
    assert model.set_params(encoder__dropout=0.3).get_params()["encoder__dropout"] == 0.3
    search = GridSearchCV(model, {"encoder__depth": [1, 2]}, cv=2).fit(X, y)
    assert {p["encoder__depth"] for p in search.cv_results_["params"]} == {1, 2}
    fitted = search.best_estimator_
    words = [word for _, word, _ in pickletools.genops(pickle.dumps(fitted)) if isinstance(word, str)]
    assert not [word for word in words if word.split(".")[0] == "torch"], "it can be read without torch's pickles"
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict_proba(X), fitted.predict_proba(X))


@pytest.mark.slow
def test_a_component_may_be_a_class_that_clone_and_set_params_keep():
    class Scale(tstk.Encoder):
        def __init__(self, spec, *, factor: float = 1.0):
            super().__init__(spec)
            self.factor, self.linear = factor, torch.nn.Linear(spec.dim, spec.dim)

        def forward(self, tokens):
            return tokens.replace(values=self.linear(tokens.values) * self.factor)

    model = clone(SeriesClassifier(encoder=Scale, steps=1, device="cpu")).set_params(encoder__factor=3.0)
    X, y = waves([20] * 8)
    assert type(model.fit(X, y).pipeline_.encoder) is Scale
    assert model.pipeline_.encoder.factor == 3.0


@pytest.mark.slow
def test_features_go_on_into_a_pipeline():
    from sklearn.linear_model import LogisticRegression

    X, y = waves([40] * 40)
    model = make_pipeline(TokenEncoder(steps=20, **TINY), StandardScaler(), LogisticRegression()).fit(np.stack(X), y)
    assert model.score(np.stack(X), y) > 0.9
    assert model[0].transform(np.stack(X)).shape == (40, 8)


@pytest.mark.slow
def test_a_forecast_continues_the_table_in_its_units():
    time = np.arange(400)
    table = np.stack([100 + 10 * np.sin(time / 4), 5 * np.cos(time / 4)], 1)
    model = SeriesForecaster(context=48, horizon=12, steps=150, lr=0.01, **TINY).fit(table)
    ahead = np.arange(400, 412)
    truth = np.stack([100 + 10 * np.sin(ahead / 4), 5 * np.cos(ahead / 4)], 1)
    assert model.predict().shape == (12, 2)
    assert np.abs(model.predict() - truth).mean(0) == pytest.approx(0, abs=2.5)
    np.testing.assert_array_equal(model.predict(table[-60:]), model.predict())


def test_fitting_leaves_the_callers_random_numbers_alone():
    import torch

    X, y = waves([30] * 8)
    torch.manual_seed(5)
    want = torch.rand(3)
    torch.manual_seed(5)
    SeriesClassifier(steps=1, **TINY).fit(np.stack(X), y)
    assert (torch.rand(3) == want).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"encodr": "bert"}, "no option 'encodr'"),
        ({"encoder__detph": 2}, "Did you mean 'depth'"),
        ({"data_root": "here"}, "no effect, as the data are arrays"),
        ({"horizon": 4}, "horizon"),
    ],
)
def test_a_mistake_is_reported_by_fit(options, said):
    X, y = waves([30] * 8)
    with pytest.raises(OptionError, match=said):
        SeriesClassifier(steps=1, **options).fit(np.stack(X), y)
    with pytest.raises(OptionError, match="no option 'encodr'"):
        SeriesClassifier().set_params(encodr=1)


@pytest.mark.parametrize(
    ("X", "said"),
    [
        ([np.zeros((2, 30)), np.zeros((3, 30))], "2 and 3 channels"),
        (np.full((4, 2, 5), np.nan), "series 0 of X is entirely missing"),
        ([np.full((1, 3), np.inf)] * 2, "infinity"),
        (np.zeros((2, 2, 2, 2)), "expected"),
    ],
)
def test_arrays_that_are_no_series_are_refused(X, said):
    with pytest.raises(ValueError, match=said):
        TokenEncoder(steps=1, **TINY).fit(X)


def test_series_longer_than_those_of_fit_are_refused_with_the_remedy():
    X, y = waves([30] * 8)
    model = SeriesClassifier(steps=1, **TINY).fit(X, y)
    with pytest.raises(ValueError, match="set length="):
        model.predict(waves([31] * 2)[0])
    longer = SeriesClassifier(steps=1, length=40, **TINY).fit(X, y)
    assert longer.predict(waves([31] * 2)[0]).shape == (2,)


def test_the_pipeline_of_a_classifier_predicts_its_labels():
    series, y = waves([30] * 24)
    X = np.stack(series)
    model = SeriesClassifier(steps=5, **TINY).fit(X, y)
    prediction = model.pipeline_.predict(X)
    assert prediction.labels.tolist() == model.predict(X).tolist()
    np.testing.assert_array_equal(prediction.probabilities, model.predict_proba(X))


@pytest.mark.slow
def test_a_calibrated_classifier_has_other_probabilities_and_the_same_labels():
    draw = np.random.default_rng(0)
    y = np.arange(80) % 2
    X = draw.normal(size=(80, 16)) + 0.3 * y[:, None]
    options = {
        "encoder__dim": 8,
        "encoder__depth": 1,
        "encoder__heads": 2,
        "steps": 30,
        "val_fraction": 0.4,
        "device": "cpu",
    }
    plain, calibrated = (SeriesClassifier(calibrate=name, **options).fit(X, y) for name in ("none", "temperature"))
    assert plain.pipeline_.temperature is None
    temperature = float(calibrated.pipeline_.temperature)
    assert temperature != 1
    assert (plain.predict(X) == calibrated.predict(X)).all()
    odds = [np.log(p[:, 1] / p[:, 0]) for p in (plain.predict_proba(X), calibrated.predict_proba(X))]
    np.testing.assert_allclose(odds[0] / temperature, odds[1], rtol=1e-3, atol=1e-4)
    with pytest.raises(OptionError, match="no validation series"):
        SeriesClassifier(calibrate="temperature", **{**options, "val_fraction": 0}).fit(X, y)
