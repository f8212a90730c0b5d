"""`--init-from RUN` with other data: columns of the same names have the roles that they had in the run."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from tests.support.shell import call
from tstk.cli import cli
from tstk.config.records import RunConfig

SMALL = ["--tokenizer.dim", 8, "--encoder.dim", 8, "--encoder.heads", 2, "--encoder.depth", 1, "--decoder.depth", 1]
QUICK = ["--steps", 1, "--device", "cpu", "--threads", 1]
ROLES = ["--id-column", "who", "--time-column", "at", "--label-column", "mood", "--drop-columns", "battery,label"]


def write_series(path, names="who,at,u,v,mood,battery,label", delimiter=","):
    """Write 12 series of 16 samples under these names of columns."""
    rng = np.random.default_rng(0)
    rows = [
        [f"s{i}", t, *rng.normal(size=2).round(3), ("sad", "glad")[i % 2], round(rng.random(), 3), "xy"[i % 2]]
        for i in range(12)
        for t in range(16)
    ]
    lines = [delimiter.join(map(str, row[: len(names.split(","))])) for row in rows]
    path.write_text("\n".join([names.replace(",", delimiter), *lines]))
    return path


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained")
    words = ["--data", write_series(folder / "first.csv"), *ROLES, "--loss", "masked", *SMALL, *QUICK]
    call("train", *words, "--out", folder / "run")
    return folder / "run"


def train_on(pretrained, data, *words, out):
    """Return what is noted, and the options of the data that are recorded."""
    result = call("train", "--init-from", pretrained, "--data", data, *words, *QUICK, "--out", out)
    return result.stderr, RunConfig.read(out).options("data")


def test_columns_of_the_same_names_have_the_roles_of_the_run_and_a_note_says_so(pretrained, tmp_path):
    data = write_series(tmp_path / "second.csv", "who,at,u,v,mood,battery")
    notes, options = train_on(pretrained, data, "--head", "linear", out=tmp_path / "run")
    flags = "--label-column mood --id-column who --time-column at --drop-columns battery"
    assert f"columns are read as in run {pretrained}: {flags}\n" in notes
    assert (options["id_column"], options["label_column"], options["drop_columns"]) == ("who", "mood", ["battery"])
    assert RunConfig.read(tmp_path / "run").classes == ["glad", "sad"]
    call("eval", tmp_path / "run", "--data", data)


def test_a_column_of_labels_that_pretraining_left_out_is_that_of_the_new_task(pretrained, tmp_path):
    data = write_series(tmp_path / "second.csv", "who,at,u,v,feeling,battery,label")
    _, options = train_on(pretrained, data, "--head", "linear", out=tmp_path / "run")
    assert options["drop_columns"] == ["battery"]
    assert RunConfig.read(tmp_path / "run").classes == ["x", "y"]


def test_roles_of_columns_that_are_not_there_are_named_and_not_recorded(pretrained, tmp_path):
    data = write_series(tmp_path / "second.csv", "who,at,u,v,feeling")
    notes, options = train_on(pretrained, data, out=tmp_path / "run")
    kept, lost = "--id-column who --time-column at", "--label-column mood --drop-columns battery"
    assert f"{kept}; these data have no column or use for {lost} of run {pretrained}" in notes
    assert (options["label_column"], options["drop_columns"]) == (None, [])


def test_flags_take_precedence_over_the_roles_of_the_run(pretrained, tmp_path):
    data = write_series(tmp_path / "second.csv")
    words = ["--label-column", "label", "--drop-columns", "battery,mood", "--head", "linear"]
    notes, options = train_on(pretrained, data, *words, out=tmp_path / "run")
    assert "columns are read as in run" in notes
    assert (options["label_column"], options["drop_columns"]) == ("label", ["battery", "mood"])
    assert RunConfig.read(tmp_path / "run").classes == ["x", "y"]


@pytest.mark.parametrize("kind", ["archive", "table", "folder", "series in a row"])
def test_data_without_columns_for_the_roles_are_read_without_them(pretrained, tmp_path, kind):
    x, data = np.random.default_rng(0).normal(size=(12, 2, 16)), tmp_path / "data"
    words = ["--loss", "masked"]
    if kind == "archive":
        np.savez(data := tmp_path / "data.npz", X=x, y=np.arange(12) % 2)
    elif kind == "table":
        (data := tmp_path / "data.csv").write_text(
            "\n".join(["date,a,b", *(f"2024-01-{d:02},1,{d}" for d in range(1, 31))])
        )
        words = ["--context", 4, "--horizon", 2, "--head", "forecast"]
    elif kind == "folder":
        for i, series in enumerate(x):
            (data / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
            np.save(data / "ab"[i % 2] / f"{i}.npy", series)
    else:
        header = ",".join(["label", *(f"t{t}" for t in range(16))])
        rows = [",".join(["ab"[i % 2], *map(str, series[0])]) for i, series in enumerate(x)]
        (data := tmp_path / "data.csv").write_text("\n".join([header, *rows]))
    notes, options = train_on(pretrained, data, *words, out=tmp_path / "run")
    assert "note: these data have no column or use for --label-column mood --id-column who --time-column at" in notes
    assert (options["label_column"], options["id_column"], options["time_column"]) == (None, None, None)


def test_an_error_in_data_says_that_their_columns_are_read_as_in_the_run(pretrained, tmp_path):
    data = write_series(tmp_path / "second.csv")
    data.write_text(data.read_text().replace("s1,3,", "s1,2,"))
    words = map(str, ["train", "--init-from", pretrained, "--data", data, "--head", "linear", *QUICK])
    error = CliRunner().invoke(cli, [*words, "--out", str(tmp_path / "run")]).stderr
    assert "id 's1' has time 2 twice; remove one of the rows; columns are read as in run" in error


def test_the_reader_of_the_run_reads_files_that_it_can(pretrained, tmp_path):
    names = "who,at,u,v,mood,battery"
    first = write_series(tmp_path / "first.txt", names, delimiter="|")
    words = ["--reader", "csv", "--reader.delimiter", "|", "--id-column", "who", "--label-column", "mood"]
    call("train", "--data", first, *words, "--loss", "masked", *SMALL, *QUICK, "--out", tmp_path / "run")
    second = write_series(tmp_path / "second.txt", names, delimiter="|")
    notes, options = train_on(tmp_path / "run", second, "--head", "linear", out=tmp_path / "text")
    assert "--id-column who --reader tstk/csv\n" in notes
    assert options["reader"]["delimiter"] == "|"
    np.savez(tmp_path / "third.npz", X=np.random.default_rng(0).normal(size=(12, 3, 16)), y=np.arange(12) % 2)
    notes, options = train_on(tmp_path / "run", tmp_path / "third.npz", "--head", "linear", out=tmp_path / "archive")
    assert "--reader tstk/csv of run" in notes
    assert options["reader"] is None
    assert json.loads((tmp_path / "archive" / "result.json").read_text())["task"] == "classification"
