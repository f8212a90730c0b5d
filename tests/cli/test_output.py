"""What is printed: names from files cannot control the terminal, forge lines or break JSON."""

import csv
import io
import json
import os
import re
import tomllib
from base64 import b64decode
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

from tstk.cli import cli, fail, output
from tstk.cli.completion import complete_data_sets
from tstk.cli.files import write_csv
from tstk.errors import escape_control_characters

TITLE, CLEAR = "\x1b]0;pwned\x07", "\x1b[2J"
HOSTILE = {
    "sets the title": TITLE,
    "clears the screen": CLEAR,
    "moves the cursor with a C1 control": "\x9b5A",
    "overwrites the line": "safe\rError",
    "deletes": "a\x08\x7f",
    "reverses the text": "a\u202ecod.exe\u2066",
    "separates lines": "a\u2028Error: b\x85c\x0bd\x1ce",
    "has no encoding": "a\udcff",
}
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def write_classes(folder, *classes):
    """Write d.npz with six series of each class in each split."""
    y = np.array([name for _ in range(6) for name in classes])
    X = np.arange(len(y))[:, None, None] // len(classes) + np.arange(8.0)
    np.savez(folder / "d.npz", X_train=X, y_train=y, X_test=X, y_test=y)


def printed(result):
    assert not CONTROL.search(result.stdout), repr(result.stdout)
    assert not CONTROL.search(result.stderr), repr(result.stderr)
    return result.stdout + result.stderr


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_control_characters_are_escaped_wherever_text_is_printed(name, capsys):
    output.echo(name)
    output.echo(name, lead=name, bold=True)
    output.echo(name, err=True)
    output.print_note(name)
    output.print_json({name: [name]})
    output.print_table(["x", name], [[name, None]])
    output.print_scores({name: {name: 1.0, "accuracy": 0.5}})
    output.print_baseline_notes({}, {}, {name: name}, {name: name}, name)
    with pytest.raises(SystemExit):
        fail(name)
    out, err = capsys.readouterr()
    assert not CONTROL.search(out + err), repr(out + err)
    assert escape_control_characters(name) in out
    assert escape_control_characters(name) in err


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_escapes_are_the_characters_again_in_json_and_toml(name, capsys):
    output.print_json({name: name})
    assert json.loads(capsys.readouterr().out) == {name: name}
    if "\udcff" not in name:
        quoted = json.dumps(name, ensure_ascii=False)
        assert tomllib.loads(f"x = {escape_control_characters(quoted)}") == {"x": name}


def test_letters_of_all_scripts_are_printed_as_they_are():
    text = "é ü ß 測試 тест עברית عربى 🎉 é\tb\nc"
    assert escape_control_characters(text) == text


def test_a_name_with_a_line_feed_stays_on_its_line(capsys):
    output.print_table(["name", "n"], [["a\nError: forged", 1], ["b", 2]])
    output.print_note("class a\nError: forged")
    out, err = capsys.readouterr()
    assert not [line for line in (out + err).splitlines() if line.startswith("Error")]


def test_markup_in_names_is_text(capsys):
    for name in ("[red]a", "[/x]", "[link=http://x]y[/link]", r"\[b]"):
        output.print_table([name], [[name]])
        assert capsys.readouterr().out.count(name) == 2


@pytest.mark.parametrize("form", [[], ["--json"]], ids=["text", "json"])
def test_classes_and_files_of_strange_names_are_described(tstk, tmp_path, form):
    names = [f"{TITLE}{CLEAR}[red]A", "<script>alert(1)</script>", "\u202ex"]
    write_classes(tmp_path, *names)
    result = tstk("data", "info", "d.npz", *form)
    assert result.exit_code == 0, result.output
    text = printed(result)
    if form:
        assert set(json.loads(result.stdout)["parts"]["train"]["classes"]) == set(names)
    else:
        assert r"class \u001b]0;pwned\u0007\u001b[2J[red]A" in text


def test_data_sets_of_strange_names_are_listed_and_not_completed(tstk, tmp_path):
    (tmp_path / "root").mkdir()
    for name in (f"x{CLEAR}.csv", "y[red].csv", "plain.csv", os.fsdecode(b"\xff.csv")):
        (tmp_path / "root" / name).write_text("")
    text = printed(tstk("data", "list", "--data-root", "root"))
    assert r"x\u001b[2J" in text
    assert r"\udcff" in text
    assert "y[red]" in text
    assert printed(tstk("data", "list", "--data-root", "root", "--json"))
    ctx = cli.make_context("tstk", ["data"], resilient_parsing=True)
    ctx.params["data_root"] = "root"
    names = [item.value for item in complete_data_sets(ctx, None, "")]
    assert "plain" in names
    assert not any(CONTROL.search(name) for name in names)


@pytest.mark.parametrize(
    "words",
    [
        ("data", "info", f"{CLEAR}.csv"),
        ("data", "info", f"{TITLE}"),
        ("data", "fetch", f"[/x]{CLEAR}"),
        ("eval", f"run{CLEAR}"),
        ("train", f"--{CLEAR}"),
        ("train", "--encoder", f"{TITLE}"),
        (f"{CLEAR}",),
        ("show", "encoder", f"{TITLE}"),
        ("train", "--config", f"{CLEAR}.toml"),
        ("train", "--device", f"{TITLE}"),
        ("train", "--epochs", f"1{CLEAR}"),
    ],
)
def test_errors_about_strange_names_are_plain_lines(refused, words):
    assert not CONTROL.search(refused(*words))


def test_a_terminal_sees_the_styles_of_tstk_alone():
    result = CliRunner().invoke(cli, ["data", "info", f"{CLEAR}.csv"], color=True, prog_name="tstk")
    assert re.findall("\x1b[^m]*m", result.stderr) == ["\x1b[31m", "\x1b[1m", "\x1b[0m"]
    assert CLEAR not in result.stderr


@pytest.mark.slow
@pytest.mark.filterwarnings("error:Glyph")
def test_a_run_on_classes_of_strange_names_prints_and_draws_them_as_text(tstk, tmp_path, small):
    names = [f"{TITLE}{CLEAR}[/x]", "<script>alert(1)</script>", r"$\frac{$", "=cmd|'/C calc'!A0"]
    write_classes(tmp_path, *names)
    pytest.importorskip("matplotlib")
    for words in (
        ("train", "--data", "d.npz", "--head", "linear", "--epochs", 1, "--out", "run", *small),
        ("eval", "run"),
        ("predict", "run", "--out", "predictions.csv"),
        ("probe", "run"),
        ("report", "run"),
    ):
        result = tstk(*words)
        assert result.exit_code == 0, (words, result.output)
        printed(result)
    with (tmp_path / "predictions.csv").open(encoding="utf-8", newline="") as file:
        assert {row["predicted"] for row in csv.DictReader(file)} <= set(names)
    html = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    drawings = [b64decode(code) for code in re.findall(r"base64,([^\"]+)", html)]
    texts = " ".join("".join(ElementTree.fromstring(drawing).itertext()) for drawing in drawings)
    assert r"$\frac{$" in texts
    assert r"\u001b[2J" in texts


def test_progress_columns_interpret_no_markup_of_names():
    from tstk.cli.progress import ProgressBar

    bar = ProgressBar().progress
    bar.add_task("", total=1, epoch=1, epochs=1, losses="[/x] 0.1", speed="1/s", val="[red]")
    text = io.StringIO()
    Console(file=text, width=160).print(bar.get_renderable())
    assert "[/x] 0.1" in text.getvalue()
    assert "[red]" in text.getvalue()


@pytest.mark.parametrize("cell", ["=cmd|'/C calc'!A0", "+1", "-1", "@SUM(A1)", 'a,"b', TITLE])
def test_cells_of_csv_files_are_read_back_as_they_were(tmp_path, cell):
    write_csv(tmp_path / "out.csv", ["predicted", "n"], [[cell, 1]], replace=False)
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [["predicted", "n"], [cell, "1"]]


def test_without_any_score_no_table_is_printed(capsys):
    output.print_scores({"test": {}, "val": {}})
    assert not capsys.readouterr().out
