"""`tstk train` from its arguments to the run directory; after an error nothing is left."""

import json
import os
import shlex
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.cli.test_bench import TWO
from tests.data.test_segmentation import write_long
from tstk.config.records import RunConfig
from tstk.runs.checkpoint import load


def test_training_writes_a_run_that_says_how_it_came_to_be(tstk, npz, small):
    result = tstk("train", "--data", npz, *small, "--epochs", 2, "--out", "first run")
    assert result.exit_code == 0, result.output
    assert "inception > transformer > linear, loss cross-entropy" in result.stderr
    assert "epoch 2/2" in result.stderr
    for word in ("accuracy", "test", "val", "majority class", "tstk eval 'first run'", "tstk predict 'first run'"):
        assert word in result.stdout
    assert "  tstk report 'first run'\n" in result.stdout
    assert "tstk forecast" not in result.stdout
    kept = json.loads(Path("first run/result.json").read_text())
    assert kept["command"].startswith("tstk train --data ")
    assert kept["command"].endswith("--epochs 2 --out 'first run'")
    assert RunConfig.read("first run").sources["encoder.dim"] == "flag"
    assert load("first run").encoder.out.dim == 16


@pytest.mark.slow
def test_json_is_all_that_reaches_stdout_and_quiet_prints_the_run_alone(tstk, npz, small):
    spoken = json.loads(tstk("train", "--data", npz, *small, "--epochs", 1, "--json").stdout)
    assert spoken["run"] == "runs/transformer-linear-toy"
    assert spoken["test"].keys() >= {"accuracy", "f1_macro"}
    hushed = tstk("train", "--data", npz, *small, "--epochs", 1, "--quiet")
    assert (hushed.stdout, hushed.stderr) == ("runs/transformer-linear-toy-2\n", "")


@pytest.mark.slow
def test_pretraining_leads_to_a_head_on_the_same_parts(tstk, npz, small):
    first = tstk("train", "--data", npz, "--loss", "masked", *small, "--epochs", 1, "--out", "a")
    assert "tstk train --init-from a --head linear" in first.stdout
    second = tstk(
        "train", "--init-from", "a", "--head", "linear", "--freeze", "tokenizer,encoder", "--epochs", 1, "--out", "b"
    )
    assert second.exit_code == 0, second.output
    assert "encoder from a" in second.stderr
    before, after = load("a").encoder.state_dict(), load("b").encoder.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)


@pytest.mark.slow
def test_pretraining_on_classes_per_sample_leads_to_a_head_for_them(tstk, tmp_path, small):
    data = write_long(tmp_path / "d.csv")
    options = ["--data", data, "--task", "segmentation", "--length", 16, "--steps", 1, *small]
    assert (
        "tstk train --init-from a --head per-token" in tstk("train", *options, "--loss", "masked", "--out", "a").stdout
    )


def test_a_recipe_prints_the_scores_that_its_stages_have(tstk, tmp_path):
    write_targets(tmp_path / "d.npz")
    (tmp_path / "two.toml").write_text(TWO)
    words = ["run", "two.toml", "--data", "d.npz", "--threads", 1, "--set", "first.steps=1", "--set", "second.steps=1"]
    result = tstk(*words, "--out", "out")
    assert result.exit_code == 0, result.output
    header = next(line for line in result.stdout.splitlines() if line.startswith("stage"))
    assert header.split() == ["stage", "task", "r2", "rmse", "mae", "loss", "run"]


def test_a_stage_that_does_not_fit_the_data_says_how_to_change_it(refused, tmp_path):
    write_targets(tmp_path / "d.npz")
    (tmp_path / "one.toml").write_text('[[stage]]\nname = "tune"\n[stage.loss]\nuse = "cross-entropy"\n')
    said = refused("run", "one.toml", "--data", "d.npz", "--out", "out")
    assert "tune: loss 'cross-entropy' is for classes and a class per sample" in said
    assert said.endswith("options of this stage are --set tune.OPTION=VALUE")


def write_targets(path):
    """Write 12 + 12 series of 16 samples, with two numbers to predict."""
    x = np.random.default_rng(0).normal(size=(2, 12, 1, 16))
    np.savez(path, X_train=x[0], X_test=x[1], targets_train=x[0][:, 0, :2], targets_test=x[1][:, 0, :2])


@pytest.mark.slow
def test_pretraining_on_a_table_leads_to_a_forecast_and_forecasts_nothing_itself(tstk, csv, small):
    table = ["--data", csv, "--context", 24, "--horizon", 8]
    first = tstk("train", *table, "--loss", "reconstruct", *small, "--epochs", 1, "--out", "a")
    assert "tstk train --init-from a --head forecast" in first.stdout
    assert "last value" not in first.stdout
    second = tstk("train", "--init-from", "a", "--head", "forecast", "--epochs", 1, "--out", "b")
    assert second.exit_code == 0, second.output
    assert "last value" in second.stdout
    assert "  tstk forecast b --out forecast.csv\n" in second.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "num_commands"),
    [
        (["panel.csv", "--id-column", "who", "--time-column", "at", "--context", 16, "--horizon", 4], 5),
        (["panel.csv", "--id-column", "who", "--context", 16, "--horizon", 4, "--loss", "reconstruct"], 3),
        (["panel.csv", "--id-column", "who", "--drop-columns", "v", "--loss", "masked"], 3),
        (["long.csv", "--id-column", "who", "--label-column", "state", "--task", "segmentation"], 4),
        (
            ["long.csv", "--id-column", "who", "--label-column", "state", "--task", "segmentation", "--loss", "masked"],
            3,
        ),
        (["table;.csv", "--reader", "csv", "--reader.delimiter", ";", "--context", 16, "--horizon", 4], 5),
        (["toy.npz", "--val-fraction", 0.2, "--head", "linear"], 4),
    ],
)
def test_the_commands_that_training_names_next_run_as_printed(tstk, tmp_path, small, words, num_commands):
    x = np.random.default_rng(0).normal(size=(10, 2, 60))
    rows = [f"{who},{t},{x[who, 0, t]},{x[who, 1, t]},{'ab'[t // 30]}" for who in range(10) for t in range(60)]
    (tmp_path / "long.csv").write_text("\n".join(["who,at,u,v,state", *rows]))
    (tmp_path / "panel.csv").write_text("\n".join(["who,at,u,v", *(row.rpartition(",")[0] for row in rows)]))
    (tmp_path / "table;.csv").write_text("\n".join(["at;u;v", *(f"{t};{x[0, 0, t]};{x[0, 1, t]}" for t in range(60))]))
    np.savez(tmp_path / "toy.npz", x=x, y=np.arange(10) % 2)
    forecasts = "--horizon" in words
    words = [*words, *small, *([] if forecasts else ["--test-fraction", 0.2]), "--epochs", 1, "--out", "my run"]
    trained = tstk("train", "--data", *words)
    assert trained.exit_code == 0, trained.output
    commands = [shlex.split(line) for line in trained.stdout.splitlines() if line.startswith("  tstk ")]
    assert len(commands) == num_commands
    for command in commands:
        if "FILE_WITH_LABELS" in command:  # which only the user knows
            command[command.index("FILE_WITH_LABELS")] = "toy.npz"
        done = tstk(*command[1:], *(["--epochs", 1] if command[1] == "train" else []))
        assert done.exit_code == 0, (command, done.output)


# ------------------------------------------------------------------ dry run


def test_a_dry_run_shows_shapes_and_writes_nothing(tstk, npz, small, tmp_path):
    result = tstk("train", "--data", npz, *small, "--head", "cot", "--freeze", "tokenizer", "--dry-run")
    assert result.exit_code == 0, result.output
    rows = {line.split()[0]: line for line in result.stdout.splitlines() if line.strip()}
    assert "2 x 20 x 16" in rows["tokenizer"]
    assert rows["tokenizer"].split()[-1] == "0"
    assert "2 x 3" in rows["head"]
    assert "20 tokens per series" in result.stdout
    assert not list(tmp_path.iterdir())


def test_a_dry_run_names_the_class_that_breaks_its_contract(refused, npz, tmp_path):
    (tmp_path / "flawed.py").write_text(
        "import tstk\n\n\nclass Flawed(tstk.Encoder):\n    def forward(self, tokens):\n        return tokens.values\n"
    )
    encoder = f"{tmp_path / 'flawed.py'}:Flawed"
    message = refused("train", "--data", npz, "--encoder", encoder, "--head", "linear", "--dry-run")
    assert "encoder 'Flawed' (class Flawed, flawed.py:5): forward returned a tensor" in message


@pytest.mark.slow
def test_a_dry_run_says_how_large_positions_are_beside_tokens(tstk, npz, small):
    words = ["train", "--data", npz, *small, "--head", "cot", "--dry-run"]
    ratio = json.loads(tstk(*words, "--json").stdout)["pos_embed_ratio"]
    tenth = json.loads(tstk(*words, "--encoder.position-std", "0.1", "--json").stdout)["pos_embed_ratio"]
    assert 0.3 < ratio < 5
    assert tenth == pytest.approx(ratio / 10, rel=1e-4)
    assert f"added by the encoder: {ratio:.2g} of the tokens" in tstk(*words).stdout
    rotary = [*words, "--encoder", "transformer", "--encoder.positions", "rotary"]
    assert "added by the encoder: none" in tstk(*rotary).stdout
    assert json.loads(tstk(*rotary, "--json").stdout)["pos_embed_ratio"] is None


@pytest.mark.slow
def test_positions_are_compared_with_the_tokens_of_all_series_not_of_the_first_ones(tstk, small, tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 1, 40)).astype(np.float32), np.arange(64) % 2
    x[::2] *= 1e-3
    ratios = []
    for name, order in (("alternating", np.arange(64)), ("quiet first", np.argsort(np.arange(64) % 2, kind="stable"))):
        np.savez(path := tmp_path / f"{name}.npz", x=x[order], y=y[order])
        words = ["train", "--data", str(path), *small, "--head", "linear", "--val-fraction", "0", "--dry-run", "--json"]
        ratios.append(json.loads(tstk(*words).stdout)["pos_embed_ratio"])
    assert ratios[1] == pytest.approx(ratios[0], rel=0.1)


def test_a_dry_run_names_what_gradients_do_not_reach_or_spoil(build, labelled_spec, ragged):
    from tstk.training.dry_run import find_gradient_faults

    pipeline = build(labelled_spec, head="linear")
    pipeline.freeze("tokenizer")
    pipeline.encoder.idle = torch.nn.Parameter(torch.zeros(2))
    pipeline(ragged()).loss.backward()
    assert find_gradient_faults(pipeline) == ["encoder.idle got no gradient, so it would never learn"]
    pipeline.encoder.idle.grad = torch.tensor([0.0, torch.nan])
    frozen = next(pipeline.tokenizer.parameters())
    frozen.grad = torch.zeros_like(frozen)
    assert [line.partition(" ")[2] for line in find_gradient_faults(pipeline)] == [
        "got a gradient that is not finite",
        "is frozen and got a gradient",
    ]


def test_a_dry_run_with_a_fault_exits_with_2(refused, npz, small, monkeypatch):
    monkeypatch.setattr(
        "tstk.training.dry_run.find_gradient_faults", lambda pipeline: ["encoder.a is odd", "encoder.b is odd"]
    )
    assert refused("train", "--data", npz, *small, "--dry-run").splitlines()[1] == "Error: encoder.b is odd"


@pytest.mark.slow
def test_finding_a_rate_draws_a_curve_and_writes_nothing(tstk, npz, small, tmp_path):
    drawn = tstk("train", "--data", npz, *small, "--find-lr")
    assert drawn.exit_code == 0, drawn.output
    assert "▲" in drawn.stdout
    assert "•" in drawn.stdout
    told = json.loads(tstk("train", "--data", npz, *small, "--find-lr", "--json").stdout)
    assert f"--lr {told['suggestion']:.2g}" in drawn.stdout
    assert len(told["lrs"]) == len(told["losses"])
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--data", "har-dmo"], "no data set is called 'har-dmo'. Did you mean 'har-demo'?"),
        (["--data", "nope.csv"], "nope.csv: there is no such file"),
        (["--data", "har", "--data-root", "nope"], "--data-root nope: there is no such folder"),
        (["--encoder.heads", 3], "heads=3"),
        (["--freeze", "tokenizer,encoder,head"], "nothing is left to train"),
        (["--freeze", "encodr"], "--freeze encodr"),
        (["--epochs", 0], "--epochs is '0'; expected int, 1 or more"),
        (["--warmup-ratio", 2], "--warmup-ratio is '2'; expected float, 0 or more and less than 1"),
        (["--lr", 1e30, "--grad-clip", 0, "--batch-size", 4], "became"),
        (["--head", "linear", "--decoder", "linear"], "--decoder linear would have no use"),
        (["--loss", "next-code"], "needs discrete tokens"),
        (["--head", "forecast"], "is for forecasts, and these data are for classification"),
        (["--out", "missing.file/run", "--tokenizer.window", 0], "tokenizer.window is '0'"),
        pytest.param(
            ["--device", "cuda"],
            "torch sees no GPU",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_in_a_line_and_leaves_nothing(refused, npz, small, typed, said):
    assert said in refused("train", "--data", npz, *small, *typed)


def test_an_existing_run_directory_is_not_overwritten(refused, tmp_path, npz):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("precious")
    assert "run already exists and holds mine.txt" in refused("train", "--data", npz, "--out", "run")


def test_an_unwritable_place_is_one_line(refused, tmp_path, npz, small):
    (tmp_path / "file").write_text("")
    assert "file/run: Not a directory" in refused("train", "--data", npz, *small, "--out", "file/run")


@pytest.mark.slow
@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"])
@pytest.mark.usefixtures("hangup")
def test_an_interrupted_run_prints_how_to_resume_and_resumes(tstk, npz, small, monkeypatch, number):
    from tstk.cli.progress import ProgressLines

    def stop(self, state, step_outputs):
        if state.step == 4:
            os.kill(os.getpid(), signal.Signals[number])

    monkeypatch.setattr(ProgressLines, "on_step_end", stop)
    few = ["--epochs", 3, "--batch-size", 8, "--head", "cot"]
    stopped = tstk("train", "--data", npz, *small, *few, "--out", "a run")
    assert stopped.exit_code == 128 + signal.Signals[number]
    assert "Interrupted: stopped at step 4; continue with: tstk train --resume 'a run'" in stopped.stderr
    assert tstk("eval", "a run").exit_code == 0
    assert "continue with: tstk train --resume" in tstk("train", "--data", npz, "--out", "a run").stderr
    monkeypatch.setattr(ProgressLines, "on_step_end", lambda *_: None)
    resumed = tstk("train", "--resume", "a run")
    assert resumed.exit_code == 0, resumed.output
    (summary,) = [line for line in stopped.stderr.splitlines() if line.startswith("inception > transformer > cot")]
    assert summary in resumed.stderr.splitlines()
    whole = tstk("train", "--data", npz, *small, *few, "--out", "whole")
    assert whole.exit_code == 0
    assert Path("a run/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()
    assert json.loads(Path("a run/result.json").read_text())["command"].endswith("--out 'a run'")
    assert "this run is finished" in tstk("train", "--resume", "a run").stderr


@pytest.mark.slow
def test_a_run_interrupted_at_once_reports_what_it_saved(tstk, npz, small, monkeypatch, tmp_path):
    from tstk.cli.progress import ProgressLines

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(ProgressLines, "on_step_end", stop)
    result = tstk("train", "--data", npz, *small, "--epochs", 3, "--out", "run")
    assert (result.exit_code, "Nothing was saved" in result.stderr) == (130, True)
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(ProgressLines, "on_step_end", lambda self, state, outputs: stop() if state.epoch == 2 else None)
    result = tstk("train", "--data", npz, *small, "--epochs", 3, "--out", "run")
    assert "run keeps the best weights so far; score them: tstk eval run" in result.stderr
    assert tstk("eval", "run").exit_code == 0


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["--dry-run", "--find-lr"], "--dry-run does not train; remove --find-lr"),
        (["--find-lr", "--resume", "run"], "--find-lr does not train; remove --resume"),
        (["--find-lr", "--devices", 2, "--quiet"], "--find-lr does not train; remove --devices, --quiet"),
        (["--print-config", "--json"], "--print-config does not train; remove --json"),
    ],
)
def test_options_without_effect_are_refused_by_name(refused, npz, typed, message):
    assert message in refused("train", "--data", npz, *typed)


def test_resuming_takes_no_other_options(refused, tstk, npz, small):
    assert "remove --head, --lr" in refused("train", "--resume", "run", "--head", "cot", "--lr", 1)
    assert "run is not a run directory" in refused("train", "--resume", "run", "--quiet")


@pytest.mark.slow
def test_a_loss_that_becomes_nan_later_keeps_the_weights_of_before(tstk, npz, small, monkeypatch):
    from tstk.builtin.losses.cross_entropy import CrossEntropy

    honest, calls = CrossEntropy.forward, []

    def return_nan(self, step_output):
        terms = honest(self, step_output)
        calls.append(1)
        return {k: v * torch.nan for k, v in terms.items()} if self.training and len(calls) > 6 else terms

    monkeypatch.setattr(CrossEntropy, "forward", return_nan)
    result = tstk("train", "--data", npz, *small, "--epochs", 9, "--batch-size", 8, "--out", "run")
    assert result.exit_code == 2
    assert "became nan" in result.stderr
    assert "run keeps the best weights so far" in result.stderr
    assert all(v.isfinite().all() for v in load("run").state_dict().values())


def test_strict_mode_lets_a_mistake_trace_back(tstk, monkeypatch):
    from tstk.errors import UnknownNameError

    monkeypatch.setenv("TSTK_STRICT", "1")
    assert isinstance(tstk("train", "--encoder", "brt").exception, UnknownNameError)


# ------------------------------------------------------------------ progress


def test_without_a_terminal_there_is_a_line_for_about_every_tenth_epoch(capsys):
    from tstk.cli.progress import ProgressLines

    lines = ProgressLines()
    state = SimpleNamespace(epoch=1, epochs=100)
    lines.on_fit_start(state)
    speed = {"series_per_second": 10.0, "seconds_training": 2.0, "seconds_loading": 0.5}
    for epoch in range(1, 101):
        row = {"epoch": epoch, "train": {"a": 1.0, "b": 2.0, "loss": 3.0}, "val": {"loss": 3.0, "mse": 0.5}}
        state.epoch = epoch
        lines.on_validation_end(state, row | speed)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 11
    assert said[-1].startswith("epoch 100/100  train a 1.0000 b 2.0000  val mse 0.5000")
    assert "10 series/s  25% of it loading" in said[-1]


def test_the_bar_counts_all_steps_and_shows_the_last_validation():
    from tstk.cli.progress import ProgressBar

    bar = ProgressBar()
    metrics = {"epoch": 1, "val": {"accuracy": 0.5, "loss": 1.0}}
    state = SimpleNamespace(step=7, epoch=1, total_steps=20, epochs=2, best_metrics=metrics)
    bar.on_fit_start(state)
    bar.on_log(state, {"loss": 0.25}, 1234.0)
    bar.on_validation_end(state, metrics)
    task = bar.progress.tasks[0]
    bar.teardown()
    assert (task.completed, task.total) == (7, 20)
    assert task.fields["losses"] == "loss 0.2500"
    assert task.fields["speed"] == "1,234/s"
    assert task.fields["val"] == "val accuracy 0.5000 best"
