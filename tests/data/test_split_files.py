"""`tstk data split` writes splits as files that `--data DIR` reads, and loses nothing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from tstk.cli import cli
from tstk.data import DataConfig, load_data
from tstk.data.convert import convert
from tstk.data.load import read_splits
from tstk.data.split_files import split_data
from tstk.errors import DataError, FileError, OptionError

HALF = DataConfig(test_fraction=0.5)


@pytest.fixture
def people(tmp_path):
    """Write series of two channels with labels, groups, ids and gaps, and return the path."""
    x = np.random.default_rng(0).normal(size=(24, 2, 7)).astype(np.float32)
    x[::5, 1, 3:] = np.nan
    names = {"ids": np.array([f"r{i}" for i in range(24)]), "channels": np.array(["ax", "ay"])}
    y = np.array(["walk", "run, fast", "sit"])[np.arange(24) % 3]
    np.savez(tmp_path / "people.npz", X=x, y=y, subject=np.arange(24) // 3, **names)
    return str(tmp_path / "people.npz")


def as_records(series_set):
    """Return id -> everything that belongs to a series."""
    return {
        name: (x.tobytes(), x.dtype, y, group)
        for name, x, y, group in zip(series_set.ids, series_set.x, series_set.y, series_set.groups, strict=True)
    }


def test_series_are_written_with_all_that_belongs_to_them(people, tmp_path):
    config = DataConfig(test_fraction=0.25, val_fraction=0.3)
    sizes, _ = split_data(people, str(tmp_path / "out"), config)
    assert sum(sizes.values()) == 24
    assert list(sizes) == ["train", "val", "test"]
    whole = read_splits(people)["train"]
    splits = read_splits(str(tmp_path / "out"))
    assert {k: v for split in splits.values() for k, v in as_records(split).items()} == as_records(whole)
    assert all(split.channels == ("ax", "ay") for split in splits.values())
    groups = [set(split.groups) for split in splits.values()]
    assert sum(map(len, groups)) == len(set.union(*groups))


def test_the_written_test_split_is_the_one_that_training_holds_out(people, tmp_path):
    split_data(people, str(tmp_path / "out"), DataConfig(test_fraction=0.25, split_seed=3))
    held_out = load_data(people, DataConfig(test_fraction=0.25, split_seed=3))
    assert load_data(str(tmp_path / "out")).test.ids == held_out.test.ids


def test_a_file_without_ids_gets_its_rows_as_ids_and_a_line_says_so(tmp_path):
    x = np.arange(12, dtype=np.float32)[:, None].repeat(4, 1)
    np.savez(tmp_path / "x.npz", X=x)
    _, notes = split_data(str(tmp_path / "x.npz"), str(tmp_path / "out"), HALF)
    assert any("rows of the series in it, from 0, become their ids" in note for note in notes)
    for split in read_splits(str(tmp_path / "out")).values():
        assert [float(name) for name in split.ids] == split.x[:, 0, 0].tolist()


@pytest.mark.parametrize(("by", "expected"), [("class", [4, 4, 4]), ("time", [4, 4, 4]), ("group", None)])
def test_series_are_divided_as_the_option_says(people, tmp_path, by, expected):
    _, notes = split_data(people, str(tmp_path / "out"), HALF, by=by)
    test = read_splits(str(tmp_path / "out"))["test"]
    shared = set(test.groups) & set(read_splits(str(tmp_path / "out"))["train"].groups)
    if expected:
        assert sorted(test.y.count(name) for name in set(test.y)) == expected
    if by == "time":
        assert test.ids == [f"r{i}" for i in range(12, 24)]
    assert bool(shared) == (by == "class")
    assert any("groups occur both in train and in test" in note for note in notes) == bool(shared)


def test_groups_that_do_not_exist_cannot_be_held_out(tmp_path):
    np.savez(tmp_path / "x.npz", X=np.ones((8, 4)))
    with pytest.raises(DataError, match=r"fewer than two groups.*--group-column"):
        split_data(str(tmp_path / "x.npz"), str(tmp_path / "out"), HALF, by="group")
    assert not (tmp_path / "out").exists()


def test_a_table_is_divided_in_time_and_read_back_to_the_bit(table, tmp_path):
    path, values = table(50)
    values[3, 1] = np.nan
    sizes, _ = split_data(path, str(tmp_path / "out"), DataConfig(test_fraction=0.2, val_fraction=0.25))
    assert sizes == {"train": 30, "val": 10, "test": 10}
    whole, splits = read_splits(path)["train"], read_splits(str(tmp_path / "out"))
    assert np.concatenate([splits[name].values for name in sizes]).tobytes() == whole.values.tobytes()
    assert [time for name in sizes for time in splits[name].times.write()] == whole.times.write()
    assert splits["test"].channels == whole.channels
    data = load_data(str(tmp_path / "out"), DataConfig(context=4, horizon=2))
    assert data.test.batch(torch.tensor([0])).x[0, :, 0].tolist() == values[40].tolist()


def test_a_table_is_cut_into_series_of_each_split(table, tmp_path):
    path, values = table(40)
    split_data(path, str(tmp_path / "out"), DataConfig(test_fraction=0.25, length=5))
    splits = read_splits(str(tmp_path / "out"))
    assert {name: len(split.x) for name, split in splits.items()} == {"train": 6, "test": 2}
    assert splits["test"].x[0].T.tolist() == values[30:35].tolist()
    assert splits["test"].ids[0] == "2020-01-02 06:00:00"
    assert (splits["train"].groups, splits["test"].groups) == ([Path(path).name] * 6, [Path(path).name] * 2)
    notes = load_data(str(tmp_path / "out")).notes
    assert "1 group occurs both in training and in test, so test scores are optimistic" in notes
    assert any(f"of the group of those to train on, '{Path(path).name}'" in note for note in notes)


@pytest.mark.parametrize("has_labels", [True, False])
def test_windows_of_a_recording_stay_in_one_split_when_they_are_divided_again(tmp_path, has_labels):
    config = DataConfig(length=5, **({"task": "segmentation", "label_column": "state"} if has_labels else {}))
    windows = []
    for name in "abc":
        lines = ["u,state", *(f"{i},{'on' if i % 2 else 'off'}" for i in range(60))]
        (tmp_path / f"{name}.csv").write_text(
            "\n".join(lines if has_labels else [line.split(",")[0] for line in lines])
        )
        convert(str(tmp_path / f"{name}.csv"), str(tmp_path / f"{name}.npz"), config)
        split_data(str(tmp_path / f"{name}.csv"), str(tmp_path / name), replace(config, test_fraction=0.25))
        windows.append(np.load(tmp_path / f"{name}.npz"))
        parts = [np.load(tmp_path / name / f"groups_{split}.npy") for split in ("train", "test")]
        assert set(np.concatenate(parts)) == {f"{name}.csv"}
    joined = {key: np.concatenate([w[f"{key}_train"] for w in windows]) for key in ("X", "groups", "ids")}
    np.savez(tmp_path / "all.npz", **joined)
    data = load_data(str(tmp_path / "all.npz"), DataConfig(test_fraction=0.3, val_fraction=0.3))
    assert len({*data.train.groups, *data.val.groups, *data.test.groups}) == 3
    assert not set(data.train.groups) & set(data.val.groups)
    assert not {*data.train.groups, *data.val.groups} & set(data.test.groups)


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("date,u\n2020-01-01,1\n2020-01-02,2\n2020-01-04,3\n2020-01-05,4\n", {}, "row 3 follows a gap"),
        ("Zeit;u\n01.01.2020;1,5\n02.01.2020;2,5\n03.01.2020;3\n04.01.2020;4\n", {}, "separated by ';'"),
        ("ax,ay\n1,2\n3,4\n5,6\n7,8\n", {"length": 2}, "no times: rows are taken as evenly spaced"),
        ("id,time,u\na,0,1\na,1,1\na,3,2\nb,0,1\nb,1,2\n", {}, "the times of 1 series are uneven"),
    ],
)
def test_the_notes_of_the_reader_are_repeated(tmp_path, text, options, expected):
    (tmp_path / "d.csv").write_text(text)
    _, notes = split_data(str(tmp_path / "d.csv"), str(tmp_path / "out"), DataConfig(test_fraction=0.5, **options))
    assert expected in notes[0]
    assert sum(expected in note for note in notes) == 1


def test_rows_of_a_table_without_times_become_ids_and_those_that_fill_no_series_are_said(tmp_path):
    (tmp_path / "d.csv").write_text("\n".join(["ax,ay", *(f"{i},{-i}" for i in range(23))]))
    _, notes = split_data(str(tmp_path / "d.csv"), str(tmp_path / "out"), DataConfig(test_fraction=0.5, length=5))
    splits = read_splits(str(tmp_path / "out"))
    assert {name: split.ids for name, split in splits.items()} == {"train": ["0", "5"], "test": ["11", "16"]}
    assert splits["test"].x[:, 0, 0].tolist() == [11, 16]
    assert any("rows 1 to 11: the last 1 rows are left out" in note for note in notes)


@pytest.mark.parametrize(
    ("options", "more", "message"),
    [
        ({}, {}, "Give --test-fraction"),
        ({"test_fraction": 0.5, "stride": 2}, {}, "--stride 2 has no meaning here"),
        ({"test_fraction": 0.5, "horizon": 2}, {}, "--horizon 2 has no meaning for tstk data split"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(people, tmp_path, options, more, message):
    with pytest.raises(OptionError, match=message):
        split_data(people, str(tmp_path / "out"), DataConfig(**options), **more)
    assert not (tmp_path / "out").exists()


def test_a_table_by_class_and_data_that_are_divided_already_are_refused(table, labelled, tmp_path):
    with pytest.raises(OptionError, match="--by class has no meaning here"):
        split_data(table(50)[0], str(tmp_path / "out"), HALF, by="class")
    with pytest.raises(OptionError, match="divided already, into train, test"):
        split_data(labelled(), str(tmp_path / "out"), HALF)


def test_splits_are_replaced_only_on_request_and_other_files_never(people, tmp_path):
    out = tmp_path / "out"
    split_data(people, str(out), HALF)
    with pytest.raises(FileError, match="already exists"):
        split_data(people, str(out), HALF)
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    split_data(people, str(out), DataConfig(test_fraction=0.25, val_fraction=0.3), force=True)
    assert {file.name for file in out.iterdir()} > set(before)
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(FileError, match=r"holds thesis\.txt, which tstk data split does not write"):
        split_data(people, str(out), HALF, force=True)
    assert (out / "thesis.txt").read_text() == "mine"
    assert sorted(tmp_path.iterdir()) == [out, tmp_path / "people.npz"]


@pytest.mark.parametrize("val_fraction", [None, 0.2])
def test_a_cut_table_without_a_validation_split_is_noted_as_its_series_are_neighbours(table, tmp_path, val_fraction):
    config = DataConfig(test_fraction=0.25, length=5, val_fraction=val_fraction)
    _, notes = split_data(table(60)[0], str(tmp_path / "out"), config)
    assert any("validate on neighbours of the series that it is" in note for note in notes) == (val_fraction is None)


def test_the_file_that_is_divided_is_never_replaced(table, tmp_path):
    (tmp_path / "d").mkdir()
    path = tmp_path / "d" / "train.csv"
    path.write_bytes(Path(table(50)[0]).read_bytes())
    before = path.read_bytes()
    with pytest.raises(FileError, match=r"holds train\.csv, which is to be divided"):
        split_data(str(path), str(tmp_path / "d"), HALF, force=True)
    assert path.read_bytes() == before


def test_the_command_says_what_it_wrote(people, tmp_path):
    words = ["data", "split", people, "--out", str(tmp_path / "out"), "--test-fraction", "0.25"]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output
    assert f"{tmp_path / 'out'}: train 18" in result.stdout
    assert "test: 2 of 8 groups (6 of 24 series) held out" in result.stderr
