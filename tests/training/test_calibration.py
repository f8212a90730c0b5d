"""`--calibrate temperature` changes probabilities alone, and is refused where it could not be honest."""

import json

import numpy as np
import pytest

from tstk.config.resolve import resolve_config
from tstk.core.pipeline import Pipeline
from tstk.data import load_data
from tstk.errors import OptionError
from tstk.inference.predict import score
from tstk.runs.checkpoint import load, read_weights
from tstk.training.runs import train
from tstk.training.small_data import resolve_val_fraction

SMALL = {"tokenizer": {"use": "patch", "dim": 8, "window": 4}, "encoder": "identity"}


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """Labelled series that are hard to tell apart."""
    path = tmp_path_factory.mktemp("data") / "noisy.npz"
    draw, arrays = np.random.default_rng(0), {}
    for part in ("train", "test"):
        y = np.arange(60) % 3
        arrays |= {f"X_{part}": (draw.normal(size=(60, 1, 16)) + y[:, None, None] / 3).astype(np.float32)}
        arrays |= {f"y_{part}": y}
    np.savez(path, **arrays)
    return str(path)


def train_small(folder, data, val_fraction=0.3, **options):
    tables = {
        **SMALL,
        "head": "linear",
        "data": {"use": data, "val_fraction": val_fraction},
        "train": {"steps": 20, "device": "cpu", **options},
    }
    return train(resolve_config(("flag", tables)), folder)


@pytest.mark.slow
def test_a_calibrated_run_equals_the_same_run_without_except_for_its_probabilities(noisy, tmp_path):
    plain, calibrated = (train_small(tmp_path / name, noisy, calibrate=name) for name in ("none", "temperature"))
    assert calibrated.test == plain.test
    assert calibrated.classification.confusion == plain.classification.confusion
    for name in ("accuracy", "f1_macro", "kappa", "mcc", "balanced_accuracy"):
        assert calibrated.classification.scores[name] == plain.classification.scores[name]
    for name in ("log_loss", "brier", "ece"):
        assert calibrated.calibration.before["test"][name] == pytest.approx(plain.classification.scores[name])
        assert calibrated.calibration.after["test"][name] == pytest.approx(calibrated.classification.scores[name])
    assert calibrated.calibration.after["val"]["log_loss"] < calibrated.calibration.before["val"]["log_loss"]
    weights, others = read_weights(tmp_path / "temperature"), read_weights(tmp_path / "none")
    assert weights.keys() - others.keys() == {"temperature"}
    assert all((weights[name] == value).all() for name, value in others.items())
    assert load(tmp_path / "none").temperature is None
    assert plain.calibration is None


@pytest.mark.slow
@pytest.mark.parametrize("calibrate", ["none", "temperature"])
def test_training_and_eval_pass_over_the_test_split_once(noisy, tmp_path, monkeypatch, calibrate):
    counts = {"other": 0, "test": 0}
    preprocess, first_test_sample = Pipeline.preprocess, load_data(noisy).test.x[0]

    def count(self, series, **options):
        counts["test" if len(series.x) == 60 and (series.x[0] == first_test_sample).all() else "other"] += 1
        return preprocess(self, series, **options)

    monkeypatch.setattr(Pipeline, "preprocess", count)
    train_small(tmp_path / "counted", noisy, calibrate=calibrate, batch_size=8)
    assert counts["test"] == 1
    score(tmp_path / "counted")
    assert counts["test"] == 2


@pytest.mark.slow
def test_a_run_that_starts_from_a_calibrated_one_is_not_calibrated(noisy, tmp_path):
    train_small(tmp_path / "first", noisy, calibrate="temperature")
    tables = {"pipeline": {"init_from": str(tmp_path / "first")}}
    config = resolve_config(("flag", {**SMALL, **tables, "head": "linear", "data": noisy, "train": {"steps": 1}}))
    train(config, tmp_path / "second")
    assert load(tmp_path / "second").temperature is None
    assert json.loads((tmp_path / "second" / "result.json").read_text())["calibration"] is None


def test_few_series_are_held_out_for_a_temperature_though_not_by_default():
    for options, fraction in (({}, 0.0), ({"calibrate": "temperature"}, 0.2)):
        config = resolve_config(("flag", {**SMALL, "head": "linear", "train": options}))
        assert resolve_val_fraction(config, 60) == fraction


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"data": {"val_fraction": 0.0}}, "has no validation series; hold some out with --val-fraction 0.2"),
        ({"head": None, "loss": "masked"}, "only a classifier is calibrated; add --head linear"),
    ],
)
def test_what_cannot_be_calibrated_is_refused_and_leaves_no_run(noisy, tmp_path, tables, said):
    data = {"use": noisy, **tables.pop("data", {})}
    slots = {k: v for k, v in {**SMALL, "head": "linear", **tables}.items() if v is not None}
    config = resolve_config(("flag", {**slots, "data": data, "train": {"steps": 2, "calibrate": "temperature"}}))
    with pytest.raises(OptionError, match=said):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_forecaster_is_not_calibrated(csv, tmp_path):
    data = {"use": csv, "context": 20, "horizon": 5}
    tables = {**SMALL, "head": "forecast", "data": data, "train": {"steps": 2, "calibrate": "temperature"}}
    with pytest.raises(OptionError, match="needs a class per series"):
        train(resolve_config(("flag", tables)), tmp_path / "run")
