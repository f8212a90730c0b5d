import numpy as np
import pytest

from tstk.data import get_reader
from tstk.data.columns import ColumnRoles
from tstk.data.containers import SeriesSet, Table, normalize_labels, pad_series
from tstk.data.readers import csv, npz, ts, tsv
from tstk.errors import DataError

HEAD = "@timeStamps false\n@classLabel true a b\n@data\n"


def write(folder, name, text):
    path = folder / name
    path.write_text(text)
    return path


def test_ts_keeps_channels_lengths_missing_samples_and_labels(tmp_path):
    raw = ts.read(write(tmp_path, "x.ts", HEAD + "1,2,?:4,5,6:b\n7:8:a\n"))["train"]
    nan = np.nan
    np.testing.assert_array_equal(raw.x, [[[1, 2, nan], [4, 5, 6]], [[7, nan, nan], [8, nan, nan]]])
    assert raw.y == ["b", "a"]


def test_ts_without_class_labels_gives_unlabelled_series(tmp_path):
    raw = ts.read(write(tmp_path, "x.ts", "@classLabel false\n@data\n1,2:3,4\n"))["train"]
    assert raw.y is None
    assert raw.x.shape == (1, 2, 2)


@pytest.mark.parametrize(
    ("header", "lines", "shape"),
    [
        ("", "1,2,3:\n4,5,6:\n", (2, 1, 3)),
        ("@univariate true\n", "1,2,3:\n4,5:\n", (2, 1, 3)),
        ("@univariate false\n@dimensions 2\n", "1,2:3,4:\n5,6:7: \n", (2, 2, 2)),
        ("@univariate false\n@dimension 3\n", "1,2:3,4:\n5,6:7:\n", (2, 3, 2)),
        ("", "1,2:3\n4,5:\n", (2, 2, 2)),
    ],
)
def test_a_colon_at_the_end_of_unlabelled_lines_is_no_channel_unless_one_is_declared(tmp_path, header, lines, shape):
    raw = ts.read(write(tmp_path, "x.ts", f"{header}@classLabel false\n@data\n{lines}"))["train"]
    assert raw.x.shape == shape
    is_dropped = all(line.strip().endswith(":") for line in lines.splitlines()) and shape[1] < 3
    assert ("the colon at the end of each line is not a channel" in raw.note) == is_dropped


def test_ts_with_a_target_label_holds_numbers_to_predict(tmp_path):
    text = "@targetLabel true\n@data\n1,2:3,4:61.5\n5,6:7,8:?\n"
    raw = ts.read(write(tmp_path, "x.ts", text))["train"]
    np.testing.assert_array_equal(raw.targets, [[61.5], [np.nan]])
    assert (raw.y, raw.x.shape) == (None, (2, 2, 2))


@pytest.mark.parametrize(
    ("header", "note"),
    [
        ("@univariate true", "the header declares 1 channels, and the lines have 2"),
        ("@dimensions 3", "the header declares 3 channels, and the lines have 2"),
        ("@equalLength true\n@seriesLength 4", "the header declares 4 samples, and the longest series has 3"),
        ("@equalLength true\n@seriesLength 3", "series of equal lengths, and some are shorter"),
        ("@missing false", ""),
    ],
)
def test_what_the_header_of_a_ts_file_says_wrongly_is_said(tmp_path, header, note):
    raw = ts.read(write(tmp_path, "x.ts", f"{header}\n{HEAD}1,2,3:4,5,6:a\n1,2:3,4:b\n"))["train"]
    assert note in raw.note
    assert bool(raw.note) == bool(note)


@pytest.mark.parametrize("mark", ["\t", ",", "   "])
def test_tsv_has_the_label_first_whatever_separates_the_cells(tmp_path, mark):
    text = "\n".join(mark.join(row) for row in [["1", "0.5", "2"], ["-1.0", "3", "NaN"]])
    raw = tsv.read(write(tmp_path, "x.txt", text))["train"]
    np.testing.assert_array_equal(raw.x, [[[0.5, 2]], [[3, np.nan]]])
    assert raw.y == ["1", "-1"]


def test_csv_with_a_label_column_gives_one_series_per_row(tmp_path):
    raw = csv.read(write(tmp_path, "x.csv", "t0,t1,class,subject\n1,2,up,7\n3,,down,8\n"))["train"]
    np.testing.assert_array_equal(raw.x, [[[1, 2]], [[3, np.nan]]])
    assert (raw.y, raw.groups) == (["up", "down"], ["7", "8"])


def test_csv_takes_the_label_column_that_the_user_names(tmp_path):
    raw = csv.read(write(tmp_path, "x.csv", "t0,kind,t1\n1,up,2\n"), roles=ColumnRoles("kind"))["train"]
    assert raw.y == ["up"]
    np.testing.assert_array_equal(raw.x, [[[1, 2]]])


@pytest.mark.parametrize("name", ["date", "when"])
def test_csv_with_dates_gives_a_table(tmp_path, name):
    table = csv.read(write(tmp_path, "x.csv", f"{name},u,y\n2020-01-01,1,2\n2020-01-02,,4\n"))
    assert isinstance(table, Table)
    assert table.channels == ("u", "y")
    np.testing.assert_array_equal(table.values, [[1, 2], [np.nan, 4]])
    assert table.times.values[1] - table.times.values[0] == np.timedelta64(1, "D")
    assert f"columns: channels 'u', 'y'; time '{name}' (ISO 8601)" in table.note


@pytest.mark.parametrize(
    ("x", "y", "group"), [("X", "y", "subject"), ("data", "labels", "group"), ("samples", "label", "groups")]
)
def test_npz_goes_by_any_of_the_usual_names(tmp_path, x, y, group):
    np.savez(tmp_path / "x.npz", **{x: np.ones((2, 3)), y: [1.0, 2.0], group: [5, 6]})
    raw = npz.read(tmp_path / "x.npz")["train"]
    assert raw.x.shape == (2, 1, 3)
    assert (raw.y, raw.groups) == (["1", "2"], ["5", "6"])


def test_npz_looks_whole_numbers_up_in_its_classes(tmp_path):
    np.savez(tmp_path / "x.npz", X=np.ones((2, 1, 3)), y=[1, 0], classes=["walk", "run"])
    assert npz.read(tmp_path / "x.npz")["train"].y == ["run", "walk"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        (HEAD, "no line after @data"),
        ("1,2:a\n", "no @data line"),
        (HEAD + "1,x:a\n", "line 4: 'x' is not a number"),
        (HEAD + "1,2\n", "line 4: no ':' before the label"),
        (HEAD + "1,2:3,4:a\n1,2:b\n", "series 2 has 1 channels"),
        (HEAD + "1,2:a\n?,?:b\n", "series 2 is entirely missing"),
        (HEAD + "1,inf:a\n", "series 1 holds an infinite value"),
        ("@timeStamps true\n" + HEAD.split("\n", 1)[1] + "1:a\n", "@timeStamps true is not supported"),
        ("@targetLabel true\n" + HEAD + "1:2\n", "both @classLabel true and @targetLabel true"),
        ("@targetLabel true\n@data\n1,2:high\n", "line 3: 'high' is not a number"),
        ("@targetLabel true\n@data\n1,2:inf\n", "line 3: the target is infinite"),
        ("@targetLabel true\n@data\n1,2\n", "line 3: no ':' before the target"),
        ("@classLabel false\n@data\n1,2:3:\n1:2\n", "series 2 has 2 channels, series 1 has 3"),
        ("@data\n1,2:a\n", "no @classLabel line"),
    ],
)
def test_a_faulty_ts_file_says_what_is_wrong_and_where(tmp_path, text, message):
    with pytest.raises(DataError) as error:
        ts.read(write(tmp_path, "x.ts", text))
    assert message in str(error.value)
    assert "x.ts" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("a,label\n", "no line after the header"),
        ("1,2\n3,4\n", "first line holds numbers"),
        ("a,kind\n1,up\n", "column 'kind' holds text; if these are the labels, give --label-column kind"),
        ("a,label\n1,x\n1\n", "line 3: 1 cells"),
        ("a,label\noops,x\n", "the column 'a' holds text; if it names persons or devices, give --group-column a"),
        ("date,u\n2020-01-02,1\n2020-01-01,2\n", "row 2 is dated before"),
        ("date,u,v\n2020-01-01,1,\n2020-01-02,2,\n", "column 'v' holds no value"),
    ],
)
def test_a_faulty_csv_file_says_what_is_wrong_and_where(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        csv.read(write(tmp_path, "x.csv", text))


def test_a_csv_file_without_labels_holds_series_all_the_same(tmp_path):
    series_set = csv.read(write(tmp_path, "x.csv", "t0,t1\n1,2\n3,4\n"))["train"]
    np.testing.assert_array_equal(series_set.x, [[[1, 2]], [[3, 4]]])
    assert series_set.y is None


def test_a_label_column_that_is_not_there_is_suggested(tmp_path):
    with pytest.raises(DataError, match="Did you mean 'kind'"):
        csv.read(write(tmp_path, "x.csv", "t0,kind\n1,up\n"), roles=ColumnRoles("kinds"))


@pytest.mark.parametrize("read", [ts.read, tsv.read])
def test_formats_with_a_fixed_place_for_the_label_refuse_another(tmp_path, read):
    with pytest.raises(DataError, match="--label-column kind"):
        read(write(tmp_path, "x.ts", HEAD + "1:a\n"), roles=ColumnRoles("kind"))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"X": np.ones((2, 3, 4)), "y": [0, 1, 2]}, "3 labels for 2 series"),
        ({"X": np.ones((2, 3, 4)), "y": np.full((2, 2), 2)}, "one per series"),
        ({"X": np.ones((2, 3, 4)), "y": [0, 5], "classes": ["a", "b"]}, "label 5 of series 2"),
        ({"X": np.ones((2, 4, 3)), "channels": list("wvxyz")}, "5 channel names, but X has shape"),
        ({"X": np.ones(4)}, r"shape \(4,\)"),
        ({"X": np.ones((0, 1, 4))}, "no samples: X has shape"),
        ({"X": np.array([["a", "b"]])}, "expected numbers"),
        ({"signal": np.ones((2, 3))}, "it holds: signal"),
    ],
)
def test_a_faulty_npz_file_says_what_is_wrong(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(DataError, match=message):
        npz.read(tmp_path / "x.npz")


def test_npz_never_loads_a_pickle(tmp_path):
    np.savez(tmp_path / "x.npz", X=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match="never loaded"):
        npz.read(tmp_path / "x.npz")


@pytest.mark.parametrize("keep", [0, 10, 200, -30])
def test_an_npz_file_that_is_cut_short_says_so(tmp_path, keep):
    np.savez_compressed(tmp_path / "x.npz", X=np.random.default_rng(0).normal(size=(5, 2, 9)))
    whole = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "x.npz").write_bytes(whole[:keep])
    with pytest.raises(DataError, match="cut short"):
        npz.read(tmp_path / "x.npz")


def test_the_reader_is_chosen_by_suffix_and_the_readable_ones_are_listed(tmp_path):
    assert get_reader(tmp_path / "x.TS") is ts.read
    with pytest.raises(DataError, match=r"no reader for \.xyz.*\.ts, .*\.npz, .*\.csv"):
        get_reader(tmp_path / "x.xyz")
    for name, remedy in (
        ("x.xlsx", "save the sheet as .csv"),
        ("x.csv.gz", "unpack it"),
        ("x.json", "save it as .csv"),
    ):
        with pytest.raises(DataError, match=f": {remedy}.*; supported are"):
            get_reader(tmp_path / name)


def test_padding_is_nan_at_the_end():
    x = pad_series([np.ones((1, 1), np.float32), np.ones((1, 3), np.float32)], "here")
    np.testing.assert_array_equal(x, [[[1, np.nan, np.nan]], [[1, 1, 1]]])


def test_any_reader_is_checked_because_the_record_checks_itself():
    with pytest.raises(DataError, match="here: 1 groups for 2 series"):
        SeriesSet(np.ones((2, 1, 3), np.float32), "here", groups=["a"])


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (["1.0", "2.0", "1.0"], ["1", "2", "1"]),
        (["1.0000000e+00", "-1.0000000e+00"], ["1", "-1"]),
        (["1", " -1.0 "], ["1", "-1"]),
        ([1.0, 2.0], ["1", "2"]),
        ([2.0**53, 1.0], ["9007199254740992", "1"]),
        ([b"walk", np.bytes_(b"run")], ["walk", "run"]),
    ],
)
def test_whole_numbers_written_as_floats_are_indices(column, expected):
    assert normalize_labels(column) == expected


@pytest.mark.parametrize(
    "column",
    [
        ["01", "1"],
        ["1E1", "10"],
        ["1", "1.0"],
        ["1.0", "1.00"],
        ["1.0", "1.5"],
        ["1.0", "up"],
        ["1_0", "10"],
        ["1e1", "10"],
        ["-0.0", "0.0"],
        ["9007199254740992", "9007199254740993"],
        ["9007199254740992.0", "9007199254740993.0"],
        ["20201231235959001", "20201231235959002", "20201231235959003"],
        ["up", "Up"],
    ],
)
def test_labels_whose_text_differs_are_never_one_class(column):
    assert len(set(normalize_labels(column))) == len(column)


def test_a_missing_label_among_indices_stays_missing():
    assert normalize_labels(["1.0", "?", "nan"]) == ["1", "?", "nan"]
