"""Train five pipelines in double precision, in this process or as one of several.

    train_pipelines.py DATA TABLE FOLDER [sharded]

`sharded`: weights are sharded as by FSDP on GPUs, which Accelerate does not support on CPUs.
"""

import atexit
import json
import os
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from stateful import register_components

from tstk.config.resolve import resolve_config
from tstk.training.config import TrainConfig
from tstk.training.distributed import full_state_dict
from tstk.training.loop import fit
from tstk.training.runs import prepare_training

ENCODER = {"use": "transformer", "dim": 16, "depth": 1, "heads": 2, "dropout": 0.0}
CASES = {
    "cross-entropy": {"encoder": ENCODER, "head": {"use": "linear", "dropout": 0.0}},
    "masked": {"encoder": ENCODER, "loss": "masked", "decoder": {"use": "transformer", "dropout": 0.0}},
    "forecast": {
        "encoder": ENCODER,
        "loss": {"use": "masked", "policy": "tail"},
        "decoder": {"use": "transformer", "dropout": 0.0},
    },
    "codebook": {
        "tokenizer": {"use": "stateful", "adaptive": False},
        "encoder": ENCODER,
        "head": {"use": "linear", "dropout": 0.0},
    },
    "lora": {"encoder": ENCODER, "head": {"use": "linear", "dropout": 0.0}, "train": {"lora": 2}},
}


def shard(self, pipeline, optimizer):
    """Shard as Accelerate's `prepare` does with FSDP 2."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    names = {id(p): name for name, p in pipeline.named_parameters()}
    fully_shard(pipeline, mesh=init_device_mesh("cpu", (self.num_processes,)))
    parts = dict(pipeline.named_parameters())
    for group in optimizer.param_groups:
        group["params"] = [parts[names[id(p)]] for p in group["params"]]
    return pipeline, optimizer


def main(data, table, folder, how=""):
    register_components()
    torch.set_num_threads(1)
    if how == "sharded":
        Accelerator.prepare = shard
    for name in CASES:
        rows = {"use": table, "context": 24, "horizon": 8, "stride": 2} if name == "forecast" else data
        config = resolve_config(("here", {**CASES[name], "data": rows}))
        pipeline, loaded = prepare_training(config)
        pipeline.double()
        options = {"epochs": 3, "batch_size": 8, "select_by": "last", "device": "cpu", "grad_clip": 0.05, "lr": 1e-3}
        fitted = fit(pipeline, loaded, TrainConfig(**options, ema_decay=0.9, lora=config.options("train")["lora"]))
        state = full_state_dict(pipeline)
        if not int(os.environ.get("RANK", 0)):
            kind = type(next(pipeline.parameters())).__name__
            history = [{k: v for k, v in row.items() if "second" not in k} for row in fitted.history]
            (folder / f"{name}.json").write_text(json.dumps({"history": history, "weights": kind}))
            save_file({k: v.contiguous() for k, v in state.items()}, folder / f"{name}.safetensors")


def write_threads(folder):
    """Write the threads of this process that remain at the end, on Linux."""
    tasks = Path("/proc/self/task").glob("*/comm")
    (folder / f"threads-{os.environ.get('RANK', 0)}.json").write_text(json.dumps([task.read_text() for task in tasks]))


data, table, folder, *how = sys.argv[1:]
atexit.register(write_threads, Path(folder))  # first in, last out
main(data, table, Path(folder), *how)
if how == ["sharded"]:  # torch's caches of distributed tensors keep the process group, whose threads may abort it
    os._exit(0)
