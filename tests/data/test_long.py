"""Rows of a series and a time, in .csv and .parquet; what else .parquet files hold."""

import re
import warnings

import numpy as np
import pytest

from tstk.data import DataConfig, load_data, load_split
from tstk.data.columns import ColumnRoles
from tstk.data.containers import Table
from tstk.data.load import read_splits
from tstk.data.readers import csv, parquet
from tstk.data.regularize import check_times
from tstk.data.times import measure_steps
from tstk.errors import DataChangedWarning, DataError, OptionError

NAN = np.nan
LONG = """id,time,u,v,label,subject
b,0,1,2,up,7
a,10,5,?,down,8
b,1,3,4,up,7
a,20,7,8,down,8
a,30,9,10,down,8
"""


@pytest.fixture
def read_text(tmp_path):
    """Read a text as a .csv file, or as a .parquet file with the types of its cells."""

    def read(text, kind="csv", **options):
        path = tmp_path / f"x.{kind}"
        if kind == "csv":
            path.write_text(text)
            return csv.read(path, **options)
        pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
        from pyarrow import csv as arrow_csv
        from pyarrow import parquet as arrow_parquet

        source = pyarrow.BufferReader(text.encode())
        convert = arrow_csv.ConvertOptions(null_values=["?", ""], strings_can_be_null=True)
        arrow_parquet.write_table(arrow_csv.read_csv(source, convert_options=convert), path)
        return parquet.read(path, **options)

    return read


@pytest.fixture
def lists(tmp_path):
    """Write columns as a .parquet file and return its path."""

    def write(name="x.parquet", **columns):
        pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
        from pyarrow import parquet as arrow_parquet

        arrow_parquet.write_table(pyarrow.table(columns), tmp_path / name)
        return tmp_path / name

    return write


kinds = pytest.mark.parametrize("kind", ["csv", "parquet"])


@kinds
def test_rows_that_share_an_id_are_one_series(read_text, kind):
    raw = read_text(LONG, kind)["train"]
    np.testing.assert_array_equal(raw.x, [[[1, 3, NAN], [2, 4, NAN]], [[5, 7, 9], [NAN, 8, 10]]])
    assert (raw.y, raw.groups, raw.channels) == (["up", "down"], ["7", "8"], ("u", "v"))
    assert raw.ids == ["b", "a"]
    assert "channels 'u', 'v'; label 'label'; group 'subject'; id 'id'; time 'time' (numbers)" in raw.note


VISITS = """patient,date,t1,t2,t3{header}
p,2024-01-01,1,2,3{up}
q,2024-01-02,4,5,6{down}
p,2024-01-03,7,8,9{up}
q,2024-01-04,1,2,3{down}
"""


@kinds
@pytest.mark.parametrize("labels", [("", "", ""), (",label", ",a", ",b")])
def test_numbered_columns_with_times_that_ascend_in_each_group_are_questioned(read_text, kind, labels):
    text = VISITS.format(**dict(zip(("header", "up", "down"), labels, strict=True)))
    with pytest.raises(DataError, match="t1 to t3 may be the samples of a row, or channels") as error:
        read_text(text, kind)
    assert "--drop-columns date makes each row a series, --id-column patient" in str(error.value)
    assert read_text(text, kind, roles=ColumnRoles(drop=("date",)))["train"].x.shape == (4, 1, 3)
    for roles in (ColumnRoles(id="patient"), ColumnRoles(time="date")):
        assert read_text(text, kind, roles=roles)["train"].x.shape == (2, 3, 2)


@pytest.mark.parametrize("time", [None, "date"])
def test_data_for_a_model_are_read_as_its_own_were_though_nothing_in_them_tells(tmp_path, time):
    """With `time`, the rows of a patient are one series; without, their labels differ, so each row is one."""
    path, labelled = tmp_path / "new.csv", tmp_path / "old.csv"
    path.write_text(VISITS.format(header="", up="", down=""))
    rows = [(name, day) for day in range(1, 9) for name in "pqrs"]
    labels = ["ab"[int(name in "pq" if time else day % 2)] for name, day in rows]
    lines = [
        f"{name},{day},{day},{day * 7 % 5},{day % 3},{label}" for (name, day), label in zip(rows, labels, strict=True)
    ]
    labelled.write_text("\n".join(["patient,date,t1,t2,t3,label", *lines]))
    config = DataConfig(time_column=time)
    data = load_data(str(labelled), config)
    split = load_split(str(path), input_schema=data.input_schema(), roles=config.roles.for_other_data())
    assert (data.spec.channels, len(split)) == ((3, 2) if time else (1, 4))


def test_channels_of_a_model_are_found_by_name_in_any_order_even_where_they_are_constant(tmp_path):
    path, other = tmp_path / "old.csv", tmp_path / "new.csv"
    path.write_text(
        "id,time,u,v,label\n" + "".join(f"s{i % 4},{i},{i * i},{i * 7 % 5},{'ab'[i % 2]}\n" for i in range(24))
    )
    other.write_text("id,time,w,v,u\nx,0,9,3,1\nx,1,8,3,2\ny,0,7,4,5\ny,1,6,4,6\n")  # v is the same within each id
    data = load_data(str(path), DataConfig(standardize="none"))
    split = load_split(str(other), input_schema=data.input_schema())
    np.testing.assert_array_equal(split.x, [[[1, 2], [3, 3]], [[5, 6], [4, 4]]])


@kinds
def test_without_times_the_rows_are_in_order_if_every_id_repeats(read_text, kind):
    raw = read_text("series_id,u\n1,10\n2,30\n1,20\n2,40\n", kind)["train"]
    np.testing.assert_array_equal(raw.x, [[[10, 20]], [[30, 40]]])


@kinds
def test_a_value_called_y_is_a_channel_where_it_changes_within_a_series(read_text, kind):
    panel = read_text("unique_id,ds,y\na,2020-01-01,1\na,2020-01-02,2\nb,2020-01-01,3\n", kind)["train"]
    np.testing.assert_array_equal(panel.x, [[[1, 2]], [[3, NAN]]])
    assert panel.y is None
    labelled = read_text("id,t,u,y\na,0,1,0\na,1,2,0\nb,0,3,1\n", kind)["train"]
    assert (labelled.y, labelled.channels) == (["0", "1"], ("u",))
    with pytest.raises(DataError, match="a series has one label"):
        read_text("unique_id,ds,v,y\na,1,1,1\na,2,1,2\n", kind, roles=ColumnRoles("y"))


def test_uneven_times_are_noted(read_text):
    raw = read_text("id,time,u\na,0,1\na,1,2\na,5,3\nb,0,1\nb,1,2\n")["train"]
    assert "the times of 1 series are uneven" in check_times(raw, regularize=False).note


@pytest.mark.parametrize(
    ("times", "step"),
    [
        (["0", "1", "4"], "1"),
        (["2020-01-01", "2020-01-02", "2020-01-05"], "1 days"),
        (["2020-01-01T00:10", "2020-01-01T00:20", "2020-01-01T00:50"], "10 min"),
        (["2020-01-31", "2020-02-29", "2020-05-31"], None),
        (["2020-01-01", "2020-02-01", "2020-05-01"], "1 months"),
        (["2020-03-27T00:00+01:00", "2020-03-28T00:00+01:00", "2020-03-31T00:00+02:00"], "1 days"),
    ],
)
def test_missing_rows_of_an_id_are_inserted_without_samples(read_text, times, step):
    rows = [*(f"a,{time},{i}" for i, time in enumerate(times)), *(f"b,{time},{i}" for i, time in enumerate(times[:2]))]
    raw = read_text("\n".join(["id,time,u", *rows]))["train"]
    if step is None:
        with pytest.raises(DataError, match=r"--regularize: .*series 1 \(id a\), time 2020-05-31, is"):
            check_times(raw, regularize=True)
        return
    even = check_times(raw, regularize=True)
    np.testing.assert_array_equal(even.x[:, 0], [[0, 1, NAN, NAN, 2], [0, 1, NAN, NAN, NAN]])
    assert f"2 missing rows of 1 series are inserted without samples, so that steps are {step}" in even.note
    assert measure_steps(even.times[0]) is None
    assert [even.times[0].write()[i] for i in (0, 1, 4)] == times


def test_series_of_other_starts_are_made_even_by_their_common_step(read_text):
    raw = read_text("id,time,u\na,0,1\na,2,3\nb,5,1\nb,6,2\nb,7,3\n")["train"]
    np.testing.assert_array_equal(check_times(raw, regularize=True).x[:, 0], [[1, NAN, 3], [1, 2, 3]])
    raw = read_text("id,time,u\na,0,1\na,1.5,3\nb,5,1\nb,6,2\nb,7,3\n")["train"]
    with pytest.raises(DataError, match=r"series 1 \(id a\), time 1.5, is 1.5 steps after 0.0, and steps are 1"):
        check_times(raw, regularize=True)


def test_series_without_times_cannot_be_made_even(read_text):
    with pytest.raises(OptionError, match=r"--regularize has no meaning here: .* is a set of series without times"):
        check_times(read_text("t0,t1,label\n1,2,a\n3,4,b\n")["train"], regularize=True)


@kinds
def test_an_id_for_each_row_is_no_sample(read_text, kind):
    assert read_text("id,date,u\n7,2020-01-01,1\n8,2020-01-02,2\n", kind).channels == ("u",)
    raw = read_text("id,t0,t1,label\n7,1,2,up\n8,3,4,down\n", kind)["train"]
    np.testing.assert_array_equal(raw.x, [[[1, 2]], [[3, 4]]])


@kinds
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,time,u\na,0,1\na,0,2\n", "PLACE 2: id 'a' has time 0 twice; remove one of the rows"),
        ("id,time,u\na,0,1\nb,5,1\na,-1,2\n", "PLACE 3: id 'a' has time -1 after 0 in PLACE 1; sort the rows"),
        ("id,time,u\na,0,1\na,noon,2\n", "PLACE 2: time 'noon' in 'time' is neither a number nor a date"),
        ("id,time,u,label\na,0,1,up\na,1,2,down\n", "PLACE 2: label 'down' of id 'a', which has 'up' in PLACE 1"),
        ("id,u\na,1\nb,2\na,3\n", "PLACE 3: id 'a' was in PLACE 1 already; remove one"),
        ("id,time,u\na,0,1\n?,1,2\na,2,3\n", "PLACE 2: no id"),
        ("id,time\na,0\na,1\n", "no column of samples"),
        ("id,time,u\na,0,1\na,1,x\n", "PLACE 2: 'x' is not a number"),
    ],
)
def test_a_faulty_long_table_says_what_is_wrong_and_where(read_text, kind, text, message):
    if kind == "csv":
        text = text.replace("?", "")
    message = re.sub(r"PLACE (\d)", lambda m: f"line {int(m[1]) + 1}" if kind == "csv" else f"row {m[1]}", message)
    with pytest.raises(DataError) as error:
        read_text(text, kind)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["date,u,v\n2020-01-01,1,2\n2020-01-02,?,4\n", "t0,t1,label\n1,2,a\n?,4,b\n", LONG])
def test_parquet_holds_what_the_same_csv_holds(read_text, text):
    from_parquet, from_csv = read_text(text, "parquet"), read_text(text)
    if isinstance(from_csv, Table):
        assert from_parquet.channels == from_csv.channels
        np.testing.assert_array_equal(from_parquet.times.values, from_csv.times.values)
        np.testing.assert_array_equal(from_parquet.values, from_csv.values)
    else:
        a, b = from_parquet["train"], from_csv["train"]
        np.testing.assert_array_equal(a.x, b.x)
        assert (a.y, a.groups) == (b.y, b.groups)


def test_parquet_may_hold_a_list_of_samples_in_each_row(lists):
    raw = parquet.read(lists(u=[[1, 2, 3], [4, None]], v=[[1.5, 2, 3], [4.0]], label=["a", "b"], subject=[7, 8]))[
        "train"
    ]
    np.testing.assert_array_equal(raw.x, [[[1, 2, 3], [1.5, 2, 3]], [[4, NAN, NAN], [4, NAN, NAN]]])
    assert (raw.y, raw.groups, raw.channels) == (["a", "b"], ["7", "8"], ("u", "v"))


def test_one_column_may_hold_a_list_per_channel(lists):
    raw = parquet.read(lists(x=[[[1, 2], [3, 4]], [[5, 6], [7, 8]]], target=[0, 1]))["train"]
    np.testing.assert_array_equal(raw.x, [[[1, 2], [3, 4]], [[5, 6], [7, 8]]])
    assert raw.y == ["0", "1"]


def test_a_pair_of_parquet_files_is_a_data_set(lists):
    for part in ("train", "test"):
        path = lists(f"toy_{part}.parquet", x=[[float(i), 2.0] for i in range(6)], label=[0, 1] * 3)
    data = load_data(str(path))
    assert (data.name, len(data.test), data.classes) == ("toy", 6, ("0", "1"))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"x": [[1.0], None]}, "row 2: no samples"),
        ({"x": [["a"], ["b"]]}, "row 1: expected lists of numbers"),
        ({"x": [[[1, 2]], [[1, 2], [3, 4]]]}, "series 2 has 2 channels"),
    ],
)
def test_faulty_lists_are_refused(lists, columns, message):
    with pytest.raises(DataError, match=message):
        parquet.read(lists(**columns))


def test_a_label_column_that_is_not_there_is_suggested(lists):
    with pytest.raises(DataError, match="Did you mean 'kind'"):
        parquet.read(lists(x=[[1.0]], kind=["a"]), roles=ColumnRoles("kinds"))


def test_a_file_that_is_not_parquet_says_so(tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    for content in (b"", b"PAR1", b"hello" * 100):
        (tmp_path / "x.parquet").write_bytes(content)
        with pytest.raises(DataError, match="not a parquet file"):
            parquet.read(tmp_path / "x.parquet")


def test_uneven_times_of_a_test_split_that_is_trained_on_are_noted_once(tmp_path):
    rows = [f"{i},{time},{i + time}" for i in range(6) for time in ((0, 1, 4) if i else (0, 1, 2))]
    for split in ("TRAIN", "TEST"):
        (tmp_path / f"x_{split}.csv").write_text("\n".join(["id,time,u", *rows]))
    data = load_data(str(tmp_path / "x_TRAIN.csv"), DataConfig(train_data="test"))
    assert sum(note.count("the times of 5 series are uneven") for note in data.notes) == 2  # of two files
    even = load_data(str(tmp_path / "x_TRAIN.csv"), DataConfig(train_data="test", regularize=True))
    assert even.train.x.shape == even.test.x.shape == (6, 1, 5)
    assert sum("10 missing rows of 5 series are inserted" in note for note in even.notes) == 1


def write_steps(steps, unit="", length=6):
    """Return rows of series, each with a constant step of its own."""
    rows = ["id,time,u"]
    for name, step in steps.items():
        for i in range(length):
            time = (
                str(step * i) if not unit else str(np.datetime64("2024-01-01T00:00") + np.timedelta64(step * i, unit))
            )
            rows.append(f"{name},{time},{i}")
    return "\n".join(rows)


@pytest.mark.parametrize(
    ("unit", "usual", "other"),
    [("", "1 apart", "2 apart"), ("m", "1 min apart", "2 min apart"), ("h", "1 h", "2 h apart")],
)
def test_series_of_different_constant_steps_are_named_with_the_remedy(tmp_path, unit, usual, other):
    (tmp_path / "d.csv").write_text(write_steps({"a": 1, "b": 2, "c": 1, "d": 2, "e": 1}, unit))
    note = read_splits(str(tmp_path / "d.csv"))["train"].note
    assert f"samples are {usual}" in note
    assert f"in 3 series, and {other} in b, d, but are used as if all had one step: resample them to one" in note
    even = read_splits(str(tmp_path / "d.csv"), regularize=True)["train"]
    assert "as if all had one step" not in even.note
    assert np.isnan(even.x[1, 0, 1])


def test_equal_steps_with_jitter_and_months_are_not_noted(tmp_path):
    rows = [f"{name},{i * 0.01 * (1 + drift):.5f},{i}" for name, drift in (("a", 0), ("b", 0.02)) for i in range(9)]
    months = [f"{name},2024-{first + i:02}-01,{i}" for name, first in (("a", 1), ("b", 7)) for i in range(3)]
    for lines in (rows, months):
        (tmp_path / "d.csv").write_text("\n".join(["id,time,u", *lines]))
        assert "as if all had one step" not in read_splits(str(tmp_path / "d.csv"))["train"].note


def test_a_test_split_of_another_step_is_named(tmp_path):
    for split, step in (("TRAIN", 1), ("TEST", 5)):
        (tmp_path / f"d_{split}.csv").write_text(write_steps({f"{split}-{i}": step for i in range(5)}, "s"))
    splits = read_splits(str(tmp_path / "d_TRAIN.csv"))
    assert "and 5 s apart in TEST-0, TEST-1, TEST-2 and 2 more, but are used" in splits["train"].note
    data = load_data(str(tmp_path / "d_TRAIN.csv"), DataConfig(val_fraction=0.4))
    assert sum("as if all had one step" in note for note in data.notes) == 1
    assert data.input_schema()["step"] == [1e6, "us"]


def test_data_of_another_step_than_in_training_are_said(tmp_path):
    for name, step in (("a", 60), ("b", 61), ("c", 3600)):
        (tmp_path / f"{name}.csv").write_text(write_steps({f"{name}-{i}": step for i in range(5)}, "s"))
    schema = load_data(str(tmp_path / "a.csv"), DataConfig(val_fraction=0.4)).input_schema()
    with pytest.warns(DataChangedWarning, match=r"c\.csv: samples are 1 h apart, and 1 min in training; resample"):
        load_split(str(tmp_path / "c.csv"), input_schema=schema)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataChangedWarning)
        load_split(str(tmp_path / "b.csv"), input_schema=schema)
        load_split(str(tmp_path / "c.csv"), input_schema=schema | {"step": None})
