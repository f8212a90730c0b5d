"""The simple classifiers against published scores, numpy loops and scikit-learn."""

import json

import numpy as np
import pytest
import torch

from tstk.config.records import read_record, write_record
from tstk.core.types import Spec
from tstk.data import DataConfig, load_data
from tstk.data.datasets import SeriesDataset
from tstk.evaluation import baselines, simple_classifiers
from tstk.evaluation.baselines import score_classification_baselines
from tstk.evaluation.formatting import describe_better_baselines
from tstk.evaluation.simple_classifiers import (
    NearestNeighbor,
    SummaryLogisticRegression,
    compute_summary_features,
    gather_labelled_arrays,
)
from tstk.inference.predict import score

# Test accuracy of one nearest neighbour with Euclidean distance, as the archives publish it.
PUBLISHED = {
    "ArrowHead": 0.8000,
    "ECG5000": 0.9249,
    "GunPoint": 0.9133,
    "ItalyPowerDemand": 0.9553,
    "PhalangesOutlinesCorrect": 0.7611,
    "SyntheticControl": 0.8800,
    "AtrialFibrillation": 0.2667,
    "BasicMotions": 0.6000,
    "Epilepsy": 0.6304,
    "JapaneseVowels": 0.9162,
    "NATOPS": 0.8389,
    "PenDigits": 0.9774,
    "UWaveGestureLibrary": 0.8750,
}


def nearest(data):
    classifier = NearestNeighbor().fit(gather_labelled_arrays(data.training_splits, data.spec.length))
    predictions = classifier.predict(gather_labelled_arrays([data.test], data.spec.length))
    return round((predictions == data.test.y).double().mean().item(), 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_nearest_neighbour_scores_what_the_archive_publishes(archive, name):
    assert nearest(load_data(name, DataConfig(data_root=str(archive)))) == PUBLISHED[name]


def test_the_nearest_neighbour_scores_on_the_embedded_set_what_its_readme_says():
    assert nearest(load_data()) == 0.4537


def some_part(count, seed, channels=2, length=12, classes=3, holes=0.2):
    """Series of several lengths with holes, whose level depends on the class."""
    draw = np.random.default_rng(seed)
    y = np.arange(count) % classes
    x = draw.normal(size=(count, channels, length)) + y[:, None, None]
    x[draw.random(x.shape) < holes] = np.nan
    for i in range(count):
        x[i, :, length - i % 4 :] = np.nan
        x[i, 0, length - i % 4 - 1] = 0.5  # the last sample of a series is observed
    return SeriesDataset(torch.from_numpy(x).float(), torch.from_numpy(y))


def test_missing_samples_are_left_out_of_distances_and_the_end_of_a_series_counts_as_zeros():
    train, test = some_part(20, 0), some_part(9, 1)
    result = NearestNeighbor().fit(gather_labelled_arrays([train], 12)).predict(gather_labelled_arrays([test], 12))

    def padded(part):
        rows = part.x.double().numpy().copy()
        for row, length in zip(rows, part.lengths.tolist(), strict=True):
            row[:, length:] = 0
        return rows.reshape(len(rows), -1)

    for a, predictions in zip(padded(test), result.tolist(), strict=True):
        each = [(np.nansum((a - b) ** 2) * len(a) / np.isfinite(a - b).sum()) for b in padded(train)]
        assert predictions == train.y[int(np.argmin(each))]


def test_of_equally_near_series_the_first_decides():
    x = torch.randn(5, 1, 7, generator=torch.Generator().manual_seed(0))
    train = SeriesDataset(torch.cat([x, x, x]) * 1e3, torch.arange(15))
    test = SeriesDataset(x * 1e3, torch.zeros(5, dtype=torch.long))
    result = NearestNeighbor().fit(gather_labelled_arrays([train], 7)).predict(gather_labelled_arrays([test], 7))
    assert result.tolist() == [0, 1, 2, 3, 4]


def test_features_are_those_of_the_observed_samples():
    part = some_part(8, 2, length=40)
    result = compute_summary_features(gather_labelled_arrays([part], 40)).reshape(8, 2, 20)
    for series, features in zip(part.x.double().numpy(), result.numpy(), strict=True):
        for row, values in zip(series, features, strict=True):
            known = row[np.isfinite(row)]
            waves = np.fft.rfft(np.nan_to_num(row - known.mean()))[1:17]
            simple = [known.mean(), known.std(), known.min(), known.max()]
            np.testing.assert_allclose(values, [*simple, *np.abs(waves) / len(known)], atol=1e-12)


def test_a_channel_that_was_never_observed_has_the_mean_of_its_features():
    train, test = some_part(30, 3), some_part(6, 4)
    test.x[0, 1] = torch.nan
    classifier = SummaryLogisticRegression().fit(gather_labelled_arrays([train], 12))
    features = classifier.logistic.standardizer.transform(compute_summary_features(gather_labelled_arrays([test], 12)))
    assert features.isfinite().all()
    assert (features[0].reshape(2, -1)[1] == 0).all()


def test_a_classifier_that_would_take_too_long_is_skipped_with_the_reason(monkeypatch):
    train, test, spec = (
        some_part(20, 0),
        some_part(9, 1),
        Spec(2, 12, "classification", 3),
    )
    monkeypatch.setattr(simple_classifiers, "MAX_PRODUCTS", 20 * 9 * 24 - 1)
    result = score_classification_baselines([train], test, spec)
    assert result.scores.keys() == {"majority class", "logistic"}
    assert result.skipped == {
        "1-NN": "training series x test series x samples is 4.3e+03, more than 4e+03",
    }
    monkeypatch.setattr(simple_classifiers, "MAX_SAMPLES", 10)
    assert score_classification_baselines([train], test, spec).scores.keys() == {"majority class"}


def test_a_classifier_that_would_take_too_much_memory_is_skipped_with_the_reason(monkeypatch):
    x = torch.randn(6, 2, 50, generator=torch.Generator().manual_seed(0))
    split = SeriesDataset(x, torch.arange(6) % 2)
    monkeypatch.setenv("TSTK_MEMORY", "70k")  # of 12 series of 100 samples at 64 bytes
    reason = "it takes 76.8 kB of memory, and 71.7 kB are available"
    result = score_classification_baselines([split], split, Spec(2, 50, task="classification", num_outputs=2))
    assert result.skipped == {"1-NN": reason, "logistic": reason}
    assert result.scores.keys() == {"majority class"}
    monkeypatch.setenv("TSTK_MEMORY", "80k")
    assert (
        score_classification_baselines([split], split, Spec(2, 50, task="classification", num_outputs=2)).skipped == {}
    )


def test_validation_series_are_training_series_only_if_they_were_split_off(npz, tmp_path):
    np.savez(tmp_path / "val.npz", **{k: v for k, v in np.load(npz).items() if k.endswith("_test")})
    assert sum(map(len, load_data(npz).training_splits)) == 24
    assert [len(part) for part in load_data(npz, DataConfig(val_data="test")).training_splits] == [24]
    config = DataConfig(val_data=str(tmp_path / "val.npz"))
    assert [len(part) for part in load_data(npz, config).training_splits] == [24]


@pytest.mark.slow
def test_a_run_is_scored_beside_the_classifiers_and_again_without_its_training_data(run, npz, tmp_path):
    wanted = {"majority class", "1-NN", "logistic"}
    result = json.loads((run / "result.json").read_text())
    assert result["baselines"].keys() == wanted
    assert result["baselines_skipped"] == {}
    assert score(run)["baselines"] == result["baselines"]
    moved = tmp_path / "copy"
    moved.mkdir()
    for file in run.iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    for name in ("config.json", "result.json"):
        text = json.dumps(read_record(run / name)).replace(npz, "gone.npz")
        write_record(moved / name, json.loads(text))
    found = score(moved, npz)
    assert found["baselines"].keys() == {"majority class"}
    assert found["baselines_skipped"].keys() == {"1-NN", "logistic"}
    assert "needs the training data of the run" in found["baselines_skipped"]["1-NN"]


def test_a_model_worse_than_a_baseline_gets_a_note():
    better, equal, worse = {"accuracy": 0.9}, {"accuracy": 0.8}, {"accuracy": 0.7, "mse": 9.0}
    assert describe_better_baselines(
        {"accuracy": 0.8}, {"1-NN": better, "logistic": equal, "majority class": worse}
    ) == ["This model loses to the baseline 1-NN: accuracy 0.8000 against 0.9000."]
    assert len(describe_better_baselines({"mse": 0.5}, {"linear": {"mse": 0.4}, "last value": {"mse": 0.6}})) == 1
    assert not describe_better_baselines({"mse": 0.4}, {"linear": {"mse": 0.4 - 1e-9}})


def test_majority_is_that_of_the_training_part_alone():
    train, val = some_part(4, 0, classes=1), some_part(9, 1, classes=3)
    val.y[:] = 2
    result = baselines.score_classification_baselines([train, val], val, Spec(2, 12, "classification", 3))
    assert result.scores["majority class"]["accuracy"] == 0.0
