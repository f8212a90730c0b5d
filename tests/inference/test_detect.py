"""`tstk detect`: scores align with samples, thresholds come from the training data, labels are scored."""

import csv as csvfile
import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv as arrow_csv
from pyarrow import parquet as pq

from benchmarks.events import KINDS, insert_events
from tests.support.hours import make_table, write_table
from tests.support.shell import call, refuse
from tstk.config.records import read_record, write_record
from tstk.errors import OptionError
from tstk.inference.detect import detect, evaluate_detection, find_events, load_labels
from tstk.inference.detection_methods import METHODS
from tstk.plugins.registry import get_registry

slow = pytest.mark.slow
SUPPORTED = [
    ("masked", "masked"),
    ("windows", "masked"),
    ("vqvae", "reconstruction"),
    ("codes", "codes"),
    ("codes", "reconstruction"),
    ("contrastive", "distance"),
    ("masked", "distance"),
]
SPIKE = 333


def make_spiked():
    x = make_table(seed=1)
    x[SPIKE] += [400, 8]
    return x


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """Return a table with one spike in both columns."""
    return write_table(tmp_path_factory.mktemp("complete") / "complete.csv", make_spiked())


@pytest.fixture(scope="module")
def spiked(tmp_path_factory):
    """Return that table with a gap."""
    x = make_spiked()
    x[100:110, 0] = np.nan
    return write_table(tmp_path_factory.mktemp("spiked") / "spiked.csv", x)


@slow
@pytest.mark.parametrize("stride", [1, 7, 24, 48])
@pytest.mark.parametrize(("kind", "method"), SUPPORTED)
def test_scores_align_with_samples_whatever_the_stride_and_the_batch_size(trained, complete, kind, method, stride):
    if stride == 48 and method == "distance":
        pytest.skip("only windows that overlap tell where in them the spike is")
    run = trained(kind)
    few, many = (detect(run, str(complete), method=method, stride=stride, batch_size=n) for n in (5, 256))
    np.testing.assert_allclose(few.scores, many.scores, rtol=2e-3, atol=1e-3)
    assert few.threshold == pytest.approx(many.threshold, rel=2e-3, abs=1e-3)
    assert few.scores.shape == (1, 640)
    if method != "codes":  # a few steps of training do not tell rare codes
        assert abs(int(np.nanargmax(few.scores)) - SPIKE) <= (48 if method == "distance" else 0)


@slow
@pytest.mark.parametrize(("kind", "method"), SUPPORTED)
def test_every_observed_sample_has_a_score_and_a_missing_one_has_none(trained, spiked, kind, method):
    detection = detect(trained(kind), str(spiked), method=method)
    first = 4 if method == "codes" else 0  # nothing comes before the first code
    assert np.isfinite(detection.scores[0, first:]).all()  # a column is observed in the gap of the other
    assert np.isfinite(detection.threshold)
    if detection.channel_scores is not None:
        assert np.isnan(detection.channel_scores[0, 0, 100:110]).all()
        assert np.isfinite(detection.channel_scores[0, 1, first:]).all()
    assert (detection.channel_scores is None) == (method == "distance")


@slow
def test_the_threshold_is_a_quantile_of_the_scores_of_the_training_rows(trained, table, tmp_path):
    whole = make_table()
    run = trained("masked")
    rows = int(0.7 * 640)
    own = detect(run, str(write_table(tmp_path / "train.csv", whole[:rows])), threshold=1.0)
    for quantile in (0.5, 0.99):
        detection = detect(run, quantile=quantile)
        assert detection.threshold == pytest.approx(float(np.quantile(own.scores, quantile)), rel=1e-3)
    assert own.quantile is None
    assert detection.recordings.first_row == 512  # the test rows of the run


@slow
def test_the_padding_of_a_set_scores_nothing_and_changes_nothing(trained, tmp_path):
    x = make_table(144).T.reshape(2, 3, 48).transpose(1, 0, 2)
    x[1, :, 30:] = np.nan
    np.savez(tmp_path / "set.npz", X=x)
    np.savez(tmp_path / "alone.npz", X=x[1:2, :, :30])
    for kind in ("masked", "contrastive"):
        together, alone = (detect(trained(kind), str(tmp_path / f"{name}.npz")) for name in ("set", "alone"))
        assert np.isnan(together.scores[1, 30:]).all()
        assert np.isfinite(together.scores[[0, 2]]).all()
        np.testing.assert_allclose(together.scores[1, :30], alone.scores[0], rtol=1e-3, atol=1e-4)


@slow
def test_the_default_method_follows_from_the_run(trained, spiked):
    for kind, method in (
        ("masked", "masked"),
        ("vqvae", "reconstruction"),
        ("codes", "codes"),
        ("contrastive", "distance"),
    ):
        assert detect(trained(kind), str(spiked), threshold=1.0).method == method


def test_the_options_of_the_command_are_the_methods():
    method = next(p for p in get_registry().load(get_registry().find("command", "detect")).params if p.name == "method")
    assert set(method.type.choices) == set(METHODS)


@slow
def test_files_hold_scores_threshold_and_events(trained, spiked, tmp_path):
    words = ["detect", trained("masked"), "--data", spiked, "--quantile", "0.999"]
    call(*words, "--out", tmp_path / "scores.csv", "--events", tmp_path / "events.csv", "--plot", tmp_path / "plot.png")
    with open(tmp_path / "scores.csv", newline="") as file:
        rows = list(csvfile.DictReader(file))
    assert list(rows[0]) == ["row", "date", "score", "threshold", "score load", "score temp"]
    assert [int(row["row"]) for row in rows] == list(range(640))
    assert rows[SPIKE]["date"].startswith("2024-01-14 21")
    assert float(rows[SPIKE]["score"]) == max(float(row["score"]) for row in rows)
    assert rows[105]["score load"] == ""
    with open(tmp_path / "events.csv", newline="") as file:
        events = list(csvfile.DictReader(file))
    event = max(events, key=lambda row: float(row["score"]))
    assert int(event["start"]) <= SPIKE <= int(event["end"])
    assert int(event["peak"]) == SPIKE
    assert event["channel"] in ("load", "temp")
    assert event["threshold"] == rows[0]["threshold"]
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    call(*words, "--out", tmp_path / "scores.npz")
    with np.load(tmp_path / "scores.npz") as arrays:
        assert arrays["scores"].shape == (1, 640)
        assert arrays["quantile"] == 0.999
        assert f"{arrays['threshold']:.6g}" == event["threshold"]


@slow
@pytest.mark.parametrize("form", ["npy", "npz", "csv", "parquet", "column", "parquet column"])
def test_labels_come_from_a_file_or_a_column_and_are_scored_beside_baselines(trained, spiked, tmp_path, form):
    labels, data = np.zeros(640, dtype=int), spiked
    labels[SPIKE] = 1
    if form == "npy":
        np.save(tmp_path / "labels.npy", labels)
    elif form == "npz":
        np.savez(tmp_path / "labels.npz", labels=labels)
    elif form == "csv":
        (tmp_path / "labels.csv").write_text("\n".join(["is_anomaly", *map(str, labels)]))
    elif form == "parquet":
        pq.write_table(pa.table({"is_anomaly": labels == 1}), tmp_path / "labels.parquet")
    elif form == "parquet column":
        data = tmp_path / "labelled.parquet"
        pq.write_table(arrow_csv.read_csv(spiked).append_column("fault", pa.array(labels)), data)
    else:
        lines = spiked.read_text().splitlines()
        data = tmp_path / "labelled.csv"
        data.write_text("\n".join([f"{lines[0]},fault", *(f"{a},{b}" for a, b in zip(lines[1:], labels, strict=True))]))
    option = "fault" if "column" in form else tmp_path / f"labels.{form}"
    words = ["detect", trained("masked"), "--data", data, "--sample-labels", option, "--out", tmp_path / "scores.npz"]
    metrics = json.loads(call(*words, "--json").stdout)["metrics"]
    assert list(metrics)[:3] == ["masked", "moving deviation", "last value"]
    for name, scores in metrics.items():
        assert scores["auroc"] > 0.99, name
    expected = {"auroc", "auprc", "vus_roc", "vus_pr", "precision", "recall", "f1"}
    expected |= {f"affiliation_{name}" for name in ("precision", "recall", "f1")}
    assert expected == set(metrics["masked"]) == set(metrics["moving deviation"])
    assert "vus_pr" in call(*words, "--force").stdout


@slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_event_scores_higher_than_the_rest(trained, tmp_path, kind):
    x, labels, events = insert_events(make_table(seed=2).T, 4, 24, kinds=(kind,))
    assert len(events) == 4
    path = write_table(tmp_path / "events.csv", x.T)
    detection = detect(trained("masked"), str(path))
    scores = evaluate_detection(detection, labels[None])["masked"]
    assert scores["auroc"] > 0.6, scores


@slow
def test_labels_of_a_whole_table_or_record_are_cut_to_the_rows_that_the_run_is_tested_on(trained, tmp_path):
    detection = detect(trained("masked"), threshold=1.0)
    labels = np.zeros(640, dtype=int)
    labels[580:600] = 1
    np.save(tmp_path / "labels.npy", labels)
    np.testing.assert_array_equal(load_labels(detection, str(tmp_path / "labels.npy"))[0], labels[512:] == 1)
    # beats: normal ones at 570, 590 + 20 and 630, and a ventricular one at 590, which reaches halfway to both
    words = [(1, 570), (5, 20), (1, 20), (1, 20), (0, 0)]
    (tmp_path / "beats.atr").write_bytes(b"".join((code << 10 | step).to_bytes(2, "little") for code, step in words))
    np.testing.assert_array_equal(load_labels(detection, str(tmp_path / "beats.atr"))[0], labels[512:] == 1)
    detection.recordings.reader = {"use": "wfdb", "start": 2.0, "stop": None}
    with pytest.raises(OptionError, match=r"beats\.atr: its positions are those of the whole record"):
        load_labels(detection, str(tmp_path / "beats.atr"))


@slow
def test_labels_are_a_column_of_a_table_of_any_layout(trained, spiked, tmp_path):
    header, *lines = spiked.read_text().splitlines()
    rows = [f"{line.replace(',', ';').replace('.', ',')};{int(i == SPIKE)}" for i, line in enumerate(lines)]
    text = "\n".join(["Zähler", header.replace(",", ";") + ";fault", *rows])
    (tmp_path / "data.csv").write_text(text, encoding="latin-1")
    words = ["--reader", "csv", "--reader.encoding", "latin-1", "--reader.skip-lines", 1, "--sample-labels", "fault"]
    words += ["--data", tmp_path / "data.csv", "--out", tmp_path / "scores.csv", "--json"]
    metrics = json.loads(call("detect", trained("masked"), *words).stdout)["metrics"]
    assert metrics["masked"]["auroc"] > 0.99


@slow
def test_scores_and_events_are_not_the_same_file(trained, tmp_path):
    same = tmp_path / "a.csv"
    assert "is the file of --out" in refuse("detect", trained("masked"), "--out", same, "--events", same)
    assert not same.exists()


def test_events_are_runs_above_the_threshold():
    scores = np.array([[5, 1, 3, np.nan, 4, 6, 1, 7.0], [0] * 8])
    by_channel = np.stack([scores, scores * 0.5], 1)
    by_channel[0, 1, 4:6] = 9.0
    events = find_events(scores, 2.0, by_channel, ("u", "v"))
    assert [(e.series, e.start, e.end, e.peak, e.score, e.channel) for e in events] == [
        (0, 0, 0, 0, 5.0, "u"),
        (0, 2, 2, 2, 3.0, "u"),
        (0, 4, 5, 5, 6.0, "v"),
        (0, 7, 7, 7, 7.0, "u"),
    ]
    assert find_events(scores, 7.0) == []
    assert find_events(scores[:1], 6.5, None, ("u",))[0].channel == "u"


@slow
def test_a_run_without_its_training_data_needs_a_threshold(trained, spiked, tmp_path):
    moved = shutil.copytree(trained("masked"), tmp_path / "moved")
    config = read_record(moved / "config.json")
    config["config"]["data"]["use"] = "gone.csv"
    write_record(moved / "config.json", config)
    words = ["detect", moved, "--data", spiked, "--out", tmp_path / "a.csv"]
    message = refuse(*words)
    assert "the scores need the training data of the run" in message
    assert "give a threshold of your own with --threshold" in message
    call(*words, "--threshold", "1.5")
    assert ",1.5," in (tmp_path / "a.csv").read_text().splitlines()[1]


@slow
def test_what_cannot_be_done_is_refused(trained, spiked, tmp_path):
    out = ["--out", tmp_path / "a.csv"]
    contrastive, masked = trained("contrastive"), trained("masked")
    message = refuse("detect", contrastive, "--data", spiked, "--method", "masked", *out)
    assert "--method masked: it needs a run that predicts the samples of masked tokens" in message
    assert "this run supports distance" in message
    assert "no column called 'fault'" in refuse("detect", masked, "--data", spiked, "--sample-labels", "fault", *out)
    np.save(tmp_path / "short.npy", np.ones(7))
    message = refuse("detect", masked, "--data", spiked, "--sample-labels", tmp_path / "short.npy", *out)
    assert "7 labels of 1 series, and there are 640 samples of 1; give one label per sample" in message
    np.save(tmp_path / "none.npy", np.zeros(640))
    message = refuse("detect", masked, "--data", spiked, "--sample-labels", tmp_path / "none.npy", *out)
    assert "no sample is labelled as an anomaly" in message
    assert list(tmp_path.glob("a.csv*")) == []
