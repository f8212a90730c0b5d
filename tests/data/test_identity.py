"""A run knows which data it was trained on, wherever it is used from, and says so when they have changed."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from tests.support.shell import call
from tstk.cli import cli
from tstk.config.records import RunConfig, read_record, write_record
from tstk.data import identity
from tstk.data.identity import describe_data_changes, find_run_data, hash_file, identify_files, resolve_paths
from tstk.errors import DataChangedWarning
from tstk.evaluation.probe import probe
from tstk.inference.predict import embed, predict, score
from tstk.report import write_report

TABLE = {"use": "d.npz", "data_root": None, "train_data": None, "val_data": None, "test_data": None, "conditioning": ()}


def write_data(path, shift=0):
    """Write labelled series whose test labels are shifted by some classes."""
    x = np.sin(np.arange(3)[:, None, None] * np.linspace(0, 9, 20)).repeat(8, 0).astype(np.float32)
    y = np.repeat(np.arange(3), 8)
    np.savez(path, X_train=x, y_train=y, X_test=x, y_test=(y + shift) % 3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a folder with data and a run that was trained from there on `d.npz`, and one with another `d.npz`."""
    folder = tmp_path_factory.mktemp("identity")
    for name, shift in (("a", 0), ("b", 1)):
        (folder / name).mkdir()
        write_data(folder / name / "d.npz", shift)
    before = os.getcwd()
    os.chdir(folder / "a")
    try:
        words = "train --data d.npz --encoder transformer --encoder.dim 8 --encoder.depth 1 --encoder.heads 2"
        words += " --head linear --steps 2 --device cpu --quiet --out run"
        result = CliRunner().invoke(cli, words.split(), prog_name="tstk")
    finally:
        os.chdir(before)
    assert result.exit_code == 0, result.output
    return folder


@pytest.mark.parametrize(("label_column", "suffix"), [(None, "atr"), ("qrs", "qrs")])
@pytest.mark.parametrize("use", ["r.hea", "manifest.csv"])
def test_the_annotations_of_a_record_are_data_where_they_are_its_labels(
    tmp_path, monkeypatch, use, label_column, suffix
):
    monkeypatch.chdir(tmp_path)
    for name, content in {
        "r.hea": "r 1 100 2\nr.dat 16 200 16 0 0 0 0 u\n",
        "r.dat": "0123",
        "r.atr": "a",
        "r.qrs": "b",
        "manifest.csv": "file\nr.hea\n",
    }.items():
        Path(name).write_text(content)

    def list_names(**options):
        return {Path(file["path"]).name for file in identify_files({**TABLE, "use": use, **options})}

    assert list_names(task="segmentation", label_column=label_column) - list_names() == {f"r.{suffix}"}
    assert not {"r.atr", "r.qrs"} & list_names()


@pytest.mark.slow
def test_a_run_scores_its_own_data_from_every_folder(trained, monkeypatch):
    monkeypatch.chdir(trained / "a")
    expected = score("run")["scores"]
    monkeypatch.chdir(trained / "b")
    result = call("eval", "../a/run", "--json")
    assert json.loads(result.stdout)["scores"] == expected
    assert "note" not in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    ["predict", "embed", "eval", "probe", "report"],
)
def test_every_command_says_once_that_the_data_are_not_those_of_the_run(trained, tmp_path, command):
    run = shutil.copytree(trained / "a", tmp_path / "a") / "run"
    config = read_record(run / "config.json")
    config["config"]["data"]["use"] = str(tmp_path / "a" / "d.npz")
    write_record(run / "config.json", config)
    outputs = {"predict": "p.csv", "embed": "e.npz", "report": "r.html"}
    more = ["--out", tmp_path / outputs[command]] if command in outputs else []
    assert "not the data" not in call(command, run, *more).stderr
    write_data(tmp_path / "a" / "d.npz", shift=1)
    more += ["--force"] if more and "--force" in call(command, "--help").stdout else []
    notes = [line for line in call(command, run, *more).stderr.splitlines() if "not the data" in line]
    assert len(notes) == 1
    assert notes[0].startswith(
        f"note: these are not the data that {run} was trained on: now {tmp_path / 'a' / 'd.npz'}"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "use",
    [score, predict, embed, probe, lambda run: write_report(run, run.parent / "r.html")],
    ids=["score", "predict", "embed", "probe", "report"],
)
def test_data_that_moved_are_found_by_name_and_that_is_said(trained, tmp_path, monkeypatch, use):
    run = shutil.copytree(trained / "a" / "run", tmp_path / "run")
    config = read_record(run / "config.json")
    config["config"]["data"]["use"] = str(tmp_path / "gone" / "d.npz")
    write_record(run / "config.json", config)
    monkeypatch.chdir(trained / "a")
    with pytest.warns(DataChangedWarning, match=r"gone.d.npz is gone; .*a.d.npz of the same name is used") as caught:
        use(run)
    assert not any("not the data" in str(w.message) for w in caught)


def test_paths_become_absolute_and_names_stay(trained, monkeypatch):
    monkeypatch.chdir(trained / "a")
    names = {"use": "har-demo,d.npz", "train_data": "test", "test_data": "./d.npz", "conditioning": ("text=t.npz",)}
    table = resolve_paths(TABLE | names | {"data_root": "."})
    here = str(trained / "a")
    assert table["use"] == f"har-demo,{here}/d.npz"
    assert (table["train_data"], table["test_data"]) == ("test", f"{here}/d.npz")
    assert table["conditioning"] == [f"text={here}/t.npz"]
    assert table["data_root"] == here
    assert resolve_paths(TABLE | {"use": "synthetic"})["use"] == "synthetic"
    assert resolve_paths(TABLE | {"use": "."})["use"] == here


def test_generated_series_have_no_files_and_embedded_ones_have_one():
    assert identify_files(TABLE | {"use": "synthetic"}) == []
    (file,) = identify_files(TABLE | {"use": "har-demo"})
    assert file["path"].endswith("har_demo.npz")
    assert file["hash"].startswith("sha256:")


def test_files_of_labels_of_signals_and_of_conditioning_belong_to_the_data(tmp_path):
    for name in ("X_train", "y_train", "X_test", "y_test", "channels", "unrelated"):
        np.save(tmp_path / f"{name}.npy", np.zeros(3))
    np.savez(tmp_path / "text.npz", train=np.zeros(3))
    files = identify_files(
        TABLE | {"use": str(tmp_path / "X_train.npy"), "conditioning": [f"t={tmp_path / 'text.npz'}"]}
    )
    names = {os.path.basename(file["path"]) for file in files}
    assert names == {"X_train.npy", "y_train.npy", "X_test.npy", "y_test.npy", "channels.npy", "text.npz"}
    (tmp_path / "r.hea").write_text("r 1 360 4\nr.dat 16 200 16 0 0 0 0 u\n")
    (tmp_path / "r.dat").write_bytes(bytes(8))
    files = identify_files(TABLE | {"use": str(tmp_path / "r.hea")})
    assert {os.path.basename(file["path"]) for file in files} == {"r.hea", "r.dat"}


def test_of_a_large_file_blocks_are_hashed(tmp_path, monkeypatch):
    monkeypatch.setattr(identity, "MAX_FULL_HASH", 5000)
    monkeypatch.setattr(identity, "BLOCK_SIZE", 8)
    path = tmp_path / "large"
    path.write_bytes(bytes(100_000))
    before = hash_file(path)
    assert before.startswith("sha256-of-blocks:")
    for size, offset in ((100_000, 0), (100_000, 99_999), (100_001, None)):
        content = bytearray(size)
        if offset is not None:
            content[offset] = 1
        path.write_bytes(content)
        assert hash_file(path) != before


def test_a_run_that_recorded_no_files_is_not_compared(trained, tmp_path):
    run = shutil.copytree(trained / "a" / "run", tmp_path / "run")
    config = read_record(run / "config.json")
    del config["data_files"]
    config["config"]["data"]["use"] = str(trained / "b" / "d.npz")
    write_record(run / "config.json", config)
    run_config = RunConfig.read(run)
    table, notes = find_run_data(run_config)
    assert (describe_data_changes(run_config, table), notes) == ("", [])
