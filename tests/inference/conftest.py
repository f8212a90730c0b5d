"""Small runs on a table with a daily period, trained for a few steps."""

import csv as csvfile

import numpy as np
import pytest
from click.testing import CliRunner

from tstk.cli import cli

SMALL = ["--encoder.dim", "16", "--encoder.heads", "2", "--encoder.depth", "1", "--threads", "1", "--device", "cpu"]
KINDS = {
    "masked": ["--tokenizer.dim", "16", "--tokenizer.window", "4", "--loss", "masked", *SMALL],
    "windows": [
        "--tokenizer.dim",
        "16",
        "--tokenizer.window",
        "4",
        "--loss",
        "masked",
        "--loss.policy",
        "tail",
        *SMALL,
    ],
    "vqvae": ["--config", "vqvae/tokenizer", "--tokenizer.codes", "12", "--tokenizer.hidden", "8", "--device", "cpu"],
    "codes": ["--config", "vqvae/pretrain", *SMALL, "--encoder.hidden", "32"],
    "contrastive": ["--tokenizer.dim", "16", "--loss", "contrastive", *SMALL],
}


def call(*words):
    result = CliRunner().invoke(cli, [str(w) for w in words], prog_name="tstk")
    assert result.exit_code == 0, result.output
    return result


def refuse(*words):
    """Run a command that must fail, and return what it says."""
    result = CliRunner().invoke(cli, [str(w) for w in words], prog_name="tstk")
    assert result.exit_code == 2, result.output
    return result.stderr


def make_table(rows=640, seed=0):
    """Return [rows, 2]: sinusoids of period 24 with a little noise, at levels of 300 and -2."""
    rng, t = np.random.default_rng(seed), np.arange(rows)
    x = np.stack([np.sin(t / 24 * 2 * np.pi) * 50 + 300, np.cos(t / 24 * 2 * np.pi) - 2], 1)
    return x + rng.normal(size=x.shape) * [2.0, 0.04]


def write_table(path, x, missing=()):
    """Write a table with dates; cells of `missing`, (row, column), are empty."""
    with open(path, "w", newline="") as file:
        writer = csvfile.writer(file, lineterminator="\n")
        writer.writerow(["date", "load", "temp"])
        for i, row in enumerate(x):
            cells = ["" if (i, k) in missing or np.isnan(v) else f"{v:.4f}" for k, v in enumerate(row)]
            writer.writerow([str(np.datetime64("2024-01-01T00", "h") + i).replace("T", " ") + ":00:00", *cells])
    return path


@pytest.fixture(scope="session")
def table(tmp_path_factory):
    """Return a table of 640 hours."""
    return write_table(tmp_path_factory.mktemp("table") / "hours.csv", make_table())


@pytest.fixture(scope="session")
def trained(table, tmp_path_factory):
    """Return a function that trains a run of a kind once, and returns its directory."""
    folder, runs = tmp_path_factory.mktemp("kinds"), {}

    def train(kind):
        if kind not in runs:
            forecasts = kind in ("windows", "vqvae", "codes")
            cut = ["--context", "48", "--horizon", "8"] if forecasts else ["--length", "48"]
            steps = ["--stride", "4", "--steps", "300" if kind == "masked" else "30", "--batch-size", "16", "--quiet"]
            source = ["--init-from", train("vqvae")] if kind == "codes" else []
            call("train", *KINDS[kind], *source, "--data", table, *cut, *steps, "--out", folder / kind)
            runs[kind] = folder / kind
        return runs[kind]

    return train
