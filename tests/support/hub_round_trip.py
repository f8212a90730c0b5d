"""Train a small run of the core or a plugin, push it to a stand-in for the hub, and use it from there, to the bit.

    hub_round_trip.py KIND FOLDER

KIND is one of `KINDS`. Every command is a process of its own, as users start them. What is compared: the weights in the
repository and in the cache with those of the run, the scores of both, online and then offline, and the weights of
trainings that start from either. Fails on the first difference; prints one line per comparison.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from hub_server import TOKEN, serve_hub

QUICK = ("--steps", "3", "--batch-size", "8", "--threads", "1", "--device", "cpu", "--quiet")
TABLE = ("--data", "table.csv", "--context", "32", "--horizon", "8")
SHAPES = {"dim": 16, "depth": 1, "query-depth": 1, "heads": 2, "tokens": 6, "codes": 9, "shape-width": 16}
KINDS = {
    "core": ("--encoder", "bert", "--encoder.dim", "16", "--encoder.depth", "1", "--head", "linear"),
    "cwtmae": (
        *("--tokenizer", "cwt", "--tokenizer.dim", "16", "--tokenizer.scales", "8", "--encoder.dim", "16"),
        *("--encoder.depth", "1", "--encoder.heads", "2", "--head", "cot"),
    ),
    "timae": (
        *("--config", "timae/forecast", *TABLE, "--encoder.dim", "16", "--encoder.depth", "1", "--encoder.heads", "2"),
        *("--decoder.depth", "1", "--decoder.heads", "2"),
    ),
    "timemae": ("--config", "timemae/pretrain", "--encoder.depth", "1", "--decoder.depth", "1", "--loss.codes", "9"),
    "vqshape": (
        "--config",
        "vqshape/small",
        *(word for k, v in SHAPES.items() for word in (f"--tokenizer.{k}", str(v))),
    ),
    "vqvae": ("--config", "vqvae/tokenizer", *TABLE, "--tokenizer.codes", "12", "--tokenizer.dim", "8"),
    "zoo": ("--config", "zoo/chronos-bolt"),
}
"""Options of a training of each, on the embedded data unless they name others."""


def run(*words, **variables):
    """Run tstk; return what it prints."""
    command = [sys.executable, "-m", "tstk", *words]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **variables})
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}{done.stderr}"
    return done.stdout


def write_table(path):
    """Write a table to forecast."""
    values = np.random.default_rng(0).normal(size=(200, 2)).cumsum(0)
    lines = [f"2024-01-{1 + i // 24:02} {i % 24:02}:00,{a},{b}" for i, (a, b) in enumerate(values.tolist())]
    path.write_text("\n".join(["date,u,v", *lines]))


def compare(what, actual, expected):
    """Fail unless both are equal; print what they are."""
    assert actual == expected, f"{what}: {actual!r:.500} is not {expected!r:.500}"
    print(f"equal: {what}")


def make_round_trip(kind, hub):
    """Train in the working directory, push, fetch, score and train on.

    Args:
        kind: of the run
        hub: the stand-in, whose address the commands know
    """
    repository = f"owner/{kind}"
    address, local, cache = f"hf://{repository}", Path("run"), Path(os.environ["HF_HOME"])
    run("train", *KINDS[kind], *QUICK, "--out", str(local))
    run("push", str(local), repository)
    pushed = hub.commits[hub.branches[repository, "main"]]
    for name in ("metrics.jsonl", "model.safetensors"):  # the other two are pushed without absolute paths
        compare(f"{name} in the repository", pushed[name], (local / name).read_bytes())
    scores = json.loads(run("eval", str(local), "--json"))
    assert scores["scores"]
    for name, variables in (("online", {}), ("offline", {"HF_HUB_OFFLINE": "1"})):
        num_requests = len(hub.requests)
        fetched = json.loads(run("eval", address, "--json", **variables))
        fetched["data"] = scores["data"]  # a path, which is not pushed whole
        compare(f"scores of {address}, {name}: {scores['scores']}", fetched, scores)
        assert (len(hub.requests) == num_requests) == bool(variables), f"{name}: {hub.requests[num_requests:]}"
    (weights,) = cache.rglob("model.safetensors")
    compare("weights in the cache", weights.read_bytes(), (local / "model.safetensors").read_bytes())
    for source, out in ((str(local), "from-run"), (address, "from-hub")):
        run("train", *KINDS[kind], "--init-from", source, *QUICK, "--out", out, HF_HUB_OFFLINE="1")
    compare(
        "weights of --init-from, offline",
        Path("from-hub/model.safetensors").read_bytes(),
        Path("from-run/model.safetensors").read_bytes(),
    )
    assert Path("from-run/model.safetensors").read_bytes() != weights.read_bytes(), "nothing was trained"


def main(kind, folder):
    """Make the round trip of a kind in a folder."""
    os.makedirs(folder, exist_ok=True)
    os.chdir(folder)
    write_table(Path("table.csv"))
    with serve_hub() as hub:
        for name in ("HF_HUB_OFFLINE", "TSTK_OFFLINE"):
            os.environ.pop(name, None)
        os.environ |= {
            "HF_ENDPOINT": hub.address,
            "HF_HOME": str(Path("hf").resolve()),
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_XET": "1",
            "OMP_NUM_THREADS": "1",
        }
        make_round_trip(kind, hub)


if __name__ == "__main__":
    main(*sys.argv[1:])
