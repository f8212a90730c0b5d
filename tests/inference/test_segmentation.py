"""A run of the task `segmentation`: predictions, segments, scores, its report and its export."""

import csv
from itertools import pairwise

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import tstk
from tests.data.test_segmentation import write_long
from tstk.errors import DataError, DataNoteWarning
from tstk.evaluation.probe import probe
from tstk.inference.export import export
from tstk.inference.predict import predict, score
from tstk.inference.segments import list_segments
from tstk.plot.embeddings import Embeddings
from tstk.report import predictions, write_report

pytestmark = pytest.mark.slow

LENGTHS = {"r0": 50, "r1": 61, "r2": 40, "r3": 55, "r4": 70, "r5": 33}
SMALL = {"encoder__dim": 8, "encoder__depth": 1, "encoder__heads": 2, "tokenizer": "patch", "tokenizer__dim": 8}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("segmentation")
    data = write_long(folder / "d.csv", tuple(LENGTHS.values()))
    options = {"task": "segmentation", "length": 16, "stride": 8, "test_fraction": 0.4, "steps": 4, "batch_size": 8}
    tstk.fit(data=str(data), out=folder / "run", seed=0, **options, **SMALL)
    return folder / "run"


def test_segments_tile_each_recording_and_agree_with_the_classes_of_samples(run):
    arrays = predict(run)
    header, rows = list_segments(arrays)
    assert header == ["id", "group", "start", "end", "predicted", "probability"]
    for name in set(arrays["id"]):
        segments = [row for row in rows if row[0] == name]
        ends = [0, *(row[3] for row in segments)]
        assert [row[2] for row in segments] == ends[:-1]
        assert ends[-1] == LENGTHS[name]
        samples = np.concatenate(arrays["predicted"][arrays["id"] == name])
        expected = [label for row in segments for label in [row[4]] * (row[3] - row[2])]
        assert samples[samples != ""].tolist() == expected
        assert all(a[4] != b[4] for a, b in pairwise(segments))
    assert arrays["probability"].sum(1) == pytest.approx(1.0)
    assert set(np.unique(arrays["truth"])) <= {"", *arrays["classes"]}


def test_scores_are_by_sample_and_by_segment_beside_three_baselines(run):
    result = score(run)
    names = {"f1_macro", "sample_accuracy", "balanced_accuracy", "kappa", "edit", "f1_10", "f1_25", "f1_50"}
    assert names < set(result["scores"])
    assert set(result["baselines"]) == {"majority class", "centroid", "logistic"}
    arrays = predict(run)
    is_known = arrays["truth"] != ""
    accuracy = (arrays["predicted"] == arrays["truth"])[is_known].mean()
    assert result["scores"]["sample_accuracy"] == pytest.approx(accuracy)


def test_a_table_without_labels_is_cut_and_predicted_as_one_recording(run, tmp_path):
    x = np.random.default_rng(0).normal(size=(45, 2))
    with (tmp_path / "new.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["a", "b"], *x.tolist()])
    arrays = predict(run, str(tmp_path / "new.csv"))
    assert arrays["start"].tolist() == [0, 16, 32]
    header, rows = list_segments(arrays)
    assert header == ["start", "end", "predicted", "probability"]
    assert rows[-1][1] == 45
    assert "truth" not in arrays


def test_the_report_has_bands_of_classes(run, tmp_path):
    text = write_report(run, tmp_path / "report.html").read_text()
    assert "Classes of samples, test split" in text
    assert "True and predicted classes of r" in text


def test_the_exported_graph_returns_logits_per_sample(run):
    pipeline = tstk.load(run)
    x = torch.randn(3, 2, 16, generator=torch.Generator().manual_seed(0))
    assert export(pipeline).module()(x).shape == (3, 3, 16)


def test_labels_per_series_of_other_data_are_not_used(run, tmp_path):
    np.savez(tmp_path / "other.npz", X=np.random.default_rng(0).normal(size=(3, 2, 16)), y=[0, 1, 1])
    with pytest.warns(DataNoteWarning, match="y is not used: it holds a label per series"):
        arrays = predict(run, str(tmp_path / "other.npz"))
    assert arrays["predicted"].shape == (3, 16)
    assert "truth" not in arrays


def test_a_pretrained_run_on_classes_per_sample_is_probed_on_classes_of_series_with_its_reader(tmp_path):
    data = write_long(tmp_path / "d.csv", tuple(LENGTHS.values()))
    data.write_text(data.read_text().replace(",", ";"))
    reader = {"use": "csv", "delimiter": ";"}
    options = {"task": "segmentation", "length": 16, "test_fraction": 0.4, "steps": 2, "reader": reader}
    tstk.fit(data=str(data), out=tmp_path / "run", loss="masked", **options, **SMALL)
    rng = np.random.default_rng(0)
    for split in ("TRAIN", "TEST"):
        with (tmp_path / f"other_{split}.csv").open("w") as file:
            print("id;time;a;b;label", file=file)
            for i in range(12):
                for t in range(16):
                    print(i, t, *rng.normal(size=2) + i % 2, i % 2, sep=";", file=file)
    result = probe(tmp_path / "run", str(tmp_path / "other_TRAIN.csv"))
    assert result["classes"] == ["0", "1"]
    assert result["sizes"]["test"] == 12


def test_the_report_draws_series_without_a_known_class_apart(run, monkeypatch):
    drawn = []
    monkeypatch.setattr(predictions, "render_panel", lambda label, text, draw, **kwargs: drawn.append(draw) or "")
    embeddings = Embeddings(np.eye(3, 2), torch.arange(3), np.array([0, -1, 1]), ("walk", "rest"), "")
    predictions._plot_embeddings("", embeddings.values, embeddings)
    drawn[0](axes := Figure(layout="constrained").subplots())
    names_and_counts = [(part.get_label(), len(part.get_offsets())) for part in axes.collections]
    assert names_and_counts == [("walk", 1), ("rest", 1), ("unknown", 1)]


def test_a_recording_of_other_data_is_resampled_as_a_whole_like_those_of_training(tmp_path):
    data = write_long(tmp_path / "d.csv", tuple(LENGTHS.values()))
    options = {"task": "segmentation", "length": 16, "resize": 16, "test_fraction": 0.4, "steps": 1}
    tstk.fit(data=str(data), out=tmp_path / "run", **options, **SMALL)
    rows = np.random.default_rng(0).normal(size=(45, 2)).tolist()
    with (tmp_path / "new.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["a", "b"], *rows])
    with pytest.warns(DataNoteWarning, match="samples are those of series resampled to 16"):
        assert predict(tmp_path / "run", str(tmp_path / "new.csv"))["predicted"].shape == (1, 16)


def test_series_whose_classes_are_all_unknown_are_not_scored(run, tmp_path):
    x = np.random.default_rng(0).normal(size=(3, 2, 16))
    np.savez(tmp_path / "unknown.npz", X=x, y=np.full((3, 16), -1), classes=["rest", "run", "walk"])
    with pytest.warns(DataNoteWarning), pytest.raises(DataError, match="no labels, so there is nothing to score"):
        score(run, str(tmp_path / "unknown.npz"))


def test_samples_of_a_frame_are_classified_in_the_rows_of_the_frame(run):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    arrays = predict(run)
    frame = pandas.read_csv(run.parent / "d.csv")
    shuffled = frame.sample(frac=1, random_state=0).sort_values("time", kind="stable")
    rows = tstk.load(run).predict(shuffled)
    assert rows.index.equals(shuffled.index)
    for name in set(arrays["id"]):
        windows = np.flatnonzero(arrays["id"] == name)
        samples = np.concatenate(arrays["predicted"][windows])
        probability = np.concatenate([arrays["probability"][i].T for i in windows])
        own = rows[shuffled["id"] == name]
        assert own["predicted"].tolist() == samples[samples != ""].tolist()
        np.testing.assert_allclose(own.iloc[:, 1:].to_numpy(), probability[: len(own)], atol=1e-5)


def test_rows_of_a_frame_with_numbers_as_ids_or_without_ids_get_the_classes_of_the_same_rows(run):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame, pipeline = pandas.read_csv(run.parent / "d.csv"), tstk.load(run)
    expected = pipeline.predict(frame)
    numbered = pipeline.predict(frame.assign(id=frame["id"].str[1:].astype(float)))
    pandas.testing.assert_frame_equal(numbered, expected)
    is_own = frame["id"] == "r1"
    alone = pipeline.predict(frame.loc[is_own, list(pipeline.channel_names)])
    pandas.testing.assert_frame_equal(alone, expected[is_own], rtol=1e-4)


def test_a_frame_is_refused_where_series_are_resampled_so_that_samples_are_not_its_rows(tmp_path):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    data = write_long(tmp_path / "d.csv", tuple(LENGTHS.values()))
    options = {"task": "segmentation", "length": 16, "resize": 16, "test_fraction": 0.4, "steps": 1}
    tstk.fit(data=str(data), out=tmp_path / "run", **options, **SMALL)
    with pytest.raises(DataError, match="series resampled to 16 samples, not those of rows"):
        tstk.load(tmp_path / "run").predict(pandas.read_csv(data))
