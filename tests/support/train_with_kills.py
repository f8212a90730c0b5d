"""Train a run; then train it again in a process that is killed at a random moment, in one that resumes it, and so on.

    train_with_kills.py KIND FOLDER KILLS THREADS SEED

The runs are FOLDER/calm and FOLDER/rough; KIND is one of `KINDS`. This process trains one step
before it forks, so that everything is imported and the children start quickly. It does so with one thread, since a pool
of threads does not survive a fork.
"""

import random
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import torch
from kills import run_and_kill
from stateful import register_components

import tstk.training.runs
from tstk.config.resolve import resolve_config
from tstk.errors import CheckpointError
from tstk.training.resume_store import ResumeStore

ResumeStore.MAX_TIME_FRACTION = 1.0  # half of the time is spent on saving, so half of the kills hit it

ENCODER = {"use": "transformer", "dim": 16, "depth": 1, "heads": 2, "dropout": 0.2}
MANY = {"steps": 40, "validate_every": 10, "batch_size": 256}
KINDS = {
    "all": (
        {
            "tokenizer": {"use": "stateful", "dim": 16},
            "encoder": ENCODER,
            "head": {"use": "linear", "standardize": True, "dropout": 0.1},
            "loss": {"use": "with-teacher", "hide": 0.2},
        },
        {
            "steps": 300,
            "validate_every": 25,
            "batch_size": 8,
            "mixup": 0.2,
            "crop": 16,
            "patience": 12,
            "ema_decay": 0.9,
            "augment": ["jitter", "time-warp"],
            "sampling": "balanced",
        },
    ),
    "classifier": ({"tokenizer": {"use": "patch", "dim": 16, "window": 2}, "encoder": ENCODER, "head": "linear"}, MANY),
    "masked": (
        {
            "tokenizer": {"use": "patch", "dim": 16, "window": 2},
            "encoder": ENCODER,
            "loss": {"use": "masked", "ratio": 0.3},
            "decoder": {"use": "transformer", "dim": 16, "depth": 1, "heads": 2, "positions": "learned"},
        },
        MANY,
    ),
    "contrastive": (
        {
            "tokenizer": {"use": "resampled", "dim": 16, "width": 8, "samples": 64, "tokens": 8},
            "encoder": ENCODER,
            "loss": {"use": "contrastive", "ratio": 0.5, "jitter": 0.1},
        },
        MANY,
    ),
    "codes": (
        {
            "tokenizer": {"use": "stateful", "dim": 32},
            "encoder": {**ENCODER, "dim": 32, "causal": True},
            "loss": "next-code",
        },
        MANY,
    ),
    "lora": (
        {"tokenizer": {"use": "patch", "dim": 16, "window": 2}, "encoder": ENCODER, "head": "linear"},
        {**MANY, "lora": 2, "lora_dropout": 0.1},
    ),
}
"""Parts and training of each kind; of the last five a step has enough numbers for torch to divide among threads."""


def config(kind, data, threads, **more):
    """Return the resolved config; write its data unless they exist."""
    parts, train = KINDS[kind][0], {**KINDS[kind][1], "device": "cpu", "threads": threads, **more}
    if not data.is_file():
        rng, (count, length) = np.random.default_rng(0), (24, 20) if kind == "all" else (320, 40)
        x = rng.normal(size=(2, count, 2, length)).astype(np.float32)
        x[:, ::3, :, length - 6 :] = np.nan
        y = np.arange(count) % 3
        np.savez(data, X_train=x[0], y_train=y, X_test=x[1, :24], y_test=y[:24])
    return resolve_config(("here", {**parts, "data": str(data), "train": train}))


def train_or_resume(config, out, report_start):
    """Start or resume training, and say when it begins."""

    def ready(pipeline, data):
        report_start()

    if (out / "config.json").is_file():
        tstk.training.runs.resume_run(out, on_ready=ready)
    else:
        tstk.training.runs.train(config, out, command="here", on_ready=ready)


def main(kind, folder, kills, threads, seed):
    """Train both runs, and print how often the second was killed."""
    register_components()
    torch.set_num_threads(1)
    tstk.training.runs.train(config(kind, folder / "data.npz", 1, steps=1), folder / "imports")
    chosen = config(kind, folder / "data.npz", threads)
    begin = time.perf_counter()
    run_and_kill(partial(train_or_resume, chosen, folder / "calm"), None)
    longest = (time.perf_counter() - begin) / max(kills, 1)  # no life is so long that all of them suffice
    draw, count, out = random.Random(seed), 0, folder / "rough"
    while not (out / "result.json").is_file():
        after = draw.uniform(0, longest) if count < kills else None
        count += run_and_kill(partial(train_or_resume, chosen, out), after)
    if (out / "last").is_dir():  # killed between writing the result and removing the state
        with suppress(CheckpointError):
            tstk.training.runs.resume_run(out)
    print(count)


main(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:6]))
