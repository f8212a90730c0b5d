"""Times of tables: every way in which people write them is read exactly, and written back in the same way."""

import json

import numpy as np
import pytest

from tstk.data import DataConfig, load_data, load_split
from tstk.data.times import continue_times, insert_times, is_date, measure_steps, parse_times
from tstk.errors import DataChangedWarning, DataError, DataNoteWarning


def parse(*cells, zone=""):
    return parse_times(cells, "when", lambda row: f"f.csv, line {row + 2}", zone)


@pytest.mark.parametrize(
    ("cells", "first", "following"),
    [
        (["2020-01-01", "2020-01-02"], "2020-01-01", ["2020-01-03", "2020-01-04"]),
        (["2020-02-28", "2020-02-29"], "2020-02-28", ["2020-03-01", "2020-03-02"]),
        (["2020-01-01T00:30", "2020-01-01T01:00"], "2020-01-01T00:30", ["2020-01-01T01:30", "2020-01-01T02:00"]),
        (["2020-01-01 00:00:00", "2020-01-01 00:00:10"], "2020-01-01", ["2020-01-01 00:00:20", "2020-01-01 00:00:30"]),
        (
            ["2020-01-01 00:00:00.125", "2020-01-01 00:00:00.250"],
            "2020-01-01T00:00:00.125",
            ["2020-01-01 00:00:00.375", "2020-01-01 00:00:00.500"],
        ),
        (
            ["2020-01-01T00:00:00.123456789", "2020-01-01T00:00:00.123456790"],
            "2020-01-01T00:00:00.123456789",
            ["2020-01-01T00:00:00.123456791", "2020-01-01T00:00:00.123456792"],
        ),
        (["2020-01-01T00:00Z", "2020-01-01T01:00Z"], "2020-01-01", ["2020-01-01T02:00Z", "2020-01-01T03:00Z"]),
        (["31.01.2023", "01.02.2023"], "2023-01-31", ["02.02.2023", "03.02.2023"]),
        (["01/31/2023", "02/01/2023"], "2023-01-31", ["02/02/2023", "02/03/2023"]),
        (["31/01/2023", "01/02/2023"], "2023-01-31", ["02/02/2023", "03/02/2023"]),
        (["1990/1/1 0:00", "1990/1/2 0:00"], "1990-01-01", ["1990/1/3 0:00", "1990/1/4 0:00"]),
        (["1/31/2023 11:00 PM", "2/1/2023 12:00 AM"], "2023-01-31T23", ["2/1/2023 01:00 AM", "2/1/2023 02:00 AM"]),
        (["1577836800", "1577836860"], "2020-01-01", ["1577836920", "1577836980"]),
        (["1577836800.25", "1577836800.50"], "2020-01-01T00:00:00.25", ["1577836800.75", "1577836801.00"]),
        (["1577836800000", "1577836860000"], "2020-01-01", ["1577836920000", "1577836980000"]),
        (["1577836800000000", "1577836800000001"], "2020-01-01", ["1577836800000002", "1577836800000003"]),
        (["1577836800000000000", "1577836800000000001"], "2020-01-01", ["1577836800000000002", "1577836800000000003"]),
        (["20200131", "20200201"], "2020-01-31", ["20200202", "20200203"]),
        (["20200131235959", "20200201000000"], "2020-01-31T23:59:59", ["20200201000001", "20200201000002"]),
        (["2020-01", "2020-02"], "2020-01", ["2020-03", "2020-04"]),
        (["2020-01-31", "2020-02-29", "2020-03-31"], "2020-01-31", ["2020-04-30", "2020-05-31"]),
        (["2019-01-01", "2020-01-01"], "2019-01-01", ["2021-01-01", "2022-01-01"]),
    ],
)
def test_times_are_read_exactly_and_continued_as_they_are_written(cells, first, following):
    times = parse(*cells)
    assert times.values[0] == np.datetime64(first, "ns")
    assert times.format.write(times.values) == cells
    assert continue_times(times, 2) == following


@pytest.mark.parametrize(
    ("cells", "following"),
    [(["0", "1", "2"], ["3", "4"]), (["0.1", "0.2", "0.3"], ["0.4", "0.5"]), (["2019", "2020"], ["2021", "2022"])],
)
def test_other_numbers_are_numbers(cells, following):
    times = parse(*cells)
    assert times.values.dtype == np.float64
    assert continue_times(times, 2) == following


def test_the_hour_that_occurs_twice_in_autumn_is_no_repetition():
    cells = ["2020-10-25T01:30:00+02:00", "2020-10-25T02:30:00+02:00", "2020-10-25T02:30:00+01:00"]
    times = parse(*cells)
    assert np.diff(times.values).tolist() == [np.timedelta64(1, "h")] * 2
    assert continue_times(times, 2) == ["2020-10-25T03:30:00+01:00", "2020-10-25T04:30:00+01:00"]


def test_days_of_a_zone_begin_at_midnight_on_either_side_of_a_change():
    times = parse("2020-10-23T22:00:00Z", "2020-10-24T22:00:00Z", "2020-10-25T23:00:00Z", zone="Europe/Berlin")
    assert continue_times(times, 1) == ["2020-10-27T00:00:00+01:00"]
    before = parse("2020-10-22T22:00:00Z", "2020-10-23T22:00:00Z", "2020-10-24T22:00:00Z", zone="Europe/Berlin")
    assert continue_times(before, 1) == ["2020-10-26T00:00:00+01:00"]
    assert measure_steps(times) is None


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["01/02/2023", "02/02/2023"], "line 2: '01/02/2023' in 'when' may be day/month or month/day"),
        (["31/01/2020", "01/31/2020"], "line 3: '01/31/2020' in 'when' is written in another order"),
        (["2020-01-01", "01-02-2020"], "line 3: time '01-02-2020' in 'when' is written in another order"),
        (["2020-01-01T00:00Z", "2020-01-01T01:00"], "line 3: time '2020-01-01T01:00' in 'when' has no offset from UTC"),
        (["2020-01-01", "2020-02-30"], "line 3: time '2020-02-30' in 'when' is neither a number nor a date"),
        (["30.02.2020"], "line 2: time '30.02.2020' in 'when' is neither"),
        (["2020-01-01", "noon"], "line 3: time 'noon' in 'when' is neither"),
        (["2020-01-01", "12"], "line 3: time '12' in 'when' is neither"),
        (["2020-01-01", ""], "line 3: no time in 'when'; give it one, or remove the row"),
        (["01.01.23"], "line 2: time '01.01.23' in 'when' is neither"),
    ],
)
def test_a_column_whose_times_cannot_be_told_is_refused_with_the_line(cells, message):
    with pytest.raises(DataError) as error:
        parse(*cells)
    assert f"f.csv, {message}" in str(error.value)


@pytest.mark.parametrize(
    ("cells", "counts", "step"),
    [
        (["0", "1", "1", "4", "4.5"], [1, 0, 3, 0.5], "1"),
        (["2020-01-01", "2020-01-02", "2020-01-04"], [1, 2], "1 days"),
        (["2020-01-01", "2020-02-01", "2020-04-01"], [1, 2], "1 months"),
        (["2020-03-27T00:00+01:00", "2020-03-28T00:00+01:00", "2020-03-30T00:00+02:00"], [1, 2], "1 days"),
        (["2020-10-24T00:00+02:00", "2020-10-25T00:00+02:00", "2020-10-27T00:00+01:00"], [1, 2], "1 days"),
        (["2020-10-24T06:00+02:00", "2020-10-25T06:00+01:00", "2020-10-28T06:00+01:00"], [1, 3], "1 days"),
        (["2020-01-01T00:00", "2020-01-01T00:10", "2020-01-01T00:20", "2020-01-01T01:00"], [1, 1, 4], "10 min"),
    ],
)
def test_distances_are_counted_in_the_most_frequent_step(cells, counts, step):
    measured = measure_steps(parse(*cells))
    assert measured[0].tolist() == counts
    assert measured[1] == step


@pytest.mark.parametrize("zone", ["", "Europe/Berlin"])
def test_missing_days_are_inserted_across_a_change_of_the_clock(zone):
    days = ["2020-10-23T22:00:00Z", "2020-10-24T22:00:00Z", "2020-10-27T23:00:00Z"]
    local = ["2020-10-24T00:00:00+02:00", "2020-10-25T00:00:00+02:00", "2020-10-28T00:00:00+01:00"]
    times = parse(*(days if zone else local), zone=zone)
    even = insert_times(times, np.array([0, 1, 4]))
    assert measure_steps(even) is None
    assert [even.write()[i] for i in (0, 1, 4)] == local
    assert [cell[:16] for cell in even.write()] == [f"2020-10-{day}T00:00" for day in range(24, 29)]


def test_times_with_offsets_are_written_with_the_offset_of_each():
    cells = ["2020-10-25T02:30:00+02:00", "2020-10-25T02:30:00+01:00", "2020-10-25T03:30:00+01:00"]
    assert parse(*cells).write() == cells


def test_numbers_and_words_are_no_dates():
    assert is_date("2020-01-01")
    assert is_date("31.12.2020 10:00")
    assert not any(map(is_date, ["2020", "1.5", "1-2", "1.2.3", "20200101", "walk", "", "12/24"]))


def write_frequency(path, freq, kind, rows=60):
    """Write a table, or two series, with a row per `freq` of pandas, or per number of seconds."""
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    is_text = isinstance(freq, str)
    times = pandas.date_range("2024-01-01", periods=rows, freq=freq) if is_text else np.arange(rows) * freq
    values = np.random.default_rng(0).normal(size=(rows, 2))
    frame = pandas.DataFrame({"time": times, "u": values[:, 0], "v": values[:, 1]})
    if kind == "series":
        frame = pandas.concat([frame.assign(id=name, label=name) for name in "abcd"])
    frame.to_csv(path, index=False)
    return str(path)


@pytest.mark.parametrize("kind", ["table", "series"])
@pytest.mark.parametrize(
    ("freq", "other", "text"),
    [
        ("h", "2h", "2 h apart, and 1 h"),
        ("D", "MS", "31 days apart, and 1 days"),
        (0.02, 0.004, "0.004 apart, and 0.02"),
    ],
)
def test_data_for_a_model_at_another_step_are_noted(tmp_path, kind, freq, other, text):
    config = DataConfig(context=8, horizon=4) if kind == "table" else DataConfig(val_fraction=0.0)
    schema = load_data(write_frequency(tmp_path / "old.csv", freq, kind), config).input_schema()
    schema = json.loads(json.dumps(schema))  # as a run stores it
    with pytest.warns(DataChangedWarning, match=f"new.csv: samples are {text} in training; resample the data"):
        load_split(write_frequency(tmp_path / "new.csv", other, kind), input_schema=schema)
    with pytest.warns(DataNoteWarning) as record:
        load_split(write_frequency(tmp_path / "same.csv", freq, kind, 40), input_schema=schema)
    assert "in training" not in str(record[0].message)


def test_too_few_rows_to_forecast_from_are_counted_without_options_of_training(tmp_path):
    config = DataConfig(context=8, horizon=4)
    schema = load_data(write_frequency(tmp_path / "old.csv", "h", "table"), config).input_schema()
    short = write_frequency(tmp_path / "new.csv", "h", "table", 7)
    with pytest.raises(DataError, match=r"new\.csv: 7 rows, and the run forecasts from the last 8; give that many"):
        load_split(short, input_schema=schema, include_targets=False)
