"""`tstk bench`: methods from flags and files, recipes, and mistakes that are reported before anything runs."""

import json
import signal
from pathlib import Path

import pytest

from tstk.cli.commands.train import command as train

TWO = """
[[stage]]
name = "first"
[stage.loss]
use = "masked"
[stage.encoder]
use = "transformer"
dim = 8
depth = 1
heads = 2

[[stage]]
name = "second"
init_from = "first"
[stage.head]
use = "linear"
"""


@pytest.mark.slow
def test_methods_of_a_file_and_of_flags_are_compared(tstk, small, tmp_path):
    common = " ".join([*small, "--steps", "1"])
    (tmp_path / "b.toml").write_text(
        f'data = ["har-demo"]\nseeds = [3]\ncommon = "{common}"\n[methods]\nlinear = "--head linear"\n'
    )
    result = tstk("bench", "b.toml", "--method", "masked=--loss masked", "--out", "out", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert {(c["method"], c["seed"], c["by"]) for c in found["cells"]} == {
        ("linear", 3, "test"),
        ("masked", 3, "linear probe"),
    }
    assert (tmp_path / "out" / "linear" / "har-demo" / "seed-3" / "model.safetensors").is_file()
    again = tstk("bench", "b.toml", "--out", "out")
    assert again.exit_code == 0
    assert "bench.md" in again.stdout


@pytest.mark.slow
def test_every_data_set_of_a_repeated_option_is_compared(tstk, csv, npz):
    methods = ["--method", "a=peer:last-value", "--common", "--context 24 --horizon 8"]
    result = tstk("bench", *methods, "--data", csv, "--data", f"{csv},{csv}", "--data", npz, "--out", "out", "--json")
    assert [cell["data"] for cell in json.loads(result.stdout)["cells"]] == [Path(csv).stem, Path(npz).stem]


@pytest.mark.slow
def test_a_recipe_is_a_method_and_its_last_stage_is_scored(tstk, tmp_path):
    (tmp_path / "two.toml").write_text(TWO)
    method = "two=two.toml --set first.steps=1 --set second.steps=1"
    result = tstk(
        "bench", "--method", method, "--data", "har-demo", "--common", "--threads 1", "--out", "out", "--json"
    )
    assert result.exit_code == 0, result.output
    (cell,) = json.loads(result.stdout)["cells"]
    assert cell["by"] == "test"
    assert (tmp_path / "out" / "two" / "har-demo" / "seed-0" / "second" / "result.json").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--method", "a=--head lienar"], "method a: No head is called 'lienar'. Did you mean 'linear'?"),
        (["--method", "a=--head linear --encoder.detph 2"], "Did you mean '--encoder.depth'?"),
        (["--method", "a=--head linear --data=x --seed 3"], "remove --data, --seed; the benchmark sets data, seed"),
        (["--method", "a=--head"], "method a: "),
        (["--method", "a=nosuch"], "No recipe is called 'nosuch'"),
        (["--method", "../a=--head linear"], "names may contain only letters"),
        (["--method", "linear"], "expected NAME=FLAGS"),
        (["--method", "a=--loss next-code --tokenizer patch"], "needs discrete tokens"),
        (["--method", "a=--head linear", "--seeds", "1,x"], "expected non-negative integers"),
        (["--method", "a=--head linear", "--data", "har-dmeo"], "Did you mean 'har-demo'?"),
        (["--id-column", "sample"], "an option of training, for every method in --common '--id-column ...'"),
        (["--encoder.depth", "2"], "an option of training, for every method in --common '--encoder.depth ...'"),
        (["--method", "a=peer:1nm"], "No peer is called '1nm'. Did you mean '1nn'?"),
        (["--method", "a=peer:1nn --steps 2"], "a peer takes no options; remove --steps 2"),
        (["--method", "a=peer:1nn", "--common", "--steps 2"], "--steps: does not apply to peers"),
        (["--method", "a=peer:1nn", "--common", "--device cuda"], "--device: does not apply to peers"),
        ([], "no methods"),
    ],
)
def test_a_mistake_is_reported_before_anything_runs(refused, words, said):
    more = [] if "--data" in words else ["--data", "har-demo"]
    assert said in refused("bench", *words, *more, "--out", "out")


@pytest.mark.parametrize("param", [p for p in train.params if p.name != "config"], ids=lambda p: p.opts[0])
@pytest.mark.parametrize("is_common", [False, True], ids=["own", "common"])
def test_flags_of_train_that_a_benchmark_cannot_follow_are_refused_by_name(refused, param, is_common):
    flag = param.opts[0] if param.is_flag else f"{param.opts[0]}=2"
    words = ["--method", "a=--head linear", "--common", flag] if is_common else ["--method", f"a=--head linear {flag}"]
    assert f"remove {param.opts[0]}; " in refused("bench", *words, "--data", "har-demo", "--out", "out")


def test_a_config_file_does_not_pass_for_an_option_of_a_peer(refused, tmp_path):
    (tmp_path / "c.toml").write_text("[train]\nsteps = 3\n")
    words = ["--method", "a=peer:1nn", "--common", "--config c.toml", "--data", "har-demo", "--out", "out"]
    assert "--steps: does not apply to peers" in refused("bench", *words)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('methds = 1\n[methods]\na = "--head linear"', "unknown key 'methds'. Did you mean 'methods'?"),
        ("[methods.a]\nhead = 1", 'expected a table of NAME = "flags of tstk train"'),
        ('seeds = [0.5]\n[methods]\na = "--head linear"', "expected non-negative integers"),
        ('common = 3\n[methods]\na = "--head linear"', "expected a string"),
    ],
)
def test_a_mistake_in_the_file_is_reported(refused, tmp_path, text, said):
    (tmp_path / "b.toml").write_text(text)
    assert said in refused("bench", "b.toml", "--data", "har-demo", "--out", "out")


@pytest.mark.slow
def test_peers_of_flags_and_files_are_compared_on_the_data_as_the_common_options_have_them(tstk, tmp_path):
    (tmp_path / "b.toml").write_text(
        'common = "--threads 1 --device cpu --label-fraction 0.1"\n[methods]\nn = "peer:1nn"\n'
    )
    result = tstk("bench", "b.toml", "--method", "l=peer:logistic", "--data", "har-demo", "--out", "out", "--json")
    assert result.exit_code == 0, result.output
    cells = json.loads(result.stdout)["cells"]
    assert [(c["method"], c["by"]) for c in cells] == [("n", "peer"), ("l", "peer")]
    assert cells[0]["scores"]["accuracy"] != pytest.approx(0.4537, abs=1e-4)


def test_a_missing_peer_is_reported_before_anything_runs(refused, monkeypatch):
    monkeypatch.setattr("tstk.benchmarking.peers.find_spec", lambda name: None)
    said = refused("bench", "--method", "a=peer:minirocket", "--data", "har-demo", "--out", "out")
    assert "peer:minirocket needs aeon: pip install 'tstk-core[aeon]'" in said


def test_a_benchmark_that_a_signal_stopped_exits_as_a_training_does(tstk, small, monkeypatch):
    from tstk.training.interrupt import TrainingInterrupted

    def stop(*_, **__):
        raise TrainingInterrupted("stopped at step 3", "out", signal.SIGTERM)

    monkeypatch.setattr("tstk.benchmarking.suite.run_benchmark", stop)
    stopped = tstk("bench", "--method", "a=--encoder transformer", "--data", "har-demo", "--out", "out")
    assert stopped.exit_code == 128 + signal.SIGTERM
    assert "run the same command again to continue" in stopped.stderr


@pytest.mark.slow
def test_a_failing_cell_makes_the_exit_code_one_and_the_rest_runs(tstk, small, tmp_path):
    (tmp_path / "bad_TRAIN.tsv").write_text("1\tx\n")
    common = " ".join([*small, "--steps", "1"])
    words = ["--method", "a=--head linear", "--data", "bad_TRAIN.tsv,har-demo", "--common", common, "--out", "out"]
    result = tstk("bench", *words)
    assert result.exit_code == 1
    assert "failed: a, bad, seed 0: " in result.stdout
    assert "bad_TRAIN.tsv" in result.stdout
    assert (tmp_path / "out" / "a" / "har-demo" / "seed-0" / "score.json").is_file()
