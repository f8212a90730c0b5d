"""All stages on the command line, and the commands that use their runs."""

import csv
import json

import numpy as np
import pytest
import torch

from tests.support.shell import call, refuse
from tstk.runs.checkpoint import load

pytestmark = pytest.mark.slow

SMALL = ["--context", "32", "--horizon", "8", "--stride", "3", "--steps", "12", "--batch-size", "8", "--threads", "1"]
TOKENIZER = ["--tokenizer.codes", "12", "--tokenizer.dim", "8", "--tokenizer.hidden", "8"]
ENCODER = ["--encoder.dim", "16", "--encoder.heads", "2", "--encoder.hidden", "32", "--encoder.depth", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A table of 160 hours, and runs of all stages."""
    folder = tmp_path_factory.mktemp("stages")
    hours = np.arange(160)
    rows = [
        f"2020-01-{1 + h // 24:02} {h % 24:02}:00:00,{np.sin(h / 4):.4f},{np.cos(h / 7) * 50 + 300:.4f}" for h in hours
    ]
    (folder / "table.csv").write_text("\n".join(["date,u,v", *rows]))
    return folder


@pytest.fixture(scope="module")
def runs(folder):
    """Run directories by stage."""
    data = ["--data", folder / "table.csv"]
    directories = {name: folder / name for name in ("tokenizer", "pretrain", "direct", "rollout", "soft", "gumbel")}
    call("train", "--config", "vqvae/tokenizer", *data, *SMALL, *TOKENIZER, "--out", directories["tokenizer"])
    init_from = ["--init-from", directories["tokenizer"]]
    call("train", "--config", "vqvae/pretrain", *init_from, *data, *SMALL, *ENCODER, "--out", directories["pretrain"])
    init_from = ["--init-from", directories["pretrain"]]
    call(
        "train",
        "--config",
        "vqvae/forecast-direct",
        *init_from,
        *data,
        *SMALL,
        *ENCODER,
        "--out",
        directories["direct"],
    )
    init_from += ["--decoder", directories["pretrain"]]
    for method in ("rollout", "soft", "gumbel"):
        more = ["--loss.num-samples", "4"] if method == "rollout" else []
        config = f"vqvae/forecast-{method}"
        call("train", "--config", config, *init_from, *data, *SMALL, *ENCODER, *more, "--out", directories[method])
    return directories


@pytest.mark.parametrize("method", ["direct", "rollout", "soft", "gumbel"])
def test_every_method_is_scored_beside_baselines_and_keeps_the_tokenizer(runs, method):
    result = json.loads((runs[method] / "result.json").read_text())
    assert result["task"] == "forecasting"
    assert {"mse", "mae", "mase", "smape"} <= result["test"].keys()
    assert ("crps" in result["test"]) == (method == "rollout")
    assert {"last value", "linear"} <= result["baselines"].keys()
    first, last = (load(runs[name]).tokenizer.state_dict() for name in ("tokenizer", method))
    assert all(torch.equal(first[name], last[name]) for name in first)
    if method != "direct":
        start, end = (load(runs[name]).decoder.project.weight for name in ("pretrain", method))
        assert (start - end).abs().max() < 0.1  # mounted, then trained a little


def test_a_pretraining_has_no_task_and_reports_code_usage(runs):
    for name in ("tokenizer", "pretrain"):
        result = json.loads((runs[name] / "result.json").read_text())
        assert result["task"] == "pretraining"
        assert 0 < result["test"]["usage"] <= 1
        assert 1 <= result["test"]["perplexity"] <= 12


def test_nothing_to_train_is_refused_with_the_flag_to_change(runs, folder):
    text = refuse(
        "train", "--config", "vqvae/forecast-rollout", "--init-from", runs["pretrain"], "--decoder", runs["pretrain"],
        "--data", folder / "table.csv", *SMALL, *ENCODER, "--freeze", "tokenizer,encoder,decoder,loss",
        "--out", folder / "none",
    )  # fmt: skip
    assert "nothing is left to train" in text
    assert "--freeze" in text


def test_unfreezing_the_decoder_with_a_rate_of_its_own_moves_it_alone(runs, folder):
    out = folder / "unfrozen"
    call(
        "train", "--config", "vqvae/forecast-soft", "--init-from", runs["pretrain"], "--decoder", runs["pretrain"],
        "--data", folder / "table.csv", *SMALL, *ENCODER, "--freeze", "tokenizer.encoder,tokenizer.codebook",
        "--lr-override", "tokenizer.decoder=1e-4", "--out", out,
    )  # fmt: skip
    before, after = (load(run).tokenizer.state_dict() for run in (runs["pretrain"], out))
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"decoder"}


def test_codes_are_written_with_their_codebook(runs, folder):
    out = folder / "codes.npz"
    call("tokenize", runs["tokenizer"], "--data", folder / "table.csv", "--out", out)
    arrays = np.load(out)
    assert arrays["codes"].shape == (160 - 39, 2, 8)
    assert arrays["codebook"].shape == (12, 8)
    pipeline = load(runs["tokenizer"])
    np.testing.assert_array_equal(arrays["codebook"], pipeline.tokenizer.codebook.codes.numpy())
    assert arrays["codes"].max() < 12


def test_the_files_of_totem_have_windows_and_codes_of_all_splits(runs, folder):
    out = folder / "totem"
    call("totem", runs["pretrain"], "--out", out)
    before = {path: path.read_bytes() for path in out.iterdir()}
    assert "folders are never replaced" in refuse("totem", runs["pretrain"], "--out", out)
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    names = {f"{p}_{w}_{k}.npy" for p in ("train", "val", "test") for w in "xy" for k in ("original", "codes")}
    assert {path.name for path in out.iterdir()} == names | {"codebook.npy"}
    shapes = {w: np.load(out / f"test_{w}.npy").shape for w in ("x_original", "y_original", "x_codes", "y_codes")}
    count = shapes["x_original"][0]
    assert shapes == {
        "x_original": (count, 32, 2),
        "y_original": (count, 8, 2),
        "x_codes": (count, 8, 2),
        "y_codes": (count, 2, 2),
    }


def test_values_too_large_for_float32_have_no_codes(runs, folder):
    rows = (folder / "table.csv").read_text().splitlines()
    rows[34] = rows[34].rpartition(",")[0] + ",1e30"  # in the future of the first window
    (folder / "large.csv").write_text("\n".join(rows))
    text = refuse("totem", runs["pretrain"], "--data", folder / "large.csv", "--out", folder / "large")
    assert "large.csv, train split: codes of" in text
    assert "series are not finite" in text
    assert not (folder / "large").exists()


def test_a_forecast_has_dates_channels_the_mean_and_quantiles(runs, folder):
    out = folder / "next.csv"
    call("forecast", runs["rollout"], "--samples", 20, "--horizon", 50, "--quantiles", "0.05,0.95", "--out", out)
    rows = list(csv.DictReader(out.open(newline="")))
    assert len(rows) == 50 * 2
    assert list(rows[0]) == ["step", "date", "channel", "forecast", "q0.05", "q0.95"]
    assert rows[0]["date"] == "2020-01-07 16:00:00"
    assert [row["channel"] for row in rows[:2]] == ["u", "v"]
    assert all(float(row["q0.05"]) <= float(row["q0.95"]) for row in rows)
    assert any(float(row["q0.05"]) < float(row["q0.95"]) for row in rows)


def test_a_run_with_one_answer_has_no_quantiles_and_draws_nothing(runs, folder):
    out = folder / "one.csv"
    assert "no quantiles" in call("forecast", runs["soft"], "--horizon", 5, "--out", out).stderr
    rows = list(csv.DictReader(out.open(newline="")))
    assert len(rows) == 5 * 2
    assert list(rows[0]) == ["step", "date", "channel", "forecast"]
    for method in ("soft", "direct"):
        assert "--samples 5" in refuse("forecast", runs[method], "--samples", 5, "--out", out, "--force")
        assert "--horizon 99" in refuse("forecast", runs[method], "--horizon", 99, "--out", out, "--force")
    assert "--quantiles 2" in refuse("forecast", runs["soft"], "--quantiles", "2", "--out", out, "--force")


def test_reports_show_codes_with_their_usage_reconstructions_and_intervals(runs, folder):
    pages = {}
    for name in ("tokenizer", "rollout", "direct"):
        call("report", runs[name], "--out", folder / f"{name}.html")
        pages[name] = (folder / f"{name}.html").read_text(encoding="utf-8")
    for page in pages.values():
        assert "most frequent codes as shapes" in page
        assert "how often each code is chosen" in page
    assert "Reconstructions, test split" in pages["tokenizer"]
    assert "Reconstructions" not in pages["direct"]
    assert "Intervals are central ones of 50 sample paths" in pages["rollout"]
    assert "sample paths" not in pages["direct"]


def test_codes_serve_a_classifier_on_any_encoder(runs, tmp_path):
    draw = np.random.default_rng(0)
    y = np.arange(24) % 2
    x = np.sin(np.arange(40) * (1 + y[:, None, None]) / 3) + 0.1 * draw.normal(size=(24, 2, 40))
    np.savez(tmp_path / "toy.npz", X_train=x, y_train=y, X_test=x, y_test=y)
    sizes = ["--encoder.dim", "16", "--encoder.heads", "2", "--encoder.depth", "1"]
    for i, encoder in enumerate(("bert", "transformer")):
        call(
            "train", "--tokenizer", runs["tokenizer"], "--encoder", encoder, *sizes, "--head", "linear",
            "--channels", "independent", "--instance-norm", "--freeze", "tokenizer", "--data", tmp_path / "toy.npz",
            "--epochs", "1", "--threads", "1", "--out", tmp_path / str(i),
        )  # fmt: skip
        assert "accuracy" in json.loads((tmp_path / str(i) / "result.json").read_text())["test"]
