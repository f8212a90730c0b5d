"""Small runs on a table with a daily period, trained for a few steps."""

import pytest

from tests.support.hours import make_table, write_table
from tests.support.shell import call

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
