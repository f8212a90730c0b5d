"""Data frames are series whose rows are times and whose columns are channels."""

import numpy as np
import pytest
import torch

import tstk
from tstk.core.types import Spec
from tstk.errors import DataError, OptionError

pandas = pytest.importorskip("pandas", reason="pandas is not installed")

SAMPLES = np.random.default_rng(0).normal(size=(4, 3, 16)).astype(np.float32)
FRAMES = [pandas.DataFrame(series.T, columns=["ax", "ay", "az"]) for series in SAMPLES]


@pytest.fixture(scope="module")
def pipeline():
    pipeline = tstk.build(
        spec=Spec(channels=3, length=16, task="classification", num_outputs=2),
        tokenizer="patch",
        tokenizer__window=4,
        encoder="transformer",
        encoder__dim=8,
        encoder__heads=2,
        encoder__depth=1,
        head="linear",
    )
    pipeline.set_input_schema({"channels": ["ax", "ay", "az"]})
    return pipeline


def test_a_list_of_frames_is_predicted_as_the_array_of_their_transposes(pipeline):
    expected = pipeline.predict(SAMPLES).probabilities
    np.testing.assert_array_equal(pipeline.predict(FRAMES).probabilities, expected)
    np.testing.assert_array_equal(
        pipeline.predict(FRAMES[1]).probabilities[0], pipeline.predict(SAMPLES[1:2]).probabilities[0]
    )


def test_frames_of_unequal_lengths_are_padded(pipeline):
    padded = SAMPLES.copy()
    padded[1, :, 10:] = np.nan
    frames = [FRAMES[0], FRAMES[1].iloc[:10]]
    np.testing.assert_allclose(
        pipeline.predict(frames).probabilities, pipeline.predict(padded[:2]).probabilities, atol=1e-6
    )


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([FRAMES[0], FRAMES[1][["ay", "ax", "az"]]], "data frame 2 has columns ay, ax, az; expected ax, ay, az"),
        ([FRAMES[0][["ax", "ay"]]], "data frame 1 has columns ax, ay; expected ax, ay, az"),
        ([FRAMES[0].assign(az="walk")], "data frame 1: column 'az' is not numbers; leave it out"),
        ([FRAMES[0].T], "data frame 1 has columns 0, 1, 2"),
    ],
)
def test_frames_with_other_columns_are_refused_by_name(pipeline, frames, message):
    with pytest.raises(DataError, match=message):
        pipeline.predict(frames)


def test_estimators_take_lists_of_frames():
    from tstk.sklearn import SeriesClassifier

    options = {"tokenizer": "patch", "tokenizer__window": 4, "encoder": "transformer", "encoder__dim": 8}
    options |= {"encoder__heads": 2, "encoder__depth": 1, "epochs": 1, "val_fraction": 0.0, "device": "cpu"}
    torch.manual_seed(0)
    from_frames = SeriesClassifier(**options).fit(FRAMES, [0, 1, 0, 1])
    torch.manual_seed(0)
    from_arrays = SeriesClassifier(**options).fit(SAMPLES, [0, 1, 0, 1])
    assert from_frames.n_features_in_ == 3
    np.testing.assert_array_equal(from_frames.predict_proba(FRAMES), from_arrays.predict_proba(SAMPLES))
    with pytest.raises(DataError, match="expected ax, ay, az, in this order"):
        from_frames.predict([FRAMES[0][["ay", "ax", "az"]]])


def test_a_frame_is_loaded_as_the_same_table_in_a_file(tmp_path):
    index = pandas.date_range("2020-01-01", periods=60, freq="h", tz="Europe/Berlin")
    frame = pandas.DataFrame({"u": np.arange(60) % 7, "v": np.arange(60) % 5}, index=index)
    frame.rename_axis("time").to_parquet(tmp_path / "x.parquet")
    config = tstk.data.DataConfig(context=4, horizon=2)
    loaded, read = tstk.data.load_data(frame, config), tstk.data.load_data(str(tmp_path / "x.parquet"), config)
    assert loaded.train.table.equal(read.train.table)
    assert loaded.notes == read.notes
    assert "(Europe/Berlin)" in loaded.notes[0]


def test_what_is_no_frame_is_refused_in_one_line():
    with pytest.raises(DataError, match="data: a int, which is no data frame"):
        tstk.data.load_data(3)
    with pytest.raises(OptionError, match="data is a list, and a run records the files of its data"):
        tstk.fit(data=[FRAMES[0]])


def test_a_frame_of_several_series_is_not_taken_for_one(pipeline):
    panel = pandas.concat({"a": FRAMES[0].iloc[:8], "b": FRAMES[1].iloc[:8]})
    for x in (panel, [panel]):
        with pytest.raises(DataError, match="data frame 1 has 2 levels in its index, and one series is expected"):
            pipeline.predict(x)
    series = [rows.droplevel(0) for _, rows in panel.groupby(level=0)]
    assert len(pipeline.predict(series).probabilities) == 2
