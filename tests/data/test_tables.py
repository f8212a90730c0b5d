"""Tables as people have them: which column is what, from options, names and contents, and what is said of it."""

import math
from shlex import quote

import numpy as np
import pandas as pd
import pytest

from tests.support.grids import slow_after
from tstk.data import DataConfig, load_data, load_split
from tstk.data.columns import ColumnRoles
from tstk.data.containers import SeriesSet, Table
from tstk.data.readers import csv, parquet
from tstk.errors import DataError, OptionError

NUM_SERIES, LENGTH = 12, 5
SAMPLES = np.random.default_rng(0).normal(size=(NUM_SERIES, LENGTH)).round(3)
RUN = [f"t{i}" for i in range(LENGTH)]


@pytest.fixture(params=["csv", "parquet"])
def read(request, tmp_path):
    """Write columns (name -> cells) as a file of either format, and read it."""

    def read_columns(columns, **roles):
        path = tmp_path / f"x.{request.param}"
        if request.param == "csv":
            lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
            path.write_text("\n".join(lines) + "\n")
            data = csv.read(path, ColumnRoles(**roles))
        else:
            import pyarrow
            from pyarrow import parquet as arrow_parquet

            arrow_parquet.write_table(pyarrow.table({name: list(cells) for name, cells in columns.items()}), path)
            data = parquet.read(path, ColumnRoles(**roles))
        return data if isinstance(data, Table) else data["train"]

    return read_columns


def run(**columns):
    """Return columns beside numbered samples, in the order first given."""
    return {**columns, **dict(zip(RUN, SAMPLES.T.tolist(), strict=True))}


LABELS = ["up", "down"] * 6
SUBJECTS = [f"p{i % 4}" for i in range(NUM_SERIES)]


# ------------------------------------------------------------------ one row per series


@pytest.mark.parametrize("name", ["subject", "Patient_ID", "patient", "participant", "userid", "Device", "machine_id"])
def test_groups_go_by_common_names(read, name):
    data = read(run(**{name: SUBJECTS, "label": LABELS}))
    assert (data.groups, data.y) == (SUBJECTS, LABELS)
    np.testing.assert_array_equal(data.x[:, 0], SAMPLES.astype(np.float32))
    assert f"group '{name}'" in data.note


@pytest.mark.parametrize("name", ["label", "Class", "activity", "diagnosis", "target", "y"])
def test_labels_go_by_common_names(read, name):
    data = read(run(**{name: LABELS}))
    assert data.y == LABELS
    assert f"label '{name}'" in data.note


@pytest.mark.parametrize("name", ["heart_rate", "age", "Weight (kg)", "y_true"])
def test_a_number_beside_numbered_samples_is_questioned_and_never_a_sample(read, name):
    columns = run(**{"subject": SUBJECTS, name: [61.5 + i for i in range(NUM_SERIES)]})
    with pytest.raises(DataError, match="is not one of the samples t0 to t4; --target-columns") as error:
        read(columns)
    assert f"--drop-columns {quote(name)} leaves it out" in str(error.value)
    data = read(columns, targets=(name,))
    assert (data.x.shape[2], data.target_names) == (LENGTH, (name,))
    assert data.targets.tolist() == [[61.5 + i] for i in range(NUM_SERIES)]
    assert f"targets '{name}'" in data.note
    dropped = read(columns, drop=(name,))
    assert dropped.x.shape[2] == LENGTH
    assert f"left out: '{name}' (--drop-columns)" in dropped.note


def test_a_label_of_many_decimals_is_questioned(read):
    columns = run(target=SAMPLES[:, 0].tolist())
    with pytest.raises(DataError, match="holds 12 numbers with decimals; --target-columns target predicts them"):
        read(columns)
    assert len(set(read(columns, label="target").y)) == NUM_SERIES
    assert read(columns, targets=("target",)).y is None


@pytest.mark.parametrize("name", ["", "Unnamed: 0", "__index_level_0__", "index"])
@pytest.mark.parametrize("order", [1, -1])
def test_an_index_of_rows_is_left_out_and_said(read, name, order):
    data = read({name: list(range(NUM_SERIES))[::order], **run(label=LABELS)})
    np.testing.assert_array_equal(data.x[:, 0], SAMPLES.astype(np.float32))
    assert f"left out: '{name}' (an index of rows)" in data.note


def test_a_column_that_counts_the_rows_is_left_out_whatever_its_name(read):
    counts = np.random.default_rng(1).permutation(NUM_SERIES).tolist()
    assert "left out: 'nr' (it counts the rows)" in read(run(nr=counts, label=LABELS)).note
    plain = read({"nr": counts, "a": SAMPLES[:, 0].tolist(), "b": SAMPLES[:, 1].tolist(), "label": LABELS})
    assert plain.x.shape == (NUM_SERIES, 1, 2)
    assert "left out: 'nr' (it counts the rows)" in plain.note


def test_runs_that_are_numbered_alike_are_channels(read):
    columns = {f"{c}_{i}": SAMPLES[:, i].tolist() for c in ("Acc x", "Acc y") for i in range(LENGTH)}
    data = read(columns | {"label": LABELS})
    assert (data.x.shape, data.channels) == ((NUM_SERIES, 2, LENGTH), ("Acc x", "Acc y"))
    np.testing.assert_array_equal(data.x[:, 1], SAMPLES.astype(np.float32))


@pytest.mark.parametrize("names", ["t{}", "x_{}", "time {}.5"])
def test_numbered_samples_are_in_the_order_of_their_numbers_whatever_that_of_the_columns(read, names):
    samples = np.random.default_rng(0).normal(size=(NUM_SERIES, 12)).round(3)
    columns = {names.format(i): samples[:, i].tolist() for i in range(12)}
    ordered = list(columns)
    expected = read({name: columns[name] for name in ordered} | {"label": LABELS})
    assert "in the order of their numbers" not in expected.note
    for order in (sorted(columns), ordered[::-1]):  # as pivot tables of text sort them, and descending
        data = read({"label": LABELS} | {name: columns[name] for name in order})
        np.testing.assert_array_equal(data.x, expected.x)
        assert "in the order of their numbers, which is not that of" in data.note


@pytest.mark.parametrize(
    ("name", "cells", "proposal"),
    [
        ("rat", SUBJECTS, "--group-column rat"),
        ("site_id", ["north", "south"] * 6, "--group-column site_id"),
        ("kind", LABELS, "--label-column kind"),
        ("code", [f"x{'abcdefghijkl'[i]}" for i in range(NUM_SERIES)], "--id-column code"),
        ("unit", ["mV"] * NUM_SERIES, "--drop-columns unit"),
    ],
)
def test_a_column_of_text_is_questioned_with_the_option_that_its_contents_suggest(read, name, cells, proposal):
    with pytest.raises(DataError, match=f"the column '{name}' holds") as error:
        read(run(**{name: cells}))
    assert proposal in str(error.value)
    assert ("--label-column" in str(error.value)) == ("--label-column" in proposal)


def test_all_roles_take_effect_together(read):
    columns = run(
        rat=SUBJECTS, name=[f"r{i}" for i in range(NUM_SERIES)], kind=LABELS, hr=[60 + i for i in range(NUM_SERIES)]
    )
    roles = {"group": "rat", "id": "NAME", "label": "kind", "targets": ("hr",), "channels": ("t3", "t1")}
    data = read(columns, **roles)
    assert (data.groups, data.ids[:2], data.y) == (SUBJECTS, ["r0", "r1"], LABELS)
    np.testing.assert_array_equal(data.x[:, 0], SAMPLES[:, [3, 1]].astype(np.float32))
    assert "left out: 't0', 't2', 't4' (not in --channel-columns)" in data.note


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ({"label": "kinds"}, "no column called 'kinds' (--label-column). Did you mean 'kind'?"),
        ({"label": "kind", "group": "kind"}, "the column 'kind' has two roles, --label-column and --group-column"),
        ({"label": "kind", "drop": ("kind",)}, "has two roles, --label-column and --drop-columns"),
        ({"label": "kind", "drop": tuple(RUN)}, "no column of samples"),
    ],
)
def test_roles_that_cannot_be_are_refused(read, roles, message):
    with pytest.raises(DataError) as error:
        read(run(kind=LABELS), **roles)
    assert message in str(error.value)


@pytest.mark.parametrize("role", ["label", "group", "id"])
def test_whole_numbers_of_many_digits_stay_distinct(read, role):
    for start in (2**53, 20201231235959000):
        cells = [start + i // 2 if role == "group" else start + i for i in range(NUM_SERIES)]
        data = read(run(column=cells), **{role: "column"})
        texts = {"label": data.y, "group": data.groups, "id": data.ids}[role]
        assert texts == list(map(str, cells))


def test_names_with_zeros_and_exponents_stay_distinct(tmp_path):
    cells = ["01", "1", "1E1", "10", "001", "1.0"] * 2
    lines = [",".join([*map(str, row), cell]) for row, cell in zip(SAMPLES, cells, strict=True)]
    (tmp_path / "x.csv").write_text("\n".join([",".join([*RUN, "label"]), *lines]))
    assert csv.read(tmp_path / "x.csv")["train"].y == cells


def test_an_id_that_repeats_where_each_row_is_a_series_is_questioned(read):
    with pytest.raises(DataError, match=r"id 'p0' was in .* already; .* give --group-column id"):
        read(run(id=SUBJECTS, label=LABELS))
    assert read(run(id=SUBJECTS, label=LABELS), group="id").groups == SUBJECTS


# ------------------------------------------------------------------ one row per time

SINE = [round(math.sin(i), 3) for i in range(30)]
COSINE = [round(math.cos(i), 3) for i in range(30)]


@pytest.mark.parametrize(
    "times",
    [
        [0.02 * i for i in range(30)],
        list(range(30)),
        [1577836800 + 60 * i for i in range(30)],
        [1577836800123456 + 10 * i for i in range(30)],
    ],
)
@pytest.mark.parametrize("name", ["time", "Timestamp", "t", "epoch"])
def test_numbers_that_are_times_make_a_table(read, times, name):
    table = read({name: times, "ax": SINE, "ay": COSINE})
    assert isinstance(table, Table)
    assert (table.values.shape, table.channels) == ((30, 2), ("ax", "ay"))
    assert f"time '{name}' (" in table.note


def test_a_column_alone_is_a_table_of_one_channel(read):
    table = read({"load": SINE})
    assert (table.values.shape, table.channels) == ((30, 1), ("load",))
    assert "no times: rows are taken as evenly spaced" in table.note


def test_columns_without_roles_are_channels_over_time(read):
    assert read({"ax": SINE, "ay": COSINE}).channels == ("ax", "ay")
    assert read({"ch1": SINE, "ch2": COSINE, "ch3": SINE}).channels == ("ch1", "ch2", "ch3")


@pytest.mark.parametrize("name", ["", "Unnamed: 0", "__index_level_0__"])
def test_an_index_of_dates_is_the_time(read, name):
    dates = [f"2020-01-{1 + i:02d}" for i in range(30)]
    table = read({name: dates, "u": SINE})
    assert table.channels == ("u",)
    assert table.times.values[1] == np.datetime64("2020-01-02")
    counted = read({name: list(range(30)), "date": dates, "u": SINE})
    assert counted.channels == ("u",)
    assert f"left out: '{name}' (an index of rows)" in counted.note


def test_labels_and_texts_in_a_table_over_time_are_left_out_and_said_or_questioned(read):
    columns = {"time": list(range(30)), "u": SINE, "activity": ["walk"] * 15 + ["run"] * 15}
    table = read(columns)
    assert table.channels == ("u",)
    assert "left out: 'activity' (a label, in a table over time)" in table.note
    with pytest.raises(DataError, match=r"'state' holds text.*--drop-columns state leaves it out"):
        read({"time": list(range(30)), "u": SINE, "state": ["on"] * 15 + ["off"] * 15})
    with pytest.raises(DataError, match="--label-column activity has no meaning here"):
        read(columns, label="activity")


def test_chosen_channels_leave_the_times_where_they_are(read):
    table = read({"time": list(range(30)), "u": SINE, "v": COSINE, "state": ["on"] * 30}, channels=("v",))
    assert (table.channels, table.times.values[2]) == (("v",), 2)
    assert "left out: 'u', 'state' (not in --channel-columns)" in table.note


def test_a_channel_with_the_name_of_a_role_stays_a_channel(read):
    table = read({"date": [f"2020-01-{1 + i:02d}" for i in range(30)], "user": SINE, "y": COSINE})
    assert table.channels == ("user", "y")


def test_dates_and_times_of_day_in_two_columns_are_one_time(read):
    clocks = [f"{i % 24:02d}:30:00" for i in range(30)]
    table = read({"date": [f"2020-01-{1 + i // 24:02d}" for i in range(30)], "time": clocks, "u": SINE})
    assert table.channels == ("u",)
    assert table.times.format.write(table.times.values[-1:]) == ["2020-01-02 05:30:00"]
    assert "time 'date', 'time' (ISO 8601)" in table.note


@pytest.mark.parametrize("name", ["month", "recorded at"])
def test_the_only_column_of_dates_is_the_time_wherever_it_is(read, name):
    dates = [f"2020-01-{1 + i:02d}" for i in range(30)]
    table = read({"u": SINE, name: dates})
    assert table.channels == ("u",)
    assert f"time '{name}' (ISO 8601)" in table.note
    series = read(run(**{name: dates[:NUM_SERIES], "label": LABELS}))
    assert series.x.shape == (NUM_SERIES, 1, LENGTH)
    assert f"left out: '{name}' (" in series.note


def test_other_times_in_a_table_are_no_channels(read):
    dates = [f"2020-01-{1 + i:02d}" for i in range(30)]
    table = read({"date": dates, "u": SINE, "timestamp": [1577836800 + 86400 * i for i in range(30)]})
    assert table.channels == ("u",)
    assert "left out: 'timestamp' (another time)" in table.note


@pytest.mark.parametrize("stores", [["n", "s", "w"], [4, 17, 52]])
def test_rows_of_several_series_over_time_are_questioned_with_the_column_that_names_them(read, stores):
    dates = [f"2020-01-{1 + i // 3:02d}" for i in range(30)]
    columns = {"date": dates, "store": stores * 10, "sales": SINE}
    with pytest.raises(DataError, match="repeat, but not within one 'store'; --id-column store") as caught:
        read(columns)
    pivot = "frame.pivot(index=['date'], columns='store', values='sales').reset_index()"
    assert (pivot in str(caught.value)) == (stores[0] == "n")
    data = read(columns, id="store")
    assert (data.ids, data.x.shape) == (list(map(str, stores)), (3, 1, 10))


def test_a_model_of_rows_reads_other_rows_without_labels(tmp_path):
    rows = [f"{a},{b},{c}" for a, b, c, *_ in SAMPLES.tolist()]
    for split in ("TRAIN", "TEST"):
        lines = ["u,v,w,label", *(f"{row},{label}" for row, label in zip(rows, LABELS, strict=True))]
        (tmp_path / f"x_{split}.csv").write_text("\n".join(lines))
    (tmp_path / "new.csv").write_text("\n".join(["u,v,w", *rows]))
    schema = load_data(str(tmp_path / "x_TRAIN.csv")).input_schema()
    with pytest.warns(UserWarning, match="columns: each row is a series of 3 samples"):
        split = load_split(str(tmp_path / "new.csv"), input_schema=schema)
    np.testing.assert_array_equal(split.x[:, 0], SAMPLES[:, :3].astype(np.float32))


# ------------------------------------------------------------------ one row per series and time


def long(**columns):
    times = list(range(10)) * 3
    names = [name for name in "abc" for _ in range(10)]
    return {"id": names, "time": times, "u": SINE, **columns}


def test_columns_that_are_constant_within_each_id_are_left_out_unless_they_have_a_role(read):
    ages = [age for age in (31, 45, 62) for _ in range(10)]
    data = read(long(age=ages))
    assert data.channels == ("u",)
    assert "left out: 'age' (the same within each id; --channel-columns or --target-columns takes it)" in data.note
    chosen = read(long(age=ages, v=COSINE), channels=("u", "age"))
    assert (chosen.channels, chosen.ids, chosen.x.shape) == (("u", "age"), ["a", "b", "c"], (3, 2, 10))
    assert "left out: 'v' (not in --channel-columns)" in chosen.note
    assert read(long(age=ages), targets=("age",)).targets.tolist() == [[31], [45], [62]]


PIVOT = r"frame\.pivot\(index=\['{}', 'time'\], columns='variable', values='value'\)\.reset_index\(\)"


@pytest.mark.parametrize("key", slow_after(1, ["id", "patient"]))
@pytest.mark.parametrize(
    "roles",
    [{}, {"label": "variable"}, {"drop": ("variable",)}, {"channels": ("value",)}, {"label_per_sample": True}],
)
@pytest.mark.parametrize("by_time", [True, False])
def test_rows_that_hold_one_channel_each_are_refused_with_how_to_pivot_them(read, key, roles, by_time):
    rows = [(i, t, name) for i in "ab" for name in ("hr", "bp") for t in range(5)]
    rows = sorted(rows, key=lambda row: row[:2]) if by_time else rows
    ids, times, names = zip(*rows, strict=True)
    columns = {key: ids, "time": times, "variable": names, "value": SINE[:20]}
    if "label_per_sample" in roles:
        roles = {**roles, "label": "variable"}
    with pytest.raises(DataError, match=PIVOT.format(key)):
        read(columns, **roles)


def test_what_the_line_of_pandas_makes_of_such_rows_is_read():
    rows = [(i, t, name) for i in "ab" for name in ("hr", "bp") for t in range(5)]
    frame = pd.DataFrame(rows, columns=["id", "time", "variable"]).assign(
        value=SINE[:20], label=["p"] * 10 + ["q"] * 10
    )
    with pytest.raises(DataError) as caught:
        load_data(frame)
    data = load_data(eval(str(caught.value).partition("pandas: ")[2], {"frame": frame}), DataConfig(val_fraction=0))
    assert (data.channels, data.classes) == (("bp", "hr"), ("p", "q"))
    np.testing.assert_allclose(data.train.x[0, 1], SINE[:5], rtol=1e-6)


def test_repeated_times_with_nothing_beside_them_are_no_channels(read):
    columns = {"id": ["a"] * 4, "time": [0, 1, 1, 2], "note": ["x", "y", "y", "z"], "value": SINE[:4]}
    with pytest.raises(DataError, match=r"^(?!.*pivot)"):
        read(columns)


def test_ids_of_series_are_kept(read):
    assert read(long()).ids == ["a", "b", "c"]


def test_rows_of_a_group_are_a_series_where_there_are_times_and_no_ids(read):
    columns = long(label=["p"] * 10 + ["q"] * 20)
    data = read({"patient": columns.pop("id"), **columns})
    assert (data.ids, data.groups, data.y) == (["a", "b", "c"], ["a", "b", "c"], ["p", "q", "q"])


def test_the_order_of_rows_of_different_ids_does_not_matter(read):
    columns = long(label=["p"] * 10 + ["q"] * 20)
    order = np.argsort(columns["time"], kind="stable")
    mixed = read({name: [cells[i] for i in order] for name, cells in columns.items()})
    np.testing.assert_array_equal(mixed.x, read(columns).x)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("2020-10-25T02:30:00+02:00", "2020-10-25T02:30:00+01:00"),
        ("2020-01-01T00:00:00.001", "2020-01-01T00:00:00.002"),
        ("1577836800123456788", "1577836800123456789"),
    ],
)
def test_times_of_a_series_that_differ_are_no_repetition(tmp_path, first, second):
    (tmp_path / "x.csv").write_text(f"id,time,u\na,{first},1\na,{second},2\nb,{first},3\nb,{second},4\n")
    assert csv.read(tmp_path / "x.csv")["train"].x.tolist() == [[[1, 2]], [[3, 4]]]


# ------------------------------------------------------------------ parquet


def write_parquet(path, table):
    from pyarrow import parquet as arrow_parquet

    arrow_parquet.write_table(table, path)
    return path


def test_parquet_keeps_nanoseconds_zones_and_structs(tmp_path):
    import pyarrow

    start = 1577836800123456789
    times = pyarrow.array([start + i for i in range(4)], pyarrow.timestamp("ns", "Europe/Berlin"))
    acc = pyarrow.array([{"x": 1.0 * i, "y": 2.0 * i} for i in range(1, 5)])
    table = parquet.read(write_parquet(tmp_path / "x.parquet", pyarrow.table({"when": times, "acc": acc})))
    assert table.channels == ("acc.x", "acc.y")
    assert table.times.values[3] == np.datetime64(start + 3, "ns")
    assert table.times.format.write(table.times.values[:1]) == ["2020-01-01 01:00:00.123456789+01:00"]


def test_parquet_columns_beside_lists_have_a_role_or_are_said_to_be_left_out(tmp_path):
    import pyarrow

    columns = {"u": [[1.0, 2.0], [3.0, 4.0]], "id": ["a", "b"], "age": [31, 45], "patient": ["p", "q"]}
    path = write_parquet(tmp_path / "x.parquet", pyarrow.table(columns))
    data = parquet.read(path)["train"]
    assert (data.ids, data.groups) == (["a", "b"], ["p", "q"])
    assert "left out: 'age' (without a role)" in data.note
    assert parquet.read(path, ColumnRoles(targets=("age",)))["train"].targets.tolist() == [[31], [45]]


# ------------------------------------------------------------------ uneven times


def write_hours(path, hours):
    lines = [f"2020-01-{1 + h // 24:02d}T{h % 24:02d}:00,{math.sin(h):.3f}" for h in hours]
    path.write_text("\n".join(["date,u", *lines]))
    return str(path)


def test_gaps_repetitions_and_uneven_steps_of_a_table_are_said(tmp_path):
    path = write_hours(tmp_path / "x.csv", [*range(100), *range(104, 200), 199])
    notes = "\n".join(load_data(path, DataConfig(context=8, horizon=2)).notes)
    assert "row 101 follows a gap, time 2020-01-05T08:00; windows run over it; --regularize" in notes
    assert "row 197 repeats the time of the row above" in notes
    assert "steps of" not in notes


def test_regularize_inserts_the_missing_rows_without_samples(tmp_path):
    path = write_hours(tmp_path / "x.csv", [*range(100), *range(104, 200)])
    config = DataConfig(context=8, horizon=2, regularize=True)
    data = load_data(path, config)
    whole = load_data(write_hours(tmp_path / "y.csv", range(200)), DataConfig(context=8, horizon=2))
    assert "4 missing rows are inserted without samples, so that steps are 1 h" in data.notes[0]
    assert len(data.train) == len(whole.train)
    missing = data.train.table[0].isnan().nonzero().flatten().tolist()
    assert missing == [100, 101, 102, 103]
    assert load_split(path, input_schema=data.input_schema(), regularize=True).table.shape[1] == 200


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("date,u\n2020-01-01,1\n2020-01-02,2\n2020-01-02,3\n", "row 3, time 2020-01-02, repeats the time"),
        ("time,u\n0,1\n1,2\n2,3\n2.5,4\n", "row 4, time 2.5, is 0.5 steps later, and steps are 1"),
    ],
)
def test_regularize_refuses_times_that_are_not_whole_steps_apart(tmp_path, text, message):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        load_data(str(tmp_path / "x.csv"), DataConfig(context=1, horizon=1, regularize=True))


def test_regularize_needs_times(tmp_path):
    (tmp_path / "x.csv").write_text("u\n1\n2\n3\n")
    with pytest.raises(OptionError, match="has no column of times; give --time-column"):
        load_data(str(tmp_path / "x.csv"), DataConfig(context=1, horizon=1, regularize=True))


# ------------------------------------------------------------------ files


def test_a_path_with_commas_is_one_path(tmp_path):
    folder = tmp_path / "a, b"
    folder.mkdir()
    for path in (folder / "x,y.csv", tmp_path / "z.csv"):
        path.write_text("\n".join(["date,u", *(f"2020-01-{1 + i:02d},{i % 7}" for i in range(30))]))
    options = DataConfig(length=2)
    assert load_data(str(folder / "x,y.csv"), options).name == "x,y"
    both = load_data(f"{folder / 'x,y.csv'},{tmp_path / 'z.csv'}", options)
    assert (both.name, len({source.partition(".csv")[0] for source in both.source})) == ("x,y,z", 2)


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_lines_end_as_they_do_on_any_system_and_blank_ones_do_not_shift_messages(tmp_path, ending):
    lines = ["t0,t1,label", "1,2,a", "", '"3",4,"b"', "5,x,a"]
    (tmp_path / "x.csv").write_bytes(ending.join(lines).encode())
    with pytest.raises(DataError, match=r"line 5: 'x' is not a number"):
        csv.read(tmp_path / "x.csv")
    (tmp_path / "x.csv").write_bytes(ending.join(lines[:-1]).encode())
    assert csv.read(tmp_path / "x.csv")["train"].x.tolist() == [[[1, 2]], [[3, 4]]]


def test_a_blank_line_of_a_single_column_is_a_missing_sample(tmp_path):
    (tmp_path / "x.csv").write_text("u\n1\n\n3\n")
    np.testing.assert_array_equal(csv.read(tmp_path / "x.csv").values, [[1], [np.nan], [3]])


def test_samples_are_the_numbers_that_python_reads(tmp_path):
    cells = ["+1.5", " 2", ".5", "1e-3", "0.1", "123456789.123456789", "nan", ""]
    (tmp_path / "x.csv").write_text("\n".join(["time,u", *(f"{i},{cell}" for i, cell in enumerate(cells))]))
    expected = np.array([float(cell or "nan") for cell in cells])[:, None]
    np.testing.assert_array_equal(csv.read(tmp_path / "x.csv").values, expected.astype(np.float32))


def test_what_was_taken_for_what_is_a_note_of_the_data(tmp_path):
    rows = "".join(f"{','.join(map(str, row))},{label}\n" for row, label in zip(SAMPLES, LABELS, strict=True))
    for split in ("TRAIN", "TEST"):
        (tmp_path / f"x_{split}.csv").write_text(",".join([*RUN, "class"]) + "\n" + rows)
    notes = load_data(str(tmp_path / "x_TRAIN.csv")).notes
    assert [note for note in notes if note.startswith("columns: ")] == [
        "columns: each row is a series of 5 samples, 't0', 't1', 't2', 't3', 't4'; label 'class'"
    ]
    assert isinstance(csv.read(tmp_path / "x_TRAIN.csv")["train"], SeriesSet)
