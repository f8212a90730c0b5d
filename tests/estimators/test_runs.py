"""A fitted estimator is saved as a run that commands read, and any run of its task is loaded as an estimator."""

import numpy as np
import pytest
from click.testing import CliRunner

import tstk
from tstk.errors import OptionError
from tstk.sklearn import SeriesClassifier, SeriesForecaster, SeriesRegressor, TokenEncoder

TINY = {"tokenizer": "patch", "tokenizer__dim": 8, "tokenizer__window": 4, "encoder__dim": 8, "encoder__depth": 1}
TINY |= {"encoder__heads": 2, "threads": 1, "device": "cpu", "steps": 2}
DRAW = np.random.default_rng(0)
SERIES = DRAW.normal(size=(8, 2, 12)) + 1e6


@pytest.mark.parametrize(
    "y",
    [np.array([0, 1] * 4), np.array([1.0, 2.0] * 4), np.array([False, True] * 4), np.array(["no", "yes"] * 4, object)],
    ids=lambda y: str(y.dtype),
)
def test_a_classifier_is_the_same_after_it_was_saved(y, tmp_path):
    model = SeriesClassifier(calibrate="temperature", **TINY).fit(SERIES, y)
    model.save(tmp_path / "run")
    loaded = SeriesClassifier.load(tmp_path / "run")
    assert loaded.classes_.dtype == model.classes_.dtype
    np.testing.assert_array_equal(loaded.predict(SERIES), model.predict(SERIES))
    np.testing.assert_array_equal(loaded.predict_proba(SERIES), model.predict_proba(SERIES))
    assert loaded.get_params() == model.get_params()
    assert loaded.history_ == model.history_
    with pytest.raises(OptionError, match="already exists"):
        model.save(tmp_path / "run")
    loaded.save(tmp_path / "again")


@pytest.mark.parametrize(
    ("estimator", "data", "method"),
    [
        (SeriesRegressor(**TINY), (SERIES, SERIES.mean((1, 2))), "predict"),
        (SeriesRegressor(**TINY), (SERIES, SERIES.mean(2)), "predict"),
        (TokenEncoder(pool="max", **TINY), (SERIES,), "transform"),
        (SeriesForecaster(context=8, horizon=3, **TINY), (SERIES[:, 0].repeat(5, 0),), "predict"),
    ],
)
def test_other_estimators_are_the_same_after_they_were_saved(estimator, data, method, tmp_path):
    x = np.repeat(SERIES[:, 0], 2, 0) if isinstance(estimator, SeriesForecaster) else SERIES
    estimator.fit(*data)
    estimator.save(tmp_path / "run")
    loaded = type(estimator).load(tmp_path / "run")
    np.testing.assert_array_equal(getattr(loaded, method)(x), getattr(estimator, method)(x))
    assert loaded.get_params() == estimator.get_params()


def test_commands_read_a_saved_estimator(tmp_path):
    from tstk.cli import cli

    y = np.array(["no", "yes"] * 4)
    SeriesClassifier(**TINY).fit(SERIES, y).save(tmp_path / "run")
    np.savez(tmp_path / "new.npz", X=SERIES, y=y)
    result = CliRunner().invoke(cli, ["eval", str(tmp_path / "run"), "--data", str(tmp_path / "new.npz")])
    assert result.exit_code == 0, result.output
    assert "accuracy" in result.output
    result = CliRunner().invoke(cli, ["eval", str(tmp_path / "run")])
    assert "was trained on arrays, which it does not hold; name some with --data FILE" in result.output
    assert tstk.load(tmp_path / "run").classes == ("no", "yes")


@pytest.mark.slow
def test_a_run_of_the_command_line_is_loaded_as_an_estimator(tmp_path):
    options = {name: value for name, value in TINY.items() if name != "steps"}
    run = tstk.fit(head="cot", steps=2, label_fraction=0.5, **options, out=tmp_path / "run").run_dir
    model, x = SeriesClassifier.load(run), DRAW.normal(size=(3, 9, 128))
    expected = tstk.load(run).predict(x)
    np.testing.assert_array_equal(model.predict(x), expected.labels)
    assert model.get_params()["head"] == "cot"
    assert "label_fraction" not in model.get_params()
    with pytest.raises(OptionError, match="was trained for classification, and TokenEncoder is for pretraining"):
        TokenEncoder.load(run)


@pytest.mark.slow
def test_a_run_records_what_was_trained_also_where_it_is_saved_again(tmp_path):
    from tstk.config.records import RunResult

    pytest.importorskip("peft", reason="peft is not installed")
    y = np.array([0, 1] * 4)
    TokenEncoder(**TINY).fit(SERIES).save(tmp_path / "pretrained")
    options = {name: TINY[name] for name in ("threads", "device", "steps")}
    model = SeriesClassifier(init_from=str(tmp_path / "pretrained"), lora=2, val_fraction=0.5, **options)
    model.fit(SERIES, y).save(tmp_path / "run")
    trained = tstk.fit(
        data=_save_series(tmp_path, y),
        init_from=str(tmp_path / "pretrained"),
        lora=2,
        head="linear",
        **options,
        out=tmp_path / "trained",
    )
    SeriesClassifier.load(tmp_path / "run").save(tmp_path / "again")
    first, again = RunResult.read(tmp_path / "run"), RunResult.read(tmp_path / "again")
    assert first.trainable == trained.trainable < first.parameters
    assert first.training_seconds > 0
    assert (again.trainable, again.selected, again.val) == (first.trainable, first.selected, first.val)


def _save_series(folder, y):
    """Return the path of the series and their labels."""
    np.savez(folder / "series.npz", X_train=SERIES, y_train=y)
    return str(folder / "series.npz")
