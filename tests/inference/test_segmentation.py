"""A run of the task `segmentation`: predictions, segments, scores, its report and its export."""

import csv
from itertools import pairwise

import numpy as np
import pytest
import torch

import tstk
from tests.data.test_segmentation import write_long
from tstk.inference.export import export
from tstk.inference.predict import predict, score
from tstk.inference.segments import list_segments
from tstk.report import write_report

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
