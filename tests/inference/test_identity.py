"""What leaves a run can be joined with the tables of its user: rows, ids and groups stay with the series."""

import csv

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from tstk.cli import cli
from tstk.config.resolve import resolve_config
from tstk.errors import DataError, IncompatibleError, OptionError
from tstk.inference.detect import detect, evaluate_detection
from tstk.inference.impute import impute, write_imputation
from tstk.inference.predict import embed, open_run, predict
from tstk.inference.recordings import load_recordings
from tstk.inference.tokenize import tokenize
from tstk.training.runs import train

SMALL = {
    "tokenizer": {"use": "patch", "dim": 8, "window": 4},
    "encoder": {"use": "transformer", "dim": 8, "depth": 1, "heads": 2, "dropout": 0.0},
    "train": {"epochs": 1, "batch_size": 8, "device": "cpu"},
}


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Write a file of series with ids and groups, and return its path, with a classifier trained on a part of it."""
    folder = tmp_path_factory.mktemp("people")
    x = np.random.default_rng(0).normal(size=(30, 12)).astype(np.float32)
    ids = np.array([f"recording {i}" for i in range(30)])
    np.savez(folder / "people.npz", X=x, y=np.arange(30) % 2, ids=ids, subject=np.arange(30) // 3)
    data = {"use": str(folder / "people.npz"), "test_fraction": 0.2}
    train(resolve_config(("flag", {**SMALL, "data": data, "head": "linear"})), folder / "run")
    return folder


def test_predictions_of_the_test_split_name_the_rows_of_the_file(people):
    arrays = predict(people / "run")
    assert len(arrays["row"]) == 6
    assert arrays["id"].tolist() == [f"recording {i}" for i in arrays["row"]]
    assert arrays["group"].tolist() == [str(i // 3) for i in arrays["row"]]
    assert arrays["truth"].tolist() == [str(i % 2) for i in arrays["row"]]


def test_a_file_of_predictions_has_a_row_an_id_and_a_group_per_series(people, tmp_path):
    out = tmp_path / "out.csv"
    words = ["predict", str(people / "run"), "--data", str(people / "people.npz"), "--out", str(out)]
    assert CliRunner().invoke(cli, words).exit_code == 0
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:4] == ["row", "id", "group", "predicted"]
    assert [row["id"] for row in rows] == [f"recording {i}" for i in range(30)]
    assert [int(row["row"]) for row in rows] == list(range(30))


def test_embeddings_carry_the_identity_of_their_series(people):
    arrays = embed(people / "run", str(people / "people.npz"))
    assert arrays["id"].tolist() == [f"recording {i}" for i in range(30)]
    assert arrays["group"].tolist() == [str(i // 3) for i in range(30)]


def test_codes_carry_the_identity_of_their_series(people, tmp_path, syllables):
    config = {**SMALL, "tokenizer": syllables, "encoder": {**SMALL["encoder"], "causal": True}, "loss": "next-code"}
    train(resolve_config(("flag", {**config, "data": str(people / "people.npz")})), tmp_path / "run")
    arrays = tokenize(tmp_path / "run", str(people / "people.npz"))
    assert arrays["id"].tolist() == [f"recording {i}" for i in range(30)]
    assert arrays["row"].tolist() == list(range(30))


def test_a_file_without_ids_has_rows_alone(npz, run):
    arrays = predict(run, npz)
    assert arrays["row"].tolist() == list(range(12))
    assert not {"id", "group"} & arrays.keys()


@pytest.mark.slow
def test_forecasts_name_the_row_and_the_time_at_which_their_window_begins(csv, tmp_path):
    data = {"use": csv, "context": 12, "horizon": 4}
    train(resolve_config(("flag", {**SMALL, "data": data, "head": "forecast"})), tmp_path / "run")
    arrays = predict(tmp_path / "run", csv)
    assert arrays["row"].tolist() == list(range(140 - 16 + 1))
    assert arrays["id"][61] == "2020-01-01 01:01:00"
    test = predict(tmp_path / "run")
    whole = dict(zip(arrays["row"], arrays["truth"], strict=True))
    assert all(np.array_equal(whole[row], values) for row, values in zip(test["row"], test["truth"], strict=True))


def test_an_error_of_a_prediction_names_the_id(people, monkeypatch):
    from tstk.core.pipeline import Pipeline

    predict_step = Pipeline.predict_step

    def fail(self, series, *args):
        output = predict_step(self, series, *args)
        output.head_output[series.sample_id == 4] = torch.nan
        return output

    monkeypatch.setattr(Pipeline, "predict_step", fail)
    with pytest.raises(DataError, match=r"predictions of 1 of 30 series are not finite, series 5 \(id recording 4\)"):
        predict(people / "run", str(people / "people.npz"))


@pytest.mark.slow
def test_what_detection_takes_for_training_holds_no_series_that_was_held_out_to_test(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "one.npz", X=rng.normal(size=(40, 1, 16)), y=np.arange(40) % 2)
    data = {"use": str(tmp_path / "one.npz"), "test_fraction": 0.25, "val_fraction": 0.2}
    train(resolve_config(("flag", {**SMALL, "data": data, "loss": "masked"})), tmp_path / "run")
    pipeline, test, run_config = open_run(tmp_path / "run")
    parts = {name: load_recordings(pipeline, run_config, split=name).values for name in ("train", "test")}
    assert {name: len(x) for name, x in parts.items()} == {"train": 30, "test": 10}
    np.testing.assert_array_equal(parts["test"], test.x.numpy())
    assert not {x.tobytes() for x in parts["train"]} & {x.tobytes() for x in parts["test"]}


@pytest.mark.slow
def test_other_data_are_read_with_the_roles_of_the_run_also_where_some_are_missing(tmp_path):
    rng = np.random.default_rng(0)
    x, persons = rng.normal(size=(40, 1, 16)), np.arange(40) // 4
    np.savez(tmp_path / "one.npz", X=x, state=np.arange(40) % 2, who=persons)
    np.savez(tmp_path / "bare.npz", X=x[:3])
    data = {"use": str(tmp_path / "one.npz"), "label_column": "state", "group_column": "who", "test_fraction": 0.25}
    train(resolve_config(("flag", {**SMALL, "data": data, "head": "linear"})), tmp_path / "run")
    assert len(predict(tmp_path / "run", str(tmp_path / "bare.npz"))["predicted"]) == 3
    assert predict(tmp_path / "run", str(tmp_path / "one.npz"))["group"].tolist() == list(map(str, persons))


@pytest.fixture(scope="module")
def masked(people):
    """Train a masked run on the series of people, and return its directory."""
    data = {"use": str(people / "people.npz"), "test_fraction": 0.2}
    train(resolve_config(("flag", {**SMALL, "data": data, "loss": "masked"})), people / "masked")
    return people / "masked"


def test_scores_and_events_of_anomalies_carry_the_identity_of_their_series(masked, tmp_path):
    words = ["detect", str(masked), "--quantile", "0.5", "--events", str(tmp_path / "events.csv")]
    assert CliRunner().invoke(cli, [*words, "--out", str(tmp_path / "scores.csv")]).exit_code == 0
    rows, events = (list(csv.DictReader((tmp_path / f"{name}.csv").open())) for name in ("scores", "events"))
    assert list(rows[0])[:5] == ["row", "id", "group", "sample", "score"]
    assert list(events[0])[:4] == ["row", "id", "group", "start"]
    assert len({row["row"] for row in rows}) == 6  # the test split
    for row in [*rows, *events]:
        assert (row["id"], row["group"]) == (f"recording {row['row']}", str(int(row["row"]) // 3))
    detection = detect(masked, threshold=0.1)
    arrays, (event, *_) = detection.to_arrays(), detection.to_dict()["events"]
    assert arrays["id"].tolist() == [f"recording {row}" for row in arrays["row"]]
    assert len(arrays["id"]) == len(arrays["scores"])
    assert event["id"] == arrays["id"][event["series"]] == f"recording {event['row']}"


def test_filled_series_of_the_test_split_carry_their_identity_and_labels_and_can_be_read_again(masked, tmp_path):
    path = tmp_path / "filled.npz"
    write_imputation(path, impute(masked), replace=False)
    with np.load(path) as arrays:
        rows = arrays["row"].tolist()
        assert arrays["id"].tolist() == [f"recording {row}" for row in rows]
        assert arrays["group"].tolist() == [str(row // 3) for row in rows]
        assert arrays["y"].tolist() == [str(row % 2) for row in rows]
    assert predict(masked.parent / "run", str(path))["id"].tolist() == [f"recording {row}" for row in rows]


@pytest.mark.slow
def test_a_table_is_scored_with_the_times_of_its_rows(csv, tmp_path):
    data = {"use": csv, "length": 12}
    train(resolve_config(("flag", {**SMALL, "data": data, "loss": "masked"})), tmp_path / "run")
    arrays = detect(tmp_path / "run", csv, threshold=1.0).to_arrays()
    assert arrays["dates"].shape == (arrays["scores"].shape[1],)
    assert "row" not in arrays


@pytest.mark.slow
def test_a_run_on_single_channels_takes_any_number_of_them_also_if_it_mixes_channels(tmp_path):
    """With one channel, mixed and independent are the same."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 3, 16)) * [[1.0], [10.0], [100.0]] + 5
    np.savez(tmp_path / "three.npz", X=x)
    gaps = x.copy()
    gaps[0, 1, 4:8] = np.nan
    np.savez(tmp_path / "gaps.npz", X=gaps)
    data = {"use": str(tmp_path / "three.npz"), "split_channels": True, "val_fraction": 0.2}
    train(resolve_config(("flag", {**SMALL, "data": data, "loss": "masked"})), tmp_path / "run")
    imputation = impute(tmp_path / "run", str(tmp_path / "gaps.npz"))
    assert imputation.filled.sum() == 4
    assert abs(imputation.values[0, 1, 4:8] - 5).max() < 50
    np.savez(tmp_path / "two.npz", X=x[:, :2])
    for threshold in (None, 1.0):  # with and without the series of training, which have three channels
        detection = detect(tmp_path / "run", str(tmp_path / "two.npz"), threshold=threshold)
        assert detection.channel_scores.shape == (20, 2, 16)
        np.testing.assert_array_equal(detection.recordings.values, x[:, :2].astype(np.float32))
        labels = np.zeros((20, 16), dtype=bool)
        labels[0, 3:5] = True
        for flags, reason in ((labels * False, "no sample"), (labels | True, "every sample with a score")):
            with pytest.raises(OptionError, match=f"{reason} is labelled as an anomaly"):
                evaluate_detection(detection, flags)
        metrics = evaluate_detection(detection, labels)
        assert ("f1" in metrics["last value"]) == (threshold is None)
    assert embed(tmp_path / "run", str(tmp_path / "three.npz"))["embedding"].shape[0] == 20


def test_a_run_on_single_channels_says_why_it_does_not_take_more(people):
    pipeline = open_run(people / "run")[0]
    with pytest.raises(IncompatibleError, match="takes 1 channels, and the data have 2: its head was built for them"):
        pipeline.set_channels(torch.zeros(2), torch.ones(2))


def test_training_data_without_a_score_have_no_threshold(masked, monkeypatch):
    monkeypatch.setattr("tstk.inference.detect.compute_scores", lambda *_, **__: np.full((2, 1, 12), np.nan))
    with pytest.raises(DataError, match="no sample of the training data has a score; give --threshold"):
        detect(masked)
