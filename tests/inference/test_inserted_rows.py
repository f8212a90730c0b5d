"""Rows of outputs are those of the file of their user, also where --regularize inserted others between them."""

import csv

import numpy as np
import pytest
import torch

from tests.support.hours import make_table, write_table
from tests.support.shell import call
from tstk.data.config import DataConfig
from tstk.data.datasets import name_series
from tstk.data.load import load_data, read_splits
from tstk.errors import DataError
from tstk.inference.detect import detect, evaluate_detection, load_labels
from tstk.inference.detection_methods import METHODS
from tstk.inference.predict import embed, predict

ROWS, GAP = 240, np.r_[50:60, 100, 215]
KEPT = np.setdiff1d(np.arange(ROWS), GAP)
SPIKE = 220
SMALL = ["--tokenizer.dim", 8, "--tokenizer.window", 4, "--encoder.dim", 8, "--encoder.heads", 2, "--encoder.depth", 1]
WORDS = ["--regularize", *SMALL, "--steps", 1, "--threads", 1, "--device", "cpu", "--quiet"]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Return a table without the hours of `GAP`, with a spike."""
    path, x = tmp_path_factory.mktemp("table") / "hours.csv", make_table(ROWS)
    x[SPIKE] += [4000, 80]
    lines = write_table(path, x).read_text().splitlines()
    path.write_text("\n".join([lines[0], *(lines[1 + i] for i in KEPT)]) + "\n")
    return path


@pytest.fixture(scope="module")
def panel(tmp_path_factory):
    """Return the hours of two sites, row by row, of which site b has those of `KEPT`; sorted by time, not by site."""
    path, x = tmp_path_factory.mktemp("panel") / "sites.csv", make_table(ROWS)[:, 0]
    x[SPIKE] += 4000
    hours = np.datetime64("2024-01-01T00", "h") + np.arange(ROWS)
    rows = [(i, site) for i in range(ROWS) for site in "ab" if site == "a" or i in KEPT]
    lines = [f"{site},{hours[i]}:00,{x[i] - 4000 * (i == SPIKE and site == 'a'):.3f}" for i, site in rows]
    path.write_text("\n".join(["id,time,load", *lines]) + "\n")
    np.save(path.with_suffix(".npy"), [i == SPIKE and site == "b" for i, site in rows])
    return path


@pytest.fixture(scope="module")
def masked(table, tmp_path_factory):
    run = tmp_path_factory.mktemp("masked") / "run"
    call("train", "--data", table, "--length", 24, "--loss", "masked", *WORDS, "--out", run)
    return run


@pytest.fixture(scope="module")
def forecaster(table, tmp_path_factory):
    run = tmp_path_factory.mktemp("forecaster") / "run"
    call("train", "--data", table, "--context", 16, "--horizon", 2, "--head", "forecast", *WORDS, "--out", run)
    return run


def read_rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_scores_and_events_have_a_line_per_row_of_the_file(table, masked, tmp_path):
    words = ["--data", table, "--out", tmp_path / "s.csv", "--events", tmp_path / "e.csv", "--plot", tmp_path / "p.png"]
    call("detect", masked, *words)
    lines, source = read_rows(tmp_path / "s.csv"), read_rows(table)
    assert [int(line["row"]) for line in lines] == list(range(len(KEPT)))
    assert [np.datetime64(line["date"]) for line in lines] == [np.datetime64(row["date"]) for row in source]
    peak = max(read_rows(tmp_path / "e.csv"), key=lambda event: float(event["score"]))
    assert int(peak["peak"]) == np.searchsorted(KEPT, SPIKE)
    assert source[int(peak["peak"])]["date"] == peak["peak date"]
    call("detect", masked, "--data", table, "--out", tmp_path / "s.npz")
    with np.load(tmp_path / "s.npz") as arrays:
        assert arrays["scores"].shape == (1, len(KEPT))
        assert len(arrays["dates"]) == len(KEPT)


def test_the_test_split_has_the_rows_of_the_file_from_its_first_one_on(table, masked):
    detection = detect(masked)
    first, source = detection.recordings.first_row, read_rows(table)
    dates = [np.datetime64(date) for date in detection.recordings.dates]
    assert dates == [np.datetime64(row["date"]) for row in source[first:]]


def test_labels_are_those_of_the_rows_of_the_file(table, masked, tmp_path):
    labels = np.arange(ROWS)[KEPT] == SPIKE
    np.save(tmp_path / "labels.npy", labels)
    for detection in (detect(masked, str(table)), detect(masked)):  # the whole file, and its last rows
        read = load_labels(detection, str(tmp_path / "labels.npy"))
        np.testing.assert_array_equal(read[0], labels[detection.recordings.first_row :])
        results = evaluate_detection(detection, read)
        assert results["masked"]["auroc"] == results["moving deviation"]["auroc"] == 1


def test_samples_without_a_score_are_counted_by_their_cause_and_inserted_ones_are_not(
    table, masked, tmp_path, monkeypatch
):
    assert detect(masked, str(table)).notes == []
    lines = table.read_text().splitlines()
    lines[11:13] = [line.partition(",")[0] + ",," for line in lines[11:13]]
    (tmp_path / "data.csv").write_text("\n".join(lines))
    create_score, *others = METHODS["masked"]

    def create_broken_score(*args):
        score = create_score(*args)
        return lambda series, is_training: torch.where(series.x[:, :1] > 3000, torch.inf, score(series, is_training))

    monkeypatch.setitem(METHODS, "masked", (create_broken_score, *others))
    missing, broken = detect(masked, str(tmp_path / "data.csv"), method="masked", threshold=1.0).notes
    assert missing == "missing samples, which have no score: 2"
    assert broken.endswith("or what the run computes is not finite: 1")


def test_labels_of_another_file_are_refused(table, masked, tmp_path):
    for count in (ROWS, 2 * len(KEPT)):
        np.save(tmp_path / "labels.npy", np.arange(count) == SPIKE)
        with pytest.raises(DataError, match=f"{count} labels of 1 series, and there are {len(KEPT)} samples of 1;"):
            load_labels(detect(masked, str(table)), str(tmp_path / "labels.npy"))


def test_samples_of_several_series_are_counted_as_in_the_file_and_take_a_label_per_row(panel, tmp_path):
    words = ["--loss", "masked", *WORDS]
    call("train", "--data", panel, *words, "--out", tmp_path / "run")
    out = tmp_path / "scores.csv"
    result = call(
        "detect", tmp_path / "run", "--data", panel, "--sample-labels", panel.with_suffix(".npy"), "--out", out
    )
    lines, spike = read_rows(out), str(np.searchsorted(KEPT, SPIKE))
    for site, count in (("a", ROWS), ("b", len(KEPT))):
        assert [int(line["sample"]) for line in lines if line["id"] == site] == list(range(count))
    peak = max(lines, key=lambda line: float(line["score"] or 0))
    assert (peak["id"], peak["sample"]) == ("b", spike)
    assert result.stdout.count("1.0000") >= 2  # the run, and the moving deviation
    call("impute", tmp_path / "run", "--data", panel, "--out", tmp_path / "filled.npz")
    with np.load(tmp_path / "filled.npz") as arrays:
        assert np.flatnonzero(arrays["inserted"][1]).tolist() == GAP.tolist()
        assert not arrays["inserted"][0].any()


def test_windows_begin_at_rows_of_the_file_or_at_the_time_of_an_inserted_one(table, masked, forecaster):
    source = [np.datetime64(row["date"]) for row in read_rows(table)]
    for arrays in (embed(masked, str(table)), predict(forecaster, str(table)), predict(forecaster)):
        times = [np.datetime64(time) for time in arrays["id"]]
        assert [time if row < 0 else source[row] for row, time in zip(arrays["row"], times, strict=True)] == times
        assert {source.index(time) if time in source else -1 for time in times} == set(arrays["row"].tolist())
    assert (predict(forecaster, str(table))["row"] < 0).sum() == len(GAP)


def test_windows_of_several_series_count_the_rows_of_theirs(panel, tmp_path):
    words = ["--context", 16, "--horizon", 2, "--head", "forecast", *WORDS]
    call("train", "--data", panel, *words, "--out", tmp_path / "run")
    arrays = predict(tmp_path / "run", str(panel))
    begins = arrays["row"][arrays["id"] == "b"]
    places = np.where(np.isin(np.arange(ROWS), KEPT), np.searchsorted(KEPT, np.arange(ROWS)), -1)
    np.testing.assert_array_equal(begins, places[: len(begins)])


def test_rows_of_splits_in_notes_and_messages_are_those_of_the_file(table):
    config = DataConfig(context=16, horizon=2, regularize=True, test_fraction=0.25)
    data = load_data(str(table), config)
    assert any(f"rows {np.searchsorted(KEPT, 180) + 1} to {len(KEPT)}" in note for note in data.notes), data.notes
    assert not any("count them" in note for note in data.notes)


def test_a_series_that_begins_with_an_inserted_row_is_named_by_its_time(table):
    data = load_data(str(table), DataConfig(length=15, stride=50, regularize=True))
    train = next(iter(read_splits(str(table), regularize=True).values()))
    assert train.file_rows[50] == -1
    assert data.train.rows.tolist()[:2] == [0, -1]
    assert name_series(data.train, 1) == "the series from an inserted row on (id 2024-01-03 02:00:00)"
