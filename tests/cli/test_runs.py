"""eval, predict and embed, on the data of a run and on other data."""

import csv as csvfile
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tstk.config.records import read_record, write_record
from tstk.data import load_data
from tstk.evaluation.calibration import softmax
from tstk.evaluation.probabilities import predict_logits
from tstk.runs.checkpoint import load, read_weights, write_tensors


@pytest.fixture(scope="module")
def forecaster(csv, tmp_path_factory):
    """A run that forecasts 5 rows from 20."""
    from tstk.config.resolve import resolve_config
    from tstk.training.runs import train

    folder = tmp_path_factory.mktemp("runs") / "forecaster"
    tables = {
        "tokenizer": {"use": "patch", "dim": 8},
        "encoder": "identity",
        "data": {"use": csv, "context": 20, "horizon": 5},
        "train": {"epochs": 1, "device": "cpu"},
    }
    train(resolve_config(("flag", tables)), folder)
    return folder


@pytest.fixture
def copy(run, tmp_path):
    """A copy of the run that tests may damage."""
    return shutil.copytree(run, tmp_path / "copy")


def table(path):
    with open(path, newline="") as file:
        return list(csvfile.DictReader(file))


# ------------------------------------------------------------------ eval


def test_eval_repeats_the_test_scores_of_training(tstk, run):
    found = json.loads(tstk("eval", run, "--json").stdout)
    kept = json.loads((run / "result.json").read_text())
    assert found["scores"] == pytest.approx(kept["test"])
    assert found["baselines"]["majority class"] == pytest.approx(kept["baselines"]["majority class"])


@pytest.mark.slow
def test_eval_does_not_depend_on_the_size_of_batches(tstk, run):
    one, many = (json.loads(tstk("eval", run, "--batch-size", n, "--json").stdout)["scores"] for n in (1, 256))
    assert one == pytest.approx(many, abs=1e-5)


def test_eval_on_other_data_takes_their_test_part(tstk, run, npz):
    own, other = (json.loads(tstk("eval", run, *more, "--json").stdout) for more in ([], ["--data", npz]))
    assert other["scores"] == pytest.approx(own["scores"])
    assert other["size"] == own["size"] == 12


@pytest.mark.slow
def test_eval_repeats_the_scores_of_probabilities_with_their_intervals(tstk, run):
    scored = json.loads(tstk("eval", run, "--json").stdout)["classification"]
    kept = json.loads((run / "result.json").read_text())["classification"]
    assert scored["scores"] == pytest.approx(kept["scores"])
    assert scored["confusion"] == kept["confusion"]
    assert scored["intervals"].keys() == kept["intervals"].keys() >= {"accuracy", "auroc", "ece"}
    printed = tstk("eval", run)
    for name, (low, high) in scored["intervals"].items():
        assert f"{name} " in printed.stdout
        assert f"{low:.4f} to {high:.4f}" in printed.stdout
    assert "1,000 bootstrap resamples of 12 series" in printed.stderr
    assert "sensitivity   specificity" in printed.stdout


@pytest.mark.slow
def test_eval_of_one_class_says_what_is_undefined(tstk, run, npz, tmp_path):
    arrays = dict(np.load(npz))
    is_first = arrays["y_test"] == 0
    np.savez(tmp_path / "one.npz", X_test=arrays["X_test"][is_first], y_test=arrays["y_test"][is_first])
    result = tstk("eval", run, "--data", tmp_path / "one.npz")
    assert result.exit_code == 0, result.output
    assert "undefined: kappa, mcc, auroc, auprc; all 4 series are of class 0" in result.stderr
    assert "nan" not in result.stdout.lower()
    assert "NaN" not in tstk("eval", run, "--data", tmp_path / "one.npz", "--json").stdout


@pytest.fixture(scope="module")
def binary(tmp_path_factory):
    """A classifier of two classes with a validation split, its probabilities calibrated."""
    from tstk.config.resolve import resolve_config
    from tstk.training.runs import train

    folder = tmp_path_factory.mktemp("binary")
    draw, arrays = np.random.default_rng(0), {}
    for part, n in (("train", 80), ("test", 40)):
        y = np.arange(n) % 2
        arrays |= {f"X_{part}": (draw.normal(size=(n, 1, 16)) + 0.3 * y[:, None, None]).astype(np.float32)}
        arrays |= {
            f"y_{part}": np.array(["well", "ill"])[y],
            f"groups_{part}": np.array([f"s{i // 2}" for i in range(n)]),
        }
    np.savez(folder / "two.npz", **arrays)
    tables = {
        "tokenizer": {"use": "patch", "dim": 8, "window": 4},
        "encoder": "identity",
        "head": "linear",
        "data": {"use": str(folder / "two.npz"), "val_fraction": 0.4},
        "train": {"steps": 60, "device": "cpu", "calibrate": "temperature"},
    }
    train(resolve_config(("flag", tables)), folder / "run")
    return folder / "run"


@pytest.mark.slow
def test_a_calibrated_run_keeps_its_temperature_and_says_what_it_changed(tstk, binary):
    kept = json.loads((binary / "result.json").read_text())["calibration"]
    scored = json.loads(tstk("eval", binary, "--json").stdout)["calibration"]
    pipeline = load(binary)
    assert float(pipeline.temperature) == pytest.approx(kept["temperature"])
    assert scored["temperature"] == kept["temperature"] != 1
    (name,) = scored["before"]
    assert scored["before"][name] == pytest.approx(kept["before"]["test"])
    assert scored["after"][name] == pytest.approx(kept["after"]["test"])
    assert f"Calibrated by a temperature of {kept['temperature']:.4g}: ECE" in tstk("eval", binary).stdout
    tstk("predict", binary, "--out", "p.npz")
    predicted = np.load("p.npz")
    logits = predict_logits(pipeline, load_data(str(binary.parent / "two.npz")).test)
    np.testing.assert_allclose(predicted["probability"], softmax(logits, kept["temperature"]), rtol=1e-4)


@pytest.mark.slow
def test_eval_scores_the_threshold_that_was_chosen_on_validation(tstk, binary):
    result = json.loads(tstk("eval", binary, "--threshold-for", "sensitivity=0.9", "--json").stdout)["threshold"]
    assert result["validation"]["sensitivity"] >= 0.9
    assert result["positive_class"] == "well"
    assert result["resampling"].endswith("of 20 groups")
    assert result["requested"] == "sensitivity of 0.9 on validation"
    printed = tstk("eval", binary, "--threshold-for", "sensitivity=0.9").stdout
    assert f"Class well from a probability of {result['threshold']:.6g} on, for a sensitivity of 0.9" in printed
    assert f"{result['scores']['npv']:.4f}" in printed


@pytest.mark.parametrize(
    ("which", "rate", "said"),
    [
        ("binary", "recall=0.9", "expected sensitivity=VALUE or specificity=VALUE"),
        ("run", "sensitivity=0.9", "separates two classes, but this run has 3"),
        ("forecaster", "sensitivity=0.9", "only a classifier decides by a threshold"),
    ],
)
def test_a_threshold_that_cannot_be_is_refused(refused, request, which, rate, said):
    assert said in refused("eval", request.getfixturevalue(which), "--threshold-for", rate)


def test_a_threshold_without_validation_is_refused_with_the_remedy(refused, binary, tmp_path):
    copy = shutil.copytree(binary, tmp_path / "copy")
    config = read_record(copy / "config.json")
    config["config"]["data"]["val_fraction"] = 0.0
    write_record(copy / "config.json", config)
    said = refused("eval", copy, "--threshold-for", "sensitivity=0.9")
    assert "has no validation split in this run; train with --val-fraction 0.2" in said


@pytest.mark.parametrize("temperature", [[1.0, 2.0], -1.0, 0.0, 2, True])
def test_a_temperature_that_is_none_is_refused(refused, binary, tmp_path, temperature):
    copy = shutil.copytree(binary, tmp_path / "copy")
    state = read_weights(copy)
    write_tensors(copy / "model.safetensors", state | {"temperature": torch.tensor(temperature)})
    assert "the temperature in model.safetensors is not a positive number" in refused("eval", copy)


@pytest.mark.slow
def test_eval_shows_a_trivial_answer_beside_the_scores(tstk, run, forecaster):
    assert "majority class" in tstk("eval", run).stdout
    assert "last value" in tstk("eval", forecaster).stdout


@pytest.mark.slow
def test_eval_says_whether_the_model_uses_the_order_of_tokens(tstk, run):
    plain, first, second = (
        json.loads(tstk("eval", run, *m, "--json").stdout) for m in ([], *[["--shuffle-tokens"]] * 2)
    )
    assert first == second
    result = first.pop("order")
    assert first == plain
    assert result["accuracy"] == pytest.approx(plain["scores"]["accuracy"])
    assert result["reading"] in tstk("eval", run, "--shuffle-tokens").stdout
    assert result["uses_order"] == ("model uses" in result["reading"])


def test_eval_refuses_to_shuffle_what_forecasts(refused, forecaster):
    assert "--shuffle-tokens: the temporal order test is for classifiers" in refused(
        "eval", forecaster, "--shuffle-tokens"
    )


@pytest.mark.slow
def test_a_forecaster_stands_beside_a_linear_map_in_training_and_in_eval(tstk, forecaster, csv, tmp_path):
    kept = json.loads((forecaster / "result.json").read_text())
    found = json.loads(tstk("eval", forecaster, "--json").stdout)
    assert {"last value", "linear"} <= kept["baselines"].keys()
    assert found["baselines"] == kept["baselines"]
    assert found["baselines_details"] == kept["baselines_details"]
    assert "relative to the" in kept["baselines_details"]["linear"]
    assert "baseline linear: " in tstk("eval", forecaster).stderr
    other = json.loads(tstk("eval", forecaster, "--data", csv, "--json").stdout)
    assert other["baselines"]["linear"] != kept["baselines"]["linear"]
    assert other["baselines_details"] == kept["baselines_details"]


def test_a_forecaster_without_its_training_data_stands_beside_the_last_value(tstk, forecaster, csv, tmp_path):
    moved = shutil.copytree(forecaster, tmp_path / "moved")
    config = read_record(moved / "config.json")
    config["config"]["data"]["use"] = "gone.csv"
    write_record(moved / "config.json", config)
    found = json.loads(tstk("eval", moved, "--data", csv, "--json").stdout)
    assert found["baselines"].keys() == {"last value"}
    assert "needs the training data of the run" in found["baselines_skipped"]["linear"]


def test_a_forecaster_worse_than_a_baseline_prints_a_note_in_every_command(tstk, forecaster, tmp_path):
    copied = shutil.copytree(forecaster, tmp_path / "worse")
    result = read_record(copied / "result.json")
    result["test"]["mse"] = 1e9
    write_record(copied / "result.json", result)
    out = tstk("forecast", copied, "--out", tmp_path / "next.csv").stdout.splitlines()
    assert "On its test split: This model loses to the baseline linear: mse 1e+09" in out[-1]


def test_a_run_that_keeps_only_its_linear_map_prints_a_note(tstk, csv, tmp_path):
    data = ["--data", csv, "--context", 20, "--horizon", 5, "--tokenizer", "patch", "--tokenizer.dim", 8]
    wild = ["--steps", 2, "--lr", 10, "--ema-decay", 0, "--warmup-ratio", 0, "--device", "cpu"]
    done = tstk("train", *data, "--encoder", "identity", "--linear-map", "auto", *wild, "--out", tmp_path / "run")
    assert "forecasts start from a linear map (" in done.stderr
    assert "Training did not improve the validation score of the linear map" in done.stdout
    assert "loses to the baseline linear" not in done.stdout


def test_a_map_that_test_would_choose_is_skipped(csv, tmp_path):
    from tstk.config.resolve import resolve_config
    from tstk.training.runs import train

    data = {"use": csv, "context": 20, "horizon": 5, "val_data": "test"}
    tables = {"tokenizer": {"use": "patch", "dim": 8}, "encoder": "identity", "data": data}
    result = train(resolve_config(("flag", {**tables, "train": {"epochs": 1, "device": "cpu"}})), tmp_path / "run")
    assert "linear" not in result.baselines
    assert "the test split" in result.baselines_skipped["linear"]


def test_eval_without_labels_says_that_there_is_nothing_to_score(refused, run, tmp_path):
    np.savez(tmp_path / "bare.npz", X=np.zeros((3, 2, 20), np.float32))
    assert "no labels" in refused("eval", run, "--data", "bare.npz")


# ------------------------------------------------------------------ predict


def test_predictions_of_classes_come_with_probabilities_and_the_truth(tstk, run):
    assert tstk("predict", run, "--out", "p.csv").exit_code == 0
    rows = table("p.csv")
    assert [int(row["row"]) for row in rows] == list(range(12))
    for row in rows:
        chances = {k.removeprefix("probability "): float(v) for k, v in row.items() if k.startswith("probability ")}
        assert sum(chances.values()) == pytest.approx(1, abs=1e-4)
        assert row["predicted"] == max(chances, key=chances.get)
    accuracy = json.loads((run / "result.json").read_text())["test"]["accuracy"]
    assert np.mean([row["predicted"] == row["truth"] for row in rows]) == pytest.approx(accuracy)


def test_unlabelled_series_are_predicted_without_a_truth(tstk, run, tmp_path):
    np.savez(tmp_path / "bare.npz", X=np.zeros((3, 2, 20), np.float32))
    assert tstk("predict", run, "--data", "bare.npz", "--out", "p.csv").exit_code == 0
    assert len(table("p.csv")) == 3
    assert "truth" not in table("p.csv")[0]


def test_both_formats_hold_the_same_predictions(tstk, run):
    tstk("predict", run, "--out", "p.csv")
    tstk("predict", run, "--out", "p.npz")
    arrays = np.load("p.npz")
    assert [row["predicted"] for row in table("p.csv")] == arrays["predicted"].tolist()


def test_a_forecast_as_csv_continues_the_table_with_its_dates(tstk, forecaster, csv):
    said = tstk("predict", forecaster, "--out", "next.csv").stdout
    assert said.startswith(
        "next.csv: 5 steps of 2 channels after the last row; --out FILE.npz has the forecast of every w"
    )
    rows = table("next.csv")
    assert [(r["step"], r["channel"]) for r in rows] == [(str(s), c) for s in range(1, 6) for c in "uv"]
    assert rows[0]["date"] == "2020-01-01 02:20:00"
    given = np.loadtxt(csv, delimiter=",", skiprows=1, usecols=(1, 2), dtype=np.float32)
    from tstk.core.types import Series

    want = load(forecaster).predict_batch(Series(torch.from_numpy(given[-20:].T.copy())[None]))[0]
    found = np.array([float(r["forecast"]) for r in rows]).reshape(5, 2).T
    assert np.allclose(found, want.numpy(), rtol=1e-4, atol=1e-4)


def test_a_forecast_as_csv_is_of_a_table_that_is_read_as_asked(tstk, forecaster, csv, tmp_path):
    lines = Path(csv).read_text().splitlines()
    (tmp_path / "late.csv").write_text("\n".join(["written by a logger", *lines]))
    options = ["--reader", "csv", "--reader.skip-lines", 1, "--data", "late.csv"]
    assert tstk("predict", forecaster, "--out", "next.csv").exit_code == 0
    assert tstk("predict", forecaster, "--out", "late_next.csv", *options).exit_code == 0
    assert table("late_next.csv") == table("next.csv")


def test_a_forecast_as_npz_holds_every_window_of_the_test_part_beside_the_truth(tstk, forecaster, csv):
    assert tstk("predict", forecaster, "--out", "p.npz").exit_code == 0
    arrays = np.load("p.npz")
    assert arrays["forecast"].shape == arrays["truth"].shape == (24, 2, 5)
    assert arrays["channels"].tolist() == ["u", "v"]
    given = np.loadtxt(csv, delimiter=",", skiprows=1, usecols=(1, 2), dtype=np.float32)
    assert np.allclose(arrays["truth"][-1], given[-5:].T)


@pytest.mark.slow
def test_a_pretraining_run_predicts_nothing_and_says_what_to_do(refused, tstk, npz, small):
    tstk("train", "--data", npz, "--loss", "masked", *small, "--epochs", 1, "--out", "a")
    assert "--head linear" in refused("predict", "a", "--out", "p.csv")


# ------------------------------------------------------------------ embed


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_embeddings_are_the_pooled_tokens_with_their_labels(tstk, run, pool):
    from tstk.data import load_split
    from tstk.evaluation.evaluate import iter_batches

    assert tstk("embed", run, "--pool", pool, "--out", "e.npz").exit_code == 0
    arrays, config = np.load("e.npz"), json.loads((run / "config.json").read_text())
    assert arrays["embedding"].shape == (12, 16)
    part = load_split(config["config"]["data"]["use"], input_schema=config["data"])
    pipeline = load(run)
    want = torch.cat([pipeline.embed_batch(s, pool) for s in iter_batches(part, 5, "cpu")])
    assert np.allclose(arrays["embedding"], want.numpy(), atol=1e-5)
    assert arrays["y"].tolist() == part.y.tolist()
    assert arrays["classes"].tolist() == ["0", "1", "2"]


@pytest.mark.slow
def test_the_embedding_of_a_window_does_not_depend_on_its_future(tstk, csv, tmp_path):
    typed = ["--data", csv, "--context", 20, "--horizon", 5, "--loss", "masked", "--encoder", "identity", "--epochs", 1]
    assert tstk("train", *typed, "--out", "a").exit_code == 0
    lines = Path(csv).read_text().splitlines()
    for name, last in (("x.csv", lines[26:27]), ("y.csv", [lines[26].rsplit(",", 2)[0] + ",9e3,-9e3"])):
        (tmp_path / name).write_text("\n".join([*lines[:26], *last]))
        assert tstk("embed", "a", "--data", name, "--out", f"{name}.npz").exit_code == 0
    x, y = (np.load(f"{name}.csv.npz")["embedding"] for name in "xy")
    assert len(x) == 2
    assert np.array_equal(x, y)


def test_weights_that_are_not_finite_embed_nothing(refused, copy):
    from safetensors.torch import load_file

    state = load_file(copy / "model.safetensors")
    write_tensors(copy / "model.safetensors", {k: torch.full_like(v, torch.nan) for k, v in state.items()})
    assert "holds values that are not finite" in refused("embed", copy, "--out", "e.npz")


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize("verb", [["eval"], ["predict", "--out", "p.csv"], ["embed", "--out", "e.npz"]])
def test_a_damaged_or_foreign_run_is_refused_in_a_line(refused, copy, verb):
    weights, config = copy / "model.safetensors", copy / "config.json"
    whole, fields = weights.read_bytes(), read_record(config)
    weights.write_bytes(whole[: len(whole) // 2])
    assert "model.safetensors is truncated" in refused(verb[0], copy, *verb[1:])
    weights.unlink()
    assert "has no model.safetensors" in refused(verb[0], copy, *verb[1:])
    weights.write_bytes(whole)
    fields["config"]["encoder"]["use"] = "tstk-ghost/haunted"
    write_record(config, fields)
    assert "encoder 'haunted' from tstk-ghost" in refused(verb[0], copy, *verb[1:])
    config.write_text('{"architectures": ["BertModel"]}')
    assert "was not written by tstk" in refused(verb[0], copy, *verb[1:])
    config.write_text("{")
    assert "config.json is damaged" in refused(verb[0], copy, *verb[1:])
    config.unlink()
    assert "is not a run directory" in refused(verb[0], copy, *verb[1:])


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["predict", "--out", "p.txt"], "must end in .csv or .npz"),
        (["predict", "--out", "nowhere/p.csv"], "the folder nowhere does not exist"),
        (["embed", "--out", "e.csv"], "must end in .npz"),
        (["embed", "--out", "e.npz", "--pool", "cls"], "no CLS token"),
        (["embed", "--out", "e.npz", "--pool", "sum"], "'sum' is not one of"),
        (["embed", "--out", "e.npz", "--data", "har-demo"], "9 channels; training has 2"),
        (["eval", "--data", "nope"], "no data set is called 'nope'"),
        (["eval", "--batch-size", 0], "--batch-size"),
    ],
)
def test_what_a_run_cannot_do_is_refused_in_one_line(refused, run, typed, said):
    assert said in refused(typed[0], run, *typed[1:])


# ------------------------------------------------------------------ forecast, tokenize


def test_a_forecast_continues_the_table_and_may_stop_early(tstk, forecaster, csv, tmp_path):
    full, short = tmp_path / "full.csv", tmp_path / "short.csv"
    assert "no quantiles" in tstk("forecast", forecaster, "--out", full).stderr
    tstk("forecast", forecaster, "--data", csv, "--horizon", 2, "--out", short)
    rows = table(full)
    assert list(rows[0]) == ["step", "date", "channel", "forecast"]
    assert [(r["step"], r["channel"]) for r in rows] == [(str(s), c) for s in range(1, 6) for c in "uv"]
    assert rows[0]["date"] == "2020-01-01 02:20:00"
    assert table(short) == rows[:4]


def test_what_a_forecast_cannot_do_is_refused(refused, run, forecaster, tmp_path):
    out = tmp_path / "next.csv"
    assert "--horizon 9" in refused("forecast", forecaster, "--horizon", 9, "--out", out)
    assert "--samples 5" in refused("forecast", forecaster, "--samples", 5, "--out", out)
    assert "--quantiles x" in refused("forecast", forecaster, "--quantiles", "x", "--out", out)
    assert "not trained to forecast" in refused("forecast", run, "--out", out)
    assert ".csv" in refused("forecast", forecaster, "--out", tmp_path / "next.npz")


def test_a_run_without_codes_has_none_to_write(refused, run, tmp_path):
    assert "tokenizer 'patch' makes no discrete tokens" in refused("tokenize", run, "--out", tmp_path / "codes.npz")


# ------------------------------------------------------------------ export


@pytest.mark.slow
def test_export_writes_a_graph_and_says_how_far_it_is_off(tstk, run):
    result = tstk("export", run, "--length", 10, "--out", "model.pt2")
    assert result.exit_code == 0, result.output
    assert "predictions differ from the run's by at most" in result.stdout
    assert torch.export.load("model.pt2").module()(torch.zeros(2, 2, 10)).shape == (2, 3)


@pytest.mark.slow
def test_forecasts_of_several_series_carry_ids_and_dates(tstk, tmp_path):
    days = np.datetime64("2024-01-01") + np.arange(60)
    ends = {"b": 60, "a": 50}
    lines = [f"{name},{days[t]},{t + len(name)}.5" for name, end in ends.items() for t in range(end)]
    (tmp_path / "panel.csv").write_text("\n".join(["shop,day,sold", *lines]))
    words = ("--id-column", "shop", "--context", 8, "--horizon", 2, "--head", "forecast", "--encoder.depth", 1)
    assert tstk("train", "--data", "panel.csv", *words, "--steps", 1, "--out", "run").exit_code == 0
    for command in ("forecast", "predict"):
        said = tstk(command, "run", "--out", f"{command}.csv").stdout
        assert said.startswith(f"{command}.csv: 2 steps of 1 channels after the last row of each of 2 series")
        rows = table(tmp_path / f"{command}.csv")
        assert [(row["id"], row["date"]) for row in rows] == [
            (name, str(days[0] + end + step)) for name, end in ends.items() for step in (0, 1)
        ]
        assert all(np.isfinite(float(row["forecast"])) for row in rows)
    assert (tmp_path / "forecast.csv").read_bytes() == (tmp_path / "predict.csv").read_bytes()
    assert tstk("predict", "run", "--data", "panel.csv", "--out", "all.npz").exit_code == 0
    windows = np.load(tmp_path / "all.npz")
    assert windows["id"].tolist() == ["b"] * 51 + ["a"] * 41
    assert windows["row"].tolist() == [*range(51), *range(41)]
    assert windows["time"].tolist() == [str(days[row]) for row in windows["row"]]
    assert "last value" in tstk("eval", "run").stdout
    assert tstk("report", "run", "--out", "run.html").exit_code == 0
    assert "window 0 of 20 (b)" in (tmp_path / "run.html").read_text()


def test_a_length_that_the_run_cannot_take_is_refused(refused, run):
    assert "longer than the 20" in refused("export", run, "--length", 999, "--out", "model.pt2")


def test_forecasts_are_written_with_all_their_digits(tstk, csv, forecaster, tmp_path):
    from tstk.inference.predict import forecast

    assert tstk("forecast", forecaster, "--out", "f.csv").exit_code == 0
    written = [np.float32(row["forecast"]) for row in table(tmp_path / "f.csv")]
    (expected,) = forecast(forecaster)
    assert np.array_equal(written, expected.values.T.ravel())
