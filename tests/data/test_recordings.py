"""A folder of recordings, one file each, is a data set: classes by folder, or by a manifest."""

import json

import numpy as np
import pytest

from tstk.data import DataConfig, list_datasets, load_data
from tstk.data.catalog import locate
from tstk.data.identity import identify_files
from tstk.data.load import read_splits
from tstk.errors import DataError, OptionError


def write_csv(path, rows, start=0.0, channels=("ax", "ay"), time="time"):
    """Write a recording whose channel k holds start + row + k / 2, and 3/4 in odd rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [",".join([time, *channels])]
    lines += [
        ",".join(map(str, (0.02 * i, *(start + i + k / 2 + i % 2 * 0.75 for k in range(len(channels))))))
        for i in range(rows)
    ]
    path.write_text("\n".join(lines))


@pytest.fixture
def by_class(tmp_path):
    """Write five recordings of unequal lengths in folders of two classes."""
    folder = tmp_path / "gait"
    for name, rows in (("run/b", 5), ("run/a", 8), ("walk/c", 6), ("walk/session 2/d", 4), ("walk/e", 7)):
        write_csv(folder / f"{name}.csv", rows, start=rows)
    return folder


def test_recordings_in_npy_refuse_a_reader_which_would_not_read_them(tmp_path):
    for name in ("run", "walk"):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "a.npy", np.ones((20, 5)))
    with pytest.raises(OptionError, match=r"--reader npy has no meaning for .*a\.npy, a recording in \.npy"):
        load_data(str(tmp_path), DataConfig(reader={"use": "npy", "axes": "channels-first"}))


def test_a_folder_per_class_is_a_data_set_whose_ids_are_the_file_names(by_class):
    series_set = read_splits(str(by_class))["train"]
    assert series_set.ids == ["run/a.csv", "run/b.csv", "walk/c.csv", "walk/e.csv", "walk/session 2/d.csv"]
    assert series_set.y == ["run", "run", "walk", "walk", "walk"]
    assert series_set.channels == ("ax", "ay")
    assert series_set.x.shape == (5, 2, 8)
    assert series_set.x[0, 0].tolist() == [8, 9.75, 10, 11.75, 12, 13.75, 14, 15.75]
    assert series_set.x[1, 1, :5].tolist() == [5.5, 7.25, 7.5, 9.25, 9.5]
    assert np.isnan(series_set.x[1, :, 5:]).all()


def test_what_was_taken_for_what_is_said(by_class):
    (by_class / "walk" / "notes.txt").write_text("rainy")
    (note,) = [note for note in load_data(str(by_class)).notes if "recordings" in note]
    for part in (
        "5 recordings (.csv)",
        "class by folder: run 2, walk 3",
        "channels 'ax', 'ay'",
        "time 'time'",
        "not read: .txt",
    ):
        assert part in note


def test_folders_of_splits_hold_folders_of_classes(tmp_path):
    for split in ("train", "Test"):
        for name in ("run/a", "walk/b", "run/c"):
            write_csv(tmp_path / "gait" / split / f"{name}.csv", 6)
    data = load_data(str(tmp_path / "gait"))
    assert len(data.test) == 3
    assert data.test.ids == ["run/a.csv", "run/c.csv", "walk/b.csv"]
    assert data.classes == ("run", "walk")


def write_manifest(folder, text, name="manifest.csv"):
    (folder / name).write_text(text)
    return str(folder / name)


@pytest.mark.parametrize("name", ["manifest.csv", "index.csv"])
@pytest.mark.parametrize("given", ["folder", "file"])
def test_a_manifest_says_labels_groups_and_splits(by_class, name, given):
    lines = ["file,label,subject,split,weather", "run/b.csv,fast,p1,train,dry", "walk/c.csv,slow,p2,TEST,wet"]
    path = write_manifest(by_class, "\n".join([*lines, "walk/e.csv,slow,p1,train,wet"]), name)
    splits = read_splits(path if given == "file" else str(by_class))
    assert (splits["train"].y, splits["train"].groups) == (["fast", "slow"], ["p1", "p1"])
    assert (splits["test"].y, splits["test"].ids) == (["slow"], ["walk/c.csv"])
    for part in ("label 'label'", "group 'subject'", "not used: 'weather'", "2 files beside it are not listed"):
        assert part in splits["train"].note


def test_columns_of_a_manifest_have_the_roles_that_options_give(by_class):
    lines = ["filename,who,age,gait,code", "run/a.csv,p1,31.5,fast,x7", "walk/c.csv,p2,,slow,x8"]
    write_manifest(by_class, "\n".join(lines))
    config = DataConfig(group_column="who", target_columns=("age",), label_column="gait", id_column="code")
    series_set = read_splits(str(by_class), roles=config.roles)["train"]
    assert (series_set.y, series_set.groups, series_set.ids) == (["fast", "slow"], ["p1", "p2"], ["x7", "x8"])
    assert series_set.target_names == ("age",)
    assert np.array_equal(series_set.targets, [[31.5], [np.nan]], equal_nan=True)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["../secret.csv,a"], r"line 2: file '../secret\.csv' is not below the folder of the manifest"),
        (["/etc/hostname,a"], r"line 2: file '/etc/hostname' is not below"),
        (["link/secret.csv,a"], r"line 2: file 'link/secret\.csv' is not below"),
        ([",a"], "line 2: file '' is not below"),
        (["run/a.csv,a", "run/z.csv,a"], r"line 3: there is no file 'run/z\.csv'"),
        (["run/a.csv,a", "run/a.csv,b"], r"line 3: file 'run/a\.csv' was listed before, in line 2"),
        (["run/a.csv,a,b"], "line 2: 3 cells, the header has 2"),
        (["run/a.wav,a"], r"line 2: 'run/a\.wav' is no recording"),
        ([], "no line after the header"),
    ],
)
def test_a_manifest_that_is_wrong_is_refused_with_the_line(by_class, lines, message):
    write_csv(by_class.parent / "secret.csv", 4)
    (by_class / "link").symlink_to(by_class.parent)
    (by_class / "run" / "a.wav").write_bytes(b"")
    path = write_manifest(by_class, "\n".join(["file,label", *lines]))
    with pytest.raises(DataError, match=message):
        read_splits(path)


def test_a_table_that_is_called_index_is_no_manifest(table, tmp_path):
    path, _ = table(30, name="index.csv")
    assert locate(path).files == {"train": tmp_path / "index.csv"}
    assert load_data(path, DataConfig(context=4, horizon=2)).task == "forecasting"


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        (("ax", "az"), r"walk/x\.csv: channels ax, az; run/a\.csv has ax, ay"),
        (("ax", "ay", "az"), r"channels ax, ay, az; run/a\.csv has ax, ay.*--channel-columns"),
    ],
)
def test_a_recording_with_other_channels_is_refused_by_name(by_class, channels, message):
    write_csv(by_class / "walk" / "x.csv", 5, channels=channels)
    with pytest.raises(DataError, match=message):
        read_splits(str(by_class))


def test_options_select_the_channels_that_all_recordings_have(by_class):
    write_csv(by_class / "walk" / "x.csv", 5, channels=("az", "ay"))
    assert read_splits(str(by_class), roles=DataConfig(channel_columns=("ay",)).roles)["train"].channels == ("ay",)
    with pytest.raises(DataError, match=r"run/a\.csv: no column called 'az' \(--channel-columns\)"):
        read_splits(str(by_class), roles=DataConfig(channel_columns=("az",)).roles)


def test_channels_in_another_order_are_brought_into_that_of_the_first_file(by_class):
    write_csv(by_class / "walk" / "x.csv", 3, channels=("ay", "ax"))
    series_set = read_splits(str(by_class))["train"]
    assert series_set.x[-1, :, :3].tolist() == [[0.5, 2.25, 2.5], [0, 1.75, 2]]
    assert "channels of 1 files were in another order" in series_set.note


def test_a_cell_that_is_no_number_names_file_and_line(by_class):
    (by_class / "walk" / "x.csv").write_text("time,ax,ay\n0,1,2\n1,left,3\n")
    with pytest.raises(DataError, match=r"walk/x\.csv, line 3: 'left' is not a number"):
        read_splits(str(by_class))


@pytest.mark.parametrize(
    ("shapes", "expected", "note"),
    [
        ([(3, 20), (3, 9)], (3, 20), "first axis of the arrays is taken as 3 channels (the same size"),
        ([(20, 3), (9, 3)], (3, 20), "second axis of the arrays is taken as 3 channels (the same size"),
        ([(20, 3), (20, 3)], (3, 20), "second axis of the arrays is taken as 3 channels (the shorter one"),
        ([(20,), (9,)], (1, 20), ""),
    ],
)
def test_the_axes_of_arrays_are_told_over_all_files_and_said(tmp_path, shapes, expected, note):
    for name, shape in zip(("x", "y"), shapes, strict=True):
        (tmp_path / "a" / name).mkdir(parents=True)
        np.save(tmp_path / "a" / name / "r.npy", np.arange(np.prod(shape), dtype=np.float32).reshape(shape))
    series_set = read_splits(str(tmp_path / "a"))["train"]
    assert series_set.x.shape == (2, *expected)
    first = np.arange(np.prod(shapes[0])).reshape(shapes[0])
    assert (
        series_set.x[0, :, 1].tolist()
        == (first[1:2] if first.ndim == 1 else first[1] if note[:1] == "s" else first[:, 1]).tolist()
    )
    assert note in series_set.note


def test_arrays_without_a_common_axis_are_refused(tmp_path):
    for name, shape in (("x", (3, 20)), ("y", (4, 9))):
        (tmp_path / "a" / name).mkdir(parents=True)
        np.save(tmp_path / "a" / name / "r.npy", np.ones(shape))
    with pytest.raises(DataError, match=r"neither axis .*\(3, 20\) and \(4, 9\)"):
        read_splits(str(tmp_path / "a"))


def test_parquet_and_ts_files_are_recordings(tmp_path):
    import pyarrow
    from pyarrow import parquet

    for name in ("x", "y"):
        (tmp_path / "a" / name).mkdir(parents=True)
        parquet.write_table(
            pyarrow.table({"t": [0, 1, 2], "ax": [1.0, None, 3.0]}), tmp_path / "a" / name / "r.parquet"
        )
        (tmp_path / "b" / name).mkdir(parents=True)
        lines = ["@problemName x", "@classLabel false", "@data", "1,2,3:4,5,6"]
        (tmp_path / "b" / name / "r.ts").write_text("\n".join(lines))
    assert read_splits(str(tmp_path / "a"))["train"].channels == ("ax",)
    assert read_splits(str(tmp_path / "b"))["train"].x.tolist() == [[[1, 2, 3], [4, 5, 6]]] * 2
    (tmp_path / "b" / "x" / "r.ts").write_text("\n".join([*lines, "1,2,3:4,5,6"]))
    with pytest.raises(DataError, match="holds 2 series; a recording is one series"):
        read_splits(str(tmp_path / "b"))


def test_a_run_knows_every_file_of_its_recordings(by_class):
    table = {"use": str(by_class), "data_root": None, "conditioning": ()}
    files = identify_files(table)
    assert [file["path"].removeprefix(f"{by_class}/") for file in files] == [
        "run/a.csv",
        "run/b.csv",
        "walk/c.csv",
        "walk/e.csv",
        "walk/session 2/d.csv",
    ]
    write_csv(by_class / "walk" / "e.csv", 3)
    assert json.dumps(identify_files(table)) != json.dumps(files)


def test_a_manifest_makes_a_folder_a_named_data_set(by_class):
    write_manifest(by_class, "file,label\nrun/a.csv,run\nrun/b.csv,run\nwalk/c.csv,walk\nwalk/e.csv,walk\n")
    root = str(by_class.parent)
    assert [row.name for row in list_datasets(root)] == ["har-demo", "gait"]
    assert load_data("gait", DataConfig(data_root=root)).classes == ("run", "walk")


def test_folders_of_data_sets_are_no_recordings(tmp_path, labelled):
    for name in ("A", "B"):
        (tmp_path / "root" / name).mkdir(parents=True)
        for split in ("TRAIN", "TEST"):
            (tmp_path / "root" / name / f"{name}_{split}.ts").write_text("@classLabel false\n@data\n1,2\n")
    with pytest.raises(DataError, match=r"no data in this folder.*folder of recordings for each class"):
        load_data(str(tmp_path / "root"))


def test_several_files_beside_each_other_are_asked_about(tmp_path):
    for name in ("a", "b"):
        write_csv(tmp_path / f"{name}.csv", 5)
    with pytest.raises(DataError, match=r"several data sets.*manifest\.csv \(file,label\)"):
        load_data(str(tmp_path))


def test_links_that_lead_out_of_a_folder_of_recordings_are_refused(by_class):
    write_csv(by_class.parent / "secret" / "s.csv", 4)
    for link, target in (("secret", "secret"), ("run/s.csv", "secret/s.csv"), ("walk/deep", "secret")):
        (by_class / link).symlink_to(by_class.parent / target)
        with pytest.raises(DataError, match=f"{link}: a link that leads out of"):
            read_splits(str(by_class))
        (by_class / link).unlink()
    (by_class / "walk" / "nowhere.csv").symlink_to(by_class / "none.csv")
    assert len(read_splits(str(by_class))["train"].x) == 5


def test_missing_rows_of_recordings_are_inserted_by_their_common_step(tmp_path):
    for name, times in (("walk/a", "0 1 4"), ("walk/b", "5 6 7"), ("run/a", "0 1 2"), ("run/b", "0 2 3")):
        path = tmp_path / f"{name}.csv"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(["time,u", *(f"{time},{i}" for i, time in enumerate(times.split()))]))
    series = read_splits(str(tmp_path), regularize=True)["train"]
    rows = dict(zip(series.ids, series.x[:, 0].tolist(), strict=True))
    assert str(rows["walk/a.csv"]) == "[0.0, 1.0, nan, nan, 2.0]"
    assert str(rows["run/b.csv"]) == "[0.0, nan, 1.0, 2.0, nan]"
    assert "3 missing rows of 2 series are inserted without samples, so that steps are 1" in series.note
    assert "the times of 2 series are uneven" in read_splits(str(tmp_path))["train"].note


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_manifest_is_read_with_the_delimiter_of_its_header(tmp_path, delimiter):
    rows = [["file", "label", "subject"], ["a.csv", "walk", "p, 1"], ["b.csv", "run", "p, 2"]]
    (tmp_path / "manifest.csv").write_text(
        "\n".join(delimiter.join(f'"{cell}"' if "," in cell else cell for cell in row) for row in rows)
    )
    for name in "ab":
        (tmp_path / f"{name}.csv").write_text("u\n1\n2\n")
    series = read_splits(str(tmp_path))["train"]
    assert (series.y, series.groups) == (["walk", "run"], ["p, 1", "p, 2"])
