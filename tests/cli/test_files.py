"""Commands that write a file replace an existing one only with --force."""

import subprocess
import sys

import numpy as np
import pytest

from tstk.cli.files import write_forecasts
from tstk.inference.predict import Forecast
from tstk.plugins.registry import get_registry


def test_quantiles_of_sample_paths_are_columns_of_a_forecast(tmp_path):
    sample_paths = np.arange(11.0)[:, None, None] + np.array([[[0.0, 100.0]]])
    forecast = Forecast(sample_paths.mean(0), ("u",), forecast_samples=sample_paths)
    write_forecasts(tmp_path / "f.csv", [forecast], replace=False)
    expected = "step,channel,forecast,q0.1,q0.5,q0.9\n1,u,5.0,1.0,5.0,9.0\n2,u,105.0,101.0,105.0,109.0\n"
    assert (tmp_path / "f.csv").read_text() == expected


def list_commands():
    for entry in get_registry().list_entries("command"):
        command = get_registry().load(entry)
        yield from {entry.name: command, **getattr(command, "commands", {})}.items()


def test_every_command_that_writes_a_file_has_the_option_force():
    writers = {
        name: {parameter.name for parameter in command.params}
        for name, command in list_commands()
        if any(p.name in ("out", "path") and p.metavar != "DIR" for p in command.params)
    }
    names = {"predict", "embed", "impute", "detect", "forecast", "tokenize", "export", "report", "plot"}
    assert names | {"copy", "convert"} <= set(writers)
    assert [name for name, parameters in writers.items() if "force" not in parameters] == []


@pytest.mark.parametrize(
    ("words", "out"),
    [
        (["predict"], "a.csv"),
        (["predict"], "a.npz"),
        (["embed"], "a.npz"),
        (["tokenize"], "a.npz"),
        (["forecast"], "a.csv"),
        (["impute"], "a.csv"),
        (["detect"], "a.csv"),
        (["export"], "a.pt2"),
        (["export"], "a.onnx"),
        (["report"], "a.html"),
        (["plot", "tokens"], "a.png"),
    ],
)
@pytest.mark.parametrize("kind", ["file", "link", "broken link"])
def test_an_existing_output_is_refused_before_any_work(tstk, refused, run, tmp_path, words, out, kind):
    (tmp_path / "mine").write_text("mine")
    if kind == "file":
        (tmp_path / out).write_text("mine")
    else:
        (tmp_path / out).symlink_to("mine" if kind == "link" else "nothing")
    message = refused(*words, run, "--out", out)
    assert f"{out}: already exists; replace it with --force, or choose another name" in message
    assert (tmp_path / "mine").read_text() == "mine"


def test_an_existing_output_is_replaced_with_force_and_a_link_not_followed(tstk, run, tmp_path):
    (tmp_path / "mine").write_text("mine")
    for out in ("a.csv", "a.npz"):
        (tmp_path / out).symlink_to("mine")
    for words in (["predict", run, "--out", "a.csv"], ["embed", run, "--out", "a.npz"]):
        assert tstk(*words, "--force").exit_code == 0, words
    assert (tmp_path / "a.csv").read_text().startswith("row,predicted")
    assert np.load(tmp_path / "a.npz")["embedding"].ndim == 2
    assert (tmp_path / "mine").read_text() == "mine"
    assert not (tmp_path / "a.csv").is_symlink()
    assert not (tmp_path / "a.npz").is_symlink()


@pytest.mark.slow
@pytest.mark.parametrize("words", [["list", "encoder"], ["--help"]])
def test_a_full_standard_output_is_one_line(words):
    command = [sys.executable, "-m", "tstk", *words]
    with open("/dev/full", "w") as full:
        process = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert process.returncode == 2
    line = "Error: standard output: No space left on device; free some space, or write elsewhere"
    assert process.stderr.splitlines() == [line]
