"""Run a command; then kill it at random moments and repeat it until it ends, until it was killed often enough.

    kill_commands.py KIND FOLDER KILLS SEED

KIND is one of `KINDS`. The command writes to FOLDER/calm, and to FOLDER/rough-1, FOLDER/rough-2, ...; each of these is
killed up to `KILLS_PER_RUN` times. Prints the number of kills. This process runs a short training before it forks, so
that most is imported and the children start quickly.
"""

import os
import random
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
from kills import run_and_kill

from tstk.cli import cli
from tstk.errors import CheckpointError
from tstk.training.resume_store import ResumeStore

ResumeStore.MAX_TIME_FRACTION = 1.0  # half of the time is spent on saving, so half of the kills hit it

KILLS_PER_RUN = 4
SIZES = ["--encoder", "transformer", "--encoder.dim", "16", "--encoder.depth", "1", "--encoder.heads", "2"]
QUICK = ["--threads", "1", "--device", "cpu", "--batch-size", "8"]
STEPS = [*QUICK, "--steps", "120", "--validate-every", "20"]
PATCH = ["--tokenizer", "patch", "--tokenizer.dim", "16", "--tokenizer.window", "4"]
SERIES = ["--data", "series.npz"]
TABLE = ["--data", "table.csv", "--context", "32", "--horizon", "8", "--stride", "2"]
CODES = ["--tokenizer.codes", "12", "--tokenizer.dim", "8", "--tokenizer.hidden", "8"]
SHAPES = {"dim": 16, "depth": 1, "query-depth": 1, "heads": 2, "tokens": 6, "codes": 9, "points": 32, "shape-width": 16}
RECIPE = """
[[stage]]
name = "pretrain"
[stage.loss]
use = "masked"
[stage.encoder]
use = "transformer"
dim = 16
depth = 1
heads = 2
[stage.train]
ema_decay = 0.9
batch_size = 8
steps = 60
validate_every = 20

[[stage]]
name = "finetune"
init_from = "pretrain"
[stage.head]
use = "linear"
[stage.train]
batch_size = 8
steps = 60
validate_every = 20
"""
METHODS = {"linear": "--head linear --mixup 0.2", "masked": "--loss masked"}
KINDS = {
    "calibrated": [
        *("train", *SERIES, *PATCH, *SIZES, "--head", "linear", "--val-fraction", "0.25"),
        *("--calibrate", "temperature", *STEPS),
    ],
    "regression": ["train", "--data", "numbers.npz", *PATCH, *SIZES, "--head", "cot", *STEPS],
    "multilabel": ["train", "--data", "labels.npz", *PATCH, *SIZES, "--loss.balanced", "--ema-decay", "0.9", *STEPS],
    "classification": ["train", *SERIES, *PATCH, *SIZES, "--head", "linear", "--augment", "jitter", *STEPS],
    "forecast-head": ["train", *TABLE, *PATCH, *SIZES, "--head", "forecast", *STEPS],
    "forecast-masked": ["train", *TABLE, *PATCH, *SIZES, "--loss", "masked", *STEPS],
    "masked": ["train", *SERIES, *PATCH, *SIZES, "--loss", "masked", "--ema-decay", "0.9", *STEPS],
    "vqvae": ["train", *TABLE, "--config", "vqvae/tokenizer", *CODES, *STEPS],
    "vqshape": [
        *("train", *SERIES, "--config", "vqshape/small", "--resize", "32", "--decoder.dim", "16"),
        *("--decoder.heads", "2", *(f"--tokenizer.{name}={value}" for name, value in SHAPES.items()), *STEPS),
    ],
    "recipe": ["run", "recipe.toml", *SERIES, *QUICK[:4]],
    "bench": [
        *("bench", *SERIES, "--seeds", "0,1", "--common", " ".join([*PATCH, *SIZES, *QUICK, "--steps", "40"])),
        *(word for name, flags in METHODS.items() for word in ("--method", f"{name}={flags}")),
    ],
}
"""The words of each command, without --out."""


def has_positive_sum(x, axis):
    return (np.nansum(x, axis) > 0).astype(float)


def write_inputs():
    """Write the data and the recipe to the working directory."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 96, 2, 40)).astype(np.float32)
    x[:, ::3, :, 34:] = np.nan
    y = np.arange(96) % 3
    np.savez("series.npz", X_train=x[0], y_train=y, X_test=x[1, :24], y_test=y[:24])
    levels, is_high = (np.stack([f(x[:, :, c], 2) for c in (0, 1)], 2) for f in (np.nanmean, has_positive_sum))
    levels[0, 1::4, 0] = np.nan  # unknown
    for name, y in (("numbers", 100 + 10 * levels), ("labels", is_high)):
        np.savez(f"{name}.npz", X_train=x[0], targets_train=y[0], X_test=x[1, :24], targets_test=y[1, :24])
    values = rng.normal(size=(240, 2)).cumsum(0)
    rows = [f"2020-01-{1 + h // 24:02} {h % 24:02}:00:00,{u:.4f},{v:.4f}" for h, (u, v) in enumerate(values)]
    Path("table.csv").write_text("\n".join(["date,u,v", *rows]) + "\n")
    Path("recipe.toml").write_text(RECIPE)


def run_command(words, out, report_start):
    """Run the command, or continue what it left; its output goes to a file."""
    report_start()
    with open(f"{out}.log", "a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    is_resumed = words[0] == "train" and (out / "config.json").is_file()
    was_finished = (out / "result.json").is_file()
    try:
        cli(["train", "--resume", str(out)] if is_resumed else [*words, "--out", str(out)], standalone_mode=False)
    except CheckpointError:
        if not was_finished:  # else it was killed between writing its result and removing its state
            raise


def run_with_kills(words, out, kills, draw, longest):
    """Run the command until it ends, killed up to `kills` times after up to `longest` seconds; return the kills."""
    count = 0
    while run_and_kill(partial(run_command, words, out), draw.uniform(0, longest) if count < kills else None):
        count += 1
    return count


def main(kind, folder, kills, seed):
    """Run the command undisturbed and disturbed, and print how often it was killed."""
    os.chdir(folder)
    write_inputs()
    cli([*KINDS["classification"], "--steps", "1", "--out", "imports"], standalone_mode=False)
    begin = time.perf_counter()
    run_and_kill(partial(run_command, KINDS[kind], Path("calm")), None)
    longest = (time.perf_counter() - begin) / 2  # so that no run ends at its first attempt
    draw, count = random.Random(f"{kind} {seed}"), 0
    for number in range(1, 10 * kills + 1):  # some end before they are killed, as the time depends on the machine
        if count < kills:
            limit = min(KILLS_PER_RUN, kills - count)
            count += run_with_kills(KINDS[kind], Path(f"rough-{number}"), limit, draw, longest)
    print(f"killed {count} times", flush=True)


main(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:5]))
