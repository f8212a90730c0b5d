"""Trains a run, then the same one in a child that is killed at a random moment, in another that goes on, and so forth.

    interrupted.py DATA FOLDER KILLS SEED

The runs are FOLDER/calm and FOLDER/rough. The first one has imported all that there is to import before anything is
forked, so the children are quick to begin.
"""

import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import torch
from moody import announce

import tstk.training.train
from tstk.config import resolve
from tstk.training.last import Last

Last.SHARE = 1.0  # half of the time is spent on saving, so half of the kills hit it

PARTS = {
    "tokenizer": {"use": "moods", "dim": 16},
    "encoder": {"use": "transformer", "dim": 16, "depth": 1, "heads": 2, "dropout": 0.2},
    "head": {"use": "linear", "standardise": True, "dropout": 0.1},
    "loss": {"use": "taught", "hide": 0.2},
}
TRAIN = {
    "steps": 300,
    "validate_every": 25,
    "batch_size": 8,
    "mixup": 0.2,
    "crop": 16,
    "patience": 12,
    "average": 0.9,
    "augment": ["jitter", "time-warp"],
    "sampling": "balanced",
}


def config(data):
    return resolve(("here", {**PARTS, "data": data, "train": {**TRAIN, "device": "cpu", "threads": 1}}))


def live(data, out, awake):
    """A child: begin or go on, and say when training begins."""

    def ready(pipeline, data):
        os.write(awake, b".")

    if (out / "config.json").is_file():
        tstk.training.train.resume(out, ready=ready)
    else:
        tstk.training.train.train(config(data), out, command="here", ready=ready)


def killed(data, out, after):
    """Whether a child had to be killed so many seconds after it began to train; without a number it may end."""
    hears, awake = os.pipe()
    child = os.fork()
    if not child:
        try:
            live(data, out, awake)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(awake)
    if os.read(hears, 1) and after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    os.close(hears)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status):
        raise SystemExit(1)
    return os.WIFSIGNALED(status)


def main(data, folder, kills, seed):
    announce()
    torch.set_num_threads(1)
    tstk.training.train.train(config(data), folder / "calm", command="here")
    draw, count, out = random.Random(seed), 0, folder / "rough"
    while not (out / "result.json").is_file():
        count += killed(data, out, draw.uniform(0, 0.12) if count < kills else None)
    print(count)


main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
