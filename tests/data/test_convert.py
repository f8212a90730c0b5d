"""Conversion between formats preserves the data."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tstk.data import DataConfig, lazy_array, load_data
from tstk.data.convert import convert
from tstk.data.load import read_splits
from tstk.errors import DataError, FileError, OptionError


def assert_same_data(first, second):
    assert first.describe() | {"name": 0, "source": 0, "split": 0, "notes": 0} == second.describe() | {
        "name": 0,
        "source": 0,
        "split": 0,
        "notes": 0,
    }
    for name, part in first.splits.items():
        here, there = (p.batch(torch.arange(len(p))) for p in (part, second.splits[name]))
        assert here.x.equal(there.x)
        assert here.observed_mask.equal(there.observed_mask)
        assert part.groups == second.splits[name].groups
        assert (here.y is None) if there.y is None else here.y.equal(there.y)


@pytest.mark.parametrize("out", ["out.npz", "out"])
def test_what_was_converted_is_the_same_data(tmp_path, out):
    shapes, _ = convert("har-demo", str(tmp_path / out))
    assert shapes == {"train": (252, 9, 128), "test": (108, 9, 128)}
    assert_same_data(load_data("har-demo"), load_data(str(tmp_path / out)))
    assert [path.name for path in tmp_path.iterdir()] == [out]


@pytest.mark.parametrize("out", ["out.npz", "out"])
def test_unequal_lengths_and_the_order_of_classes_survive(pair, tmp_path, out):
    path = pair(["1,2,3:4,?,6:a", "1:2:b", "3,4:5,6:b", "2,3:1,?:a"])
    convert(path, str(tmp_path / out))
    assert_same_data(load_data(path), load_data(str(tmp_path / out)))


@pytest.mark.parametrize("out", ["out.npz", "out"])
def test_a_table_is_converted_as_series_of_a_length(table, tmp_path, out):
    path, _ = table(203)
    with pytest.raises(DataError, match="give --length to cut it"):
        convert(path, str(tmp_path / out))
    _, notes = convert(path, str(tmp_path / out), DataConfig(length=8))
    assert notes[0].startswith("columns: channels 'u', 'v'; time 'date'")
    assert "rows 1 to 142: the last 6 rows are left out, as they fill no series" in notes[0]
    cut, written = load_data(path, DataConfig(length=8)), load_data(str(tmp_path / out))
    assert {group for split in written.splits.values() for group in split.groups} == {Path(path).name}
    for split in written.splits.values():  # which those of one table in memory do not need
        split.groups = None
    assert_same_data(cut, written)


def test_the_rows_of_a_table_without_times_become_ids(tmp_path):
    lines = ["ax,ay", *(f"{i},{-i}" for i in range(40))]
    (tmp_path / "walk.csv").write_text("\n".join(lines))
    _, notes = convert(str(tmp_path / "walk.csv"), str(tmp_path / "out.npz"), DataConfig(length=4))
    splits = read_splits(str(tmp_path / "out.npz"))
    rows = [int(name) for split in ("train", "val", "test") for name in splits[split].ids]
    assert rows == list(range(0, 40, 4))
    assert splits["test"].x[0, 0, 0] == int(splits["test"].ids[0])
    assert any("from 0, become their ids" in note for note in notes)


@pytest.mark.parametrize("out", ["out.npz", "out"])
def test_a_large_set_is_converted_some_series_at_a_time(labelled, tmp_path, monkeypatch, out):
    path = labelled()
    near = load_data(path)
    monkeypatch.setattr(lazy_array, "MAX_IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(lazy_array, "CHUNK_SAMPLES", 50)
    calls = []
    convert(path, str(tmp_path / out), on_progress=lambda done, total: calls.append((done, total)))
    assert calls == [*((4 * i, 30) for i in range(1, 6)), (24, 30), (28, 30), (30, 30)]
    far = load_data(str(tmp_path / out))
    assert isinstance(far.train.x, lazy_array.LazyArray)
    assert_same_data(near, far)


def test_nothing_is_overwritten_or_written_where_it_cannot_be_read(labelled, tmp_path):
    path = labelled()
    (tmp_path / "out.npz").write_text("dear")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letter").write_text("dear")
    for out, force in (("out.npz", False), ("out", False), ("out", True)):
        with pytest.raises(FileError, match=r"already exists; .*choose another name"):
            convert(path, str(tmp_path / out), force=force)
    assert (tmp_path / "out.npz").read_text() == (tmp_path / "out" / "letter").read_text() == "dear"
    with pytest.raises(OptionError, match=r"ends in \.npz, or a folder"):
        convert(path, str(tmp_path / "out.csv"))
    with pytest.raises(FileError, match="no does not exist; create it first"):
        convert(path, str(tmp_path / "no" / "out.npz"))
    with pytest.raises(OptionError, match="--length 5 has no meaning here"):
        convert(path, str(tmp_path / "new.npz"), DataConfig(length=5))


def test_an_archive_is_replaced_if_that_is_asked_for_and_a_folder_filled_if_it_is_empty(labelled, tmp_path):
    path = labelled()
    (tmp_path / "out.npz").write_text("old")
    (tmp_path / "out").mkdir()
    convert(path, str(tmp_path / "out.npz"), force=True)
    convert(path, str(tmp_path / "out"))
    assert_same_data(load_data(str(tmp_path / "out.npz")), load_data(str(tmp_path / "out")))
    assert sorted(one.name for one in tmp_path.iterdir()) == ["out", "out.npz", "toy.npz"]


def test_what_fails_half_way_leaves_nothing_behind(labelled, tmp_path):
    path = labelled()

    def full(done, total):
        raise OSError(28, "No space left on device")

    for out in ("out.npz", "out"):
        with pytest.raises(FileError, match=r"has no room for out.*No space left on device"):
            convert(path, str(tmp_path / out), on_progress=full)
    assert [one.name for one in tmp_path.iterdir()] == ["toy.npz"]


def test_the_arrays_are_plain_float32_and_text(labelled, tmp_path):
    convert(labelled(), str(tmp_path / "out"))
    x = np.load(tmp_path / "out" / "X_train.npy", mmap_mode="r")
    assert (x.dtype, x.shape) == (np.float32, (20, 2, 6))
    assert np.load(tmp_path / "out" / "y_train.npy").tolist() == ["0", "1"] * 10
