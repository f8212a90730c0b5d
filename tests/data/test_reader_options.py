"""Readers have options, which are checked as those of components, recorded in runs and used again."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from tstk.cli import cli
from tstk.data import DataConfig, load_data
from tstk.data.containers import Table
from tstk.data.load import read_splits
from tstk.data.readers import csv
from tstk.errors import DataError, OptionError, TstkError, UnknownNameError
from tstk.plugins.hooks import Entry
from tstk.plugins.registry import get_registry

NAN = np.nan


def read(tmp_path, text, written_in="utf-8", **options):
    (tmp_path / "x.csv").write_bytes(text.encode(written_in))
    return csv.read(tmp_path / "x.csv", **options)


@pytest.mark.parametrize(
    ("text", "values", "note"),
    [
        (
            "Zeit;u;v\n01.02.2020;1,5;2\n02.02.2020;-2,25;3\n",
            [[1.5, 2], [-2.25, 3]],
            "numbers have ',' before decimals",
        ),
        ("Zeit;u\n01.02.2020;1.234,5\n02.02.2020;2,5\n", [[1234.5], [2.5]], "and '.' between thousands, as in 'u'"),
        ("Zeit;u;v\n01.02.2020;5,5;1.234,5\n02.02.2020;2;k\n".replace("k", ""), [[5.5, 1234.5], [2, NAN]], "as in 'u'"),
        ("time\tu\n0\t0,123\n1\t0,456\n", [[0.123], [0.456]], "cells are separated by '\\t'"),
        ("time;u\n0,5;1,25\n1,0;\n1,5;2\n", [[1.25], [NAN], [2]], "as in 'time'"),
        ("time;u\n0;1,500e3\n1;2\n", [[1500], [2]], "as in 'u'"),
        ("time;u\n0;-,500\n1;2\n", [[-0.5], [2]], "as in 'u'"),
        ("time|u\n0|1.5\n1|2.5\n", [[1.5], [2.5]], "cells are separated by '|'"),
        ("time;u\n0;1.5\n1;?\n", [[1.5], [NAN]], "cells are separated by ';'"),
        ("time;u [m;s]\n0;1\n", None, None),
        ("time,u [m;s]\n0,1\n1,2\n", [[1], [2]], ""),
        ('time;"u;v"\n0;1,5\n1;1e3\n', None, None),
    ],
)
def test_delimiters_and_decimal_commas_are_recognized_and_noted(tmp_path, text, values, note):
    if values is None:
        with pytest.raises(DataError):
            read(tmp_path, text)
        return
    table = read(tmp_path, text)
    assert isinstance(table, Table)
    np.testing.assert_allclose(table.values, values)
    assert note in table.note


@pytest.mark.parametrize(
    ("options", "values"),
    [({"decimal": ","}, [[1.5], [2.25]]), ({"decimal": ",", "delimiter": ";"}, [[1.5], [2.25]])],
)
def test_options_say_what_is_recognized_otherwise(tmp_path, options, values):
    np.testing.assert_allclose(read(tmp_path, "time;u\n0;1,5\n1;2,25\n", **options).values, values)


def test_a_comma_that_may_separate_thousands_is_refused_and_an_option_tells(tmp_path):
    text = "time;u\n0;1,500\n1;2,250\n"
    with pytest.raises(
        DataError, match=r"line 2: '1,500' is not a number.*--reader.decimal ',', or --reader.thousands"
    ):
        read(tmp_path, text)
    np.testing.assert_allclose(read(tmp_path, text, decimal=",").values, [[1.5], [2.25]])
    np.testing.assert_allclose(read(tmp_path, text, thousands=",").values, [[1500], [2250]])


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("time;u\n0;1,5\n1;2.5\n", {}, r"line 2: '1,5' is not a number; decimals take a point"),
        ("time;u;v\n0;1,5;1.5\n1;2,5;2.5\n", {}, r"line 2: '1.5' is not a number; decimals take a comma, as in 'u'"),
        ("time;u\n0;1,5\n1;x\n", {"decimal": ","}, r"line 3: 'x' is not a number; decimals take a comma"),
        ("time;u\n0;1.234,5\n1;k.A.\n", {}, r"line 3: 'k.A.' is not a number.* --reader.missing names"),
        (
            "time;u\n0;1.234,5\n1;2\n",
            {"decimal": ","},
            r"line 2: '1.234,5' .* --reader.decimal '.', or --reader.thousands '.'",
        ),
        ("time,u\n0,1,5\n1,2,5\n", {}, r"line 2: 3 cells, the header has 2"),
        ("a;b,c\n1;2,3\n", {}, r"separated by ',' or ';'; give --reader csv --reader.delimiter ';'"),
        ("Messung 7\ntime,u\n0,1\n1,2\n", {}, r"line 2: 2 cells, the header has 1.*in line 2: .*--reader.skip-lines 1"),
        ("Ort 7\n\nZeit;u\n1;1,5\n2;2,5\n3;3\n", {}, r"header has 1.*in line 3: .*--reader.skip-lines 2"),
        ("1,2\n3,4\n", {}, r"the first line holds numbers.*--no-reader.header"),
        ("time,u\n0,1\n", {"names": ("a",)}, r"1 --reader.names for 2 columns"),
        ("time,u\n0,1\n", {"skip_lines": 9}, r"--reader.skip-lines 9: .* has 2 lines"),
        ("# a\n# b\n", {"comment": "#"}, r"every line is left out"),
        ("time,u\n0,1\n", {"delimiter": "::"}, r"--reader.delimiter '::': expected one character"),
        (
            "time,u\n0,1\n",
            {"delimiter": ",", "decimal": ","},
            r"--reader.delimiter , and --reader.decimal , are the same",
        ),
        (
            "time,u\n0,1\n",
            {"thousands": ".", "decimal": "."},
            r"--reader.thousands . and --reader.decimal . are the same",
        ),
        ("time,u\n0,1\n", {"thousands": "12"}, r"--reader.thousands '12': expected one character"),
        ("time,u\n0,1\n", {"encoding": "klingon"}, r"--reader.encoding klingon: Python has no such encoding"),
    ],
)
def test_what_cannot_be_read_is_refused_with_place_and_option(tmp_path, text, options, message):
    with pytest.raises(TstkError, match=message):
        read(tmp_path, text, **options)


def test_numbers_below_a_name_are_not_taken_for_names_of_columns(tmp_path):
    with pytest.raises(DataError, match=r"line 2: 2 cells, the header has 1; fix or remove the row$"):
        read(tmp_path, "u\n1,5\n2,5\n3,5\n")


@pytest.mark.parametrize(
    ("space", "option"), [(" ", "' '"), ("\u00a0", r"\$'\\u00a0'"), ("\u202f", r"\$'\\u202f'"), ("'", '"\'"')]
)
def test_a_separator_of_thousands_is_named_with_its_option(tmp_path, space, option):
    text = f"time;u\n0;1{space}500,5\n1;2\n"
    with pytest.raises(DataError, match=f"--reader csv --reader.thousands {option}$"):
        read(tmp_path, text)
    np.testing.assert_array_equal(read(tmp_path, text, decimal=",", thousands=space).values, [[1500.5], [2]])


@pytest.mark.parametrize(("encoding", "remedy"), [("latin-1", "latin-1"), ("cp1252", "cp1252"), ("utf-16", "utf-16")])
def test_another_encoding_is_refused_with_its_probable_name_and_read_with_it(tmp_path, encoding, remedy):
    text = "time,Länge\n0,1\n" if encoding == "latin-1" else "time,Länge €\n0,1\n"
    text = text if encoding != "utf-16" else text.replace("€", "m")
    with pytest.raises(DataError, match=f"save it as UTF-8, or give --reader csv --reader.encoding {remedy}"):
        read(tmp_path, text, encoding)
    assert read(tmp_path, text, encoding, encoding=remedy).channels[0].startswith("Länge")


@pytest.mark.parametrize(
    ("text", "options", "channels", "values"),
    [
        ("Station 7\n\ntime,u\n0,1\n1,2\n", {"skip_lines": 2}, ("u",), [[1], [2]]),
        ("# Station 7\ntime,u\n0,1\n# pause\n1,2\n", {"comment": "#"}, ("u",), [[1], [2]]),
        ("0,1\n1,2\n", {"header": False, "names": ("time", "u")}, ("u",), [[1], [2]]),
        ("t,x\n0,1\n1,2\n", {"names": ("time", "u")}, ("u",), [[1], [2]]),
        ("time,u,v\n0,-999,1\n1,2,---\n", {"missing": ("-999", "---")}, ("u", "v"), [[NAN, 1], [2, NAN]]),
        ("time u\n0 1\n1 2\n", {"delimiter": " "}, ("u",), [[1], [2]]),
        ("time\tu\n0\t1\n1\t2\n", {"delimiter": "\\t"}, ("u",), [[1], [2]]),
    ],
)
def test_options_of_the_layout_take_effect(tmp_path, text, options, channels, values):
    table = read(tmp_path, text, **options)
    assert table.channels == channels
    np.testing.assert_array_equal(table.values, values)


@pytest.mark.parametrize(
    ("written_in", "encoding"),
    [("utf-8-sig", "UTF-8"), ("utf-8-sig", "utf8"), ("utf-16", "utf-16-le"), ("utf-16", "utf-16"), ("utf-8", "utf-8")],
)
def test_the_mark_of_an_encoding_is_no_part_of_the_first_name(tmp_path, written_in, encoding):
    assert read(tmp_path, "time,u\n0,1\n1,2\n", written_in, encoding=encoding).channels == ("u",)


@pytest.mark.parametrize(
    ("text", "count"),
    [("time,u\n0,1\n1,2\n", 0), ("x\n# a\n\ntime,u\n0,1\n# b\n1,2\n", 2), ("x\ntime,u\n0,1\n# b", 1)],
)
def test_lines_that_are_comments_are_counted(tmp_path, text, count):
    note = read(tmp_path, text, comment="#", skip_lines=int(text[0] == "x")).note
    assert f"x.csv: {count} lines are left out, as they begin with '#'" in note


def test_a_file_without_names_of_columns_is_read_by_their_numbers(tmp_path):
    (tmp_path / "x.csv").write_text("a,1,2,3\nb,4,5,6\n")
    config = DataConfig(reader={"use": "csv", "header": False}, label_column="0", val_fraction=0.0)
    data = load_data(str(tmp_path / "x.csv"), config)
    assert data.train.x[:, 0].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert data.classes == ("a", "b")


@pytest.mark.parametrize(
    ("options", "line"), [({"skip_lines": 2}, 5), ({"comment": "#"}, 5), ({"header": False, "names": ("time", "u")}, 4)]
)
def test_faults_are_named_by_the_line_of_the_file(tmp_path, options, line):
    preamble = {"skip_lines": "a\nb\ntime,u\n", "comment": "# a\ntime,u\n# b\n"}.get(
        next(iter(options)), "0,1\n1,1\n2,1\n"
    )
    with pytest.raises(DataError, match=f"line {line}: 'x' is not a number"):
        read(tmp_path, preamble + ("0,1\n" if line == 5 else "") + "9,x\n", **options)


def test_labels_and_ids_keep_their_text_where_numbers_have_commas(tmp_path):
    series = read(tmp_path, "id;t0;t1;label\n1,5;1,25;2;2,5\n1,50;3;4;2,50\n", decimal=",")["train"]
    assert (series.ids, series.y) == (["1,5", "1,50"], ["2,5", "2,50"])
    np.testing.assert_array_equal(series.x[:, 0], [[1.25, 2], [3, 4]])


# selection


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ("cvs", UnknownNameError, "Did you mean 'csv'"),
        (
            {"use": "csv", "delimeter": ";"},
            OptionError,
            "reader 'csv' has no option 'delimeter'.*Did you mean 'delimiter'",
        ),
        ({"use": "csv", "decimal": ";"}, OptionError, r"reader.decimal is ';'; expected \.\|,"),
        ({"use": "csv", "skip_lines": -1}, OptionError, "reader.skip_lines is -1; expected int, 0 or more"),
        ({"use": "csv", "skip_lines": "x"}, OptionError, "reader.skip_lines is 'x'; expected int"),
        ({"delimiter": ";"}, OptionError, "no reader is selected; use --reader"),
        (7, OptionError, "reader is 7; expected a name"),
    ],
)
def test_readers_and_their_options_are_checked_as_those_of_components(value, error, message):
    with pytest.raises(error, match=message):
        DataConfig(reader=value)


@pytest.mark.parametrize("name", ["x.dat", "x.txt", "x.tsv", "x"])
def test_a_reader_that_is_named_reads_text_of_any_suffix(tmp_path, name):
    (tmp_path / name).write_text("time;u\n0;1,5\n1;2,5\n")
    splits = read_splits(str(tmp_path / name), roles=DataConfig(reader="csv").roles)
    np.testing.assert_array_equal(splits["train"].values, [[1.5], [2.5]])


@pytest.mark.parametrize(
    ("reader", "name"), [("csv", "x.npz"), ("npz", "x.csv"), ("edf", "x.csv"), ("shards", "x.csv")]
)
def test_a_reader_of_other_files_is_refused_by_name(tmp_path, reader, name):
    np.savez(tmp_path / "x.npz", X=np.ones((4, 1, 5)))
    (tmp_path / "x.csv").write_text("time,u\n0,1\n")
    with pytest.raises(OptionError, match=f"--reader {reader}"):
        load_data(str(tmp_path / name), DataConfig(reader=reader))


def test_data_without_files_refuse_a_reader():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    with pytest.raises(OptionError, match="--reader csv has no meaning for a data frame"):
        load_data(pandas.DataFrame({"u": [1.0, 2.0]}), DataConfig(reader="csv"))


def test_the_recordings_of_a_folder_are_read_with_the_options(tmp_path):
    for kind in ("walk", "run"):
        (tmp_path / kind).mkdir()
        for i in range(3):
            (tmp_path / kind / f"{i}.csv").write_text(f"# 50 Hz\nu;v\n1,5;{i}\n2,5;-999\n")
    options = {"use": "csv", "comment": "#", "missing": ["-999"]}
    series = read_splits(str(tmp_path), roles=DataConfig(reader=options).roles)["train"]
    np.testing.assert_array_equal(series.x[0], [[1.5, 2.5], [0, NAN]])
    assert len(series.x) == 6


PLUGIN = '''"""Gauges."""
from pathlib import Path
from typing import Annotated

from annotated_types import Gt

from tstk.data.columns import ColumnRoles
from tstk.data.containers import SeriesSet, pad_series, parse_floats, read_lines


def read(
    path: Path, roles: ColumnRoles = ColumnRoles(), *, scale: Annotated[float, Gt(0)] = 1.0
) -> dict[str, SeriesSet]:
    """Read the series of one file.

    Args:
        path: a file that ends in .gauge
        roles: rejected
        scale: factor of the samples
    """
    series = [scale * parse_floats(line.split(), str(path))[None] for line in read_lines(path)]
    return {"train": SeriesSet(pad_series(series, str(path)), str(path))}
'''


def test_the_reader_of_a_plugin_has_options_in_the_same_way(tmp_path, monkeypatch):
    (tmp_path / "gauges_of_a_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    entry = Entry("reader", "gauge", "gauges_of_a_plugin:read", "Gauges", frozenset({".gauge"}), dist="tides")
    monkeypatch.setitem(get_registry()._table, ("reader", "gauge"), [entry])
    (tmp_path / "x.gauge").write_text("1 2 3\n4 5 6\n7 8 10\n")
    config = DataConfig(reader={"use": "gauge", "scale": 2}, val_fraction=0.0)
    assert load_data(str(tmp_path / "x.gauge"), config).train.x[0].tolist() == [[2, 4, 6]]
    assert load_data(str(tmp_path / "x.gauge"), DataConfig(val_fraction=0.0)).train.x[0].tolist() == [[1, 2, 3]]
    with pytest.raises(OptionError, match=r"reader\.scale is 0; expected float, more than 0"):
        DataConfig(reader={"use": "gauge", "scale": 0})
    words = [
        "data",
        "info",
        str(tmp_path / "x.gauge"),
        "--reader",
        "gauge",
        "--reader.scale",
        "3",
        "--val-fraction",
        "0",
    ]
    result = CliRunner().invoke(cli, [*words, "--json"])
    assert json.loads(result.stdout)["ranges"]["0"]["max"] == 30
    help_page = CliRunner().invoke(cli, ["data", "info", "--reader", "gauge", "--help"]).output
    assert "--reader.scale" in help_page
    assert "factor of the samples" in help_page


# on the command line, and in a run


@pytest.fixture
def german(tmp_path, monkeypatch):
    """Write a semicolon table in Latin-1, whose missing values are -999, as a .dat file."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    rows = [f"{i:02}.03.2021 00:00;{x:.3f};-999" for i, x in zip(range(1, 32), rng.normal(5, 1, 31), strict=True)]
    rows = [row.replace(".", ",").replace(",03,2021", ".03.2021") for row in rows]
    rows = [row.removesuffix("-999") + f"{i},5" if i % 4 else row for i, row in enumerate(rows)]
    text = "\n".join(["Meßstelle 7", "Zeit;Höhe;Fluß", *rows])
    Path("pegel.dat").write_bytes(text.encode("latin-1"))
    return ["--reader", "csv", "--reader.encoding", "latin-1", "--reader.skip-lines", "1", "--reader.missing=-999"]


def run(*words, code=0):
    result = CliRunner().invoke(cli, [*map(str, words)])
    assert result.exit_code == code, result.output
    return result.output


def test_the_commands_of_data_take_a_reader_and_its_options(german):
    output = run("data", "info", "pegel.dat", *german, "--context", 4, "--horizon", 2)
    assert "8 cells are missing, as they are -999" in " ".join(output.split())
    assert "'Höhe', 'Fluß'; time 'Zeit' (day.month.year)" in " ".join(output.split())
    run("data", "convert", "pegel.dat", "out.npz", *german, "--length", 3)
    assert np.load("out.npz")["channels"].tolist() == ["Höhe", "Fluß"]
    run("data", "split", "pegel.dat", "--out", "out", "--test-fraction", 0.3, *german)
    assert Path("out/test.csv").read_text(encoding="utf-8").startswith("date,Höhe,Fluß\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--reader.delimiter", ";"],
            "No such option '--reader.delimiter'. No reader is selected; select one with --reader",
        ),
        (["--reader", "csv", "--reader.delimeter", ";"], "Did you mean '--reader.delimiter'?"),
        (["--reader", "csv", "--reader.skip-lines", "x"], "--reader.skip-lines is 'x'; expected int"),
        (["--reader", "cvs"], "Did you mean 'csv'"),
    ],
)
@pytest.mark.parametrize("command", [["data", "info"], ["train", "--data"]])
def test_mistakes_on_the_command_line_are_told(german, command, words, message):
    assert message in " ".join(run(*command, "pegel.dat", *words, code=2).replace("│", "").split())


@pytest.mark.slow
def test_help_shows_the_options_of_the_reader():
    for words in (["train", "--reader", "csv", "--help"], ["data", "info", "--reader", "csv", "--help"]):
        assert "--reader.delimiter" in run(*words)
    assert "--reader.delimiter" not in run("train", "--help")
    assert "delimiter" in run("show", "reader", "csv")


@pytest.mark.slow
def test_a_run_records_its_reader_and_reads_its_data_with_it(german, tmp_path):
    table = ["--context", 4, "--horizon", 2, "--tokenizer", "patch", "--tokenizer.window", 2, "--encoder", "identity"]
    training = [*table, "--head", "forecast", "--steps", 1, "--quiet"]
    run("train", "--data", "pegel.dat", *german, *training, "--out", "run")
    record = json.loads(Path("run/config.json").read_text())["config"]["data"]["reader"]
    assert record["use"] == "tstk/csv"
    assert record["missing"] == ["-999"]
    run("eval", "run")
    run("forecast", "run", "--out", "next.csv")
    os.rename("pegel.dat", "later.dat")
    run("predict", "run", "--data", "later.dat", "--out", "later.csv")
    Path("config.toml").write_text(
        "[data.reader]\nuse = 'csv'\nencoding = 'latin-1'\nskip_lines = 1\nmissing = ['-999']\n", encoding="utf-8"
    )
    run("train", "--config", "config.toml", "--data", "later.dat", *training, "--out", "run2")
    assert json.loads(Path("run2/config.json").read_text())["config"]["data"]["reader"] == record


def test_python_takes_a_reader_as_a_name_a_table_or_with_options_behind_it():
    from tstk.config.resolve import parse_overrides, resolve_config

    for options in (
        {"reader": {"use": "csv", "delimiter": ";"}},
        {"reader": "csv", "reader__delimiter": ";"},
        {"reader__delimiter": ";", "reader": "csv"},
    ):
        config = resolve_config(("flag", parse_overrides(options)))
        assert config.values["data"]["reader"]["delimiter"] == ";"
        assert DataConfig(**config.options("data")).reader["decimal"] is None


@pytest.mark.slow
def test_other_data_are_read_with_a_reader_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(0).normal(size=(60, 2)).round(3)
    plain = "\n".join(["time,u,v", *(f"{i},{u},{v}" for i, (u, v) in enumerate(values))])
    Path("plain.csv").write_text(plain)
    Path("other.txt").write_text("# logger 3\n" + plain.replace(",", ";").replace(".", ","))
    training = [
        "--context",
        4,
        "--horizon",
        2,
        "--tokenizer",
        "patch",
        "--tokenizer.window",
        2,
        "--encoder",
        "identity",
    ]
    run("train", "--data", "plain.csv", *training, "--head", "forecast", "--steps", 1, "--quiet", "--out", "run")
    other = ["--data", "other.txt", "--reader", "csv", "--reader.comment", "#"]
    run("predict", "run", "--data", "plain.csv", "--out", "plain.npz")
    run("predict", "run", *other, "--out", "other.npz")
    np.testing.assert_array_equal(np.load("plain.npz")["forecast"], np.load("other.npz")["forecast"])
    run("eval", "run", *other)
    run("forecast", "run", *other, "--out", "next.csv")
    assert "Did you mean '--reader.comment'?" in run("eval", "run", *other[:4], "--reader.coment", "#", code=2)
    assert "--reader csv is for other data (--data)" in run("eval", "run", "--reader", "csv", code=2)
