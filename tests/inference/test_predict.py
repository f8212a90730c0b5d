"""Runs are applied to data of which only some series are labelled."""

import numpy as np
import pytest

from tstk.config.resolve import resolve_config
from tstk.data import DataConfig, load_data
from tstk.errors import DataError, DataNoteWarning
from tstk.inference.predict import embed, predict, score
from tstk.training.runs import train

SMALL = {
    "tokenizer": {"use": "patch", "dim": 8, "window": 4},
    "encoder": {"use": "transformer", "dim": 8, "depth": 1, "heads": 2},
    "head": "linear",
    "train": {"steps": 3, "batch_size": 8, "device": "cpu"},
}
LABELS = {"classification": ["up", "down"] * 6, "multilabel": ["up;far", "down", ";"] * 4, "regression": [*range(12)]}
SAMPLES = np.random.default_rng(0).normal(size=(12, 8)).round(3)


def write_table(path, labels):
    lines = [",".join(map(str, [label, *row])) for label, row in zip(labels, SAMPLES, strict=True)]
    path.write_text("\n".join(["label," + ",".join(f"t{i}" for i in range(8)), *lines]))
    return str(path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a function that trains a run for a task once, and returns its directory."""
    folder, runs = tmp_path_factory.mktemp("runs"), {}

    def train_once(task):
        if task not in runs:
            data = {"use": write_table(folder / f"{task}.csv", LABELS[task]), "task": task, "val_fraction": 0.25}
            data |= {"label_separator": ";"} if task == "multilabel" else {}
            runs[task] = train(resolve_config(("flag", {**SMALL, "data": data})), folder / task).run_dir
        return runs[task]

    return train_once


@pytest.mark.slow
@pytest.mark.parametrize("spelling", ["", "NA", "?"])
@pytest.mark.parametrize("task", LABELS)
def test_series_without_a_label_are_predicted_and_left_out_of_scores(trained, tmp_path, task, spelling):
    run, labels = trained(task), LABELS[task]
    partial = write_table(tmp_path / "x.csv", [spelling if i % 3 == 0 else label for i, label in enumerate(labels)])
    full = write_table(tmp_path / "full.csv", labels)
    with pytest.warns(DataNoteWarning, match="4 of 12 series have no label; metrics leave them out"):
        prediction = predict(run, partial)
    expected = predict(run, full)
    np.testing.assert_array_equal(prediction["predicted"], expected["predicted"])
    known = [i for i in range(12) if i % 3]
    np.testing.assert_array_equal(prediction["truth"][known], expected["truth"][known])
    unknown = {"classification": {""}, "multilabel": {"down?;far?;up?"}}
    if task == "regression":
        assert np.isnan(prediction["truth"][::3]).all()
    else:
        assert set(prediction["truth"][::3]) == unknown[task]
    if task == "classification":
        scores = score(run, partial)
        assert scores["size"] == 8
        hits = prediction["predicted"][known] == prediction["truth"][known]
        assert scores["scores"]["accuracy"] == pytest.approx(hits.mean())
        assert embed(run, partial)["y"][::3].tolist() == [-1] * 4


def test_data_none_of_whose_series_has_a_label_are_predicted_and_not_scored(trained, tmp_path):
    run, data = trained("classification"), write_table(tmp_path / "x.csv", [""] * 12)
    assert set(predict(run, data)["truth"]) == {""}
    with pytest.raises(DataError, match="these series have no labels, so there is nothing to score"):
        score(run, data)


@pytest.mark.parametrize(
    ("spelling", "fault"),
    [
        ("", "has no label; remove it"),
        ("NA", "has the label 'NA', which is read as a missing one; rename it if it is a class, or remove the series"),
    ],
)
def test_training_on_series_without_a_label_is_refused_with_what_was_read(tmp_path, spelling, fault):
    path = write_table(tmp_path / "x.csv", ["up", spelling, spelling, *["down"] * 9])
    with pytest.raises(DataError, match=rf"series 2 \(and 1 more\) {fault}.*, or pretrain without labels"):
        load_data(path)
    with pytest.raises(DataError, match="; for none of the labels, write ';'"):
        load_data(path, DataConfig(label_separator=";"))
    assert load_data(path, DataConfig(drop_columns=("label",))).task is None


def test_a_class_that_a_file_declares_is_no_missing_label(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, X=SAMPLES, y=np.arange(12) % 2, classes=["NA", "up"])
    assert load_data(str(path)).classes == ("NA", "up")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.ts", "@classLabel true a b\n@data\n1,2:a\n1,2:?\n"),
        ("x.csv", "t0,t1,label\n1,2,a\n1,2,\n"),
        ("x.csv", "id,time,u,label\n1,1,2,a\n1,2,3,a\n2,1,2,nan\n2,2,3,nan\n"),
    ],
)
def test_files_of_all_formats_with_a_missing_label_are_refused_in_training(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=r"series 2.* has (no label|the label 'nan')"):
        load_data(str(tmp_path / name))
