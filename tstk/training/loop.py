"""The training loop, on Accelerate: devices, precision and distributed wrappers are its business; ours are the
optimizer's groups, the schedule, selection by validation, and stopping with a reason.
"""

from __future__ import annotations

import time
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from tstk.core.pipeline import Pipeline
from tstk.core.rng import Draws
from tstk.data.catalog import VAL_FRACTION
from tstk.errors import DataError, OptionError
from tstk.evaluation.evaluate import evaluate
from tstk.evaluation.probe import told_apart
from tstk.nn.blocks import recomputing
from tstk.training.augment import chosen as changing
from tstk.training.augment import crop as cropped
from tstk.training.augment import mix
from tstk.training.callbacks import called
from tstk.training.devices import accelerator as accelerating
from tstk.training.devices import compiled, denormals_flushed, deterministic_algorithms, prepare, unwrap
from tstk.training.devices import threads as threaded
from tstk.training.distributed import callable_apart, put_state
from tstk.training.interrupt import Pauses, asked_to_stop
from tstk.training.loader import Batches, budget
from tstk.training.lr_schedule import course, groups
from tstk.training.metric_tracker import Average, Judge, Ledger, Watcher, check_finite
from tstk.training.optim import AdamW
from tstk.training.resume_store import Last
from tstk.training.small_data import settle
from tstk.training.state import Moving
from tstk.training.trackers import Board

if TYPE_CHECKING:
    from tstk.data.data_module import Dataset


@dataclass
class Fitted:
    """What training leaves behind.

    Args:
        history: a row per epoch
        best: the row that was selected; of epoch 0, a linear map that training did not improve on
        weights: those of that epoch, whole; the pipeline has them too
        seconds: wall time of the loop
        started: when the first optimizer step was done, `time.time()`
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0
    started: float = 0.0


def fit(
    pipeline: Pipeline,
    data: Dataset,
    watcher: Watcher | None = None,
    last: Last | None = None,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    lr: float = 1e-3,
    lr_of: tuple[str, ...] = (),
    weight_decay: float = 0.05,
    warmup: float = 0.1,
    schedule: Literal["cosine", "constant", "one-cycle"] = "cosine",
    layer_decay: float = 1.0,
    clip: float = 1.0,
    average: float = 0.998,
    accumulate: int = 1,
    sampling: Literal["all", "balanced"] = "all",
    crop: int | None = None,
    augment: tuple[str, ...] = ("auto",),
    mixup: float = 0.0,
    recompute: bool = False,
    compile: bool = False,
    probe: int | None = None,
    validate_every: int | None = None,
    patience: int | None = None,
    select: Literal["auto", "score", "loss", "last"] = "auto",
    seed: int = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    threads: int | None = None,
    deterministic: bool = False,
    callbacks: tuple[str, ...] = (),
    track: tuple[str, ...] = (),
) -> Fitted:
    """Train a pipeline and leave it with its best weights by validation.

    A classifier of at most 500 series for which neither epochs nor steps are given takes other defaults: 1500 steps
    of 16 changed series, and the last weights (`tstk.training.small_data`).

    Args:
        epochs: passes over the training data; none means enough for 1500 steps, between 10 and 100 passes
        steps: optimizer steps, instead of epochs
        batch_size: series per batch, of all processes together if there are several (torchrun); none means 64, or 16
            for a classifier of few series
        lr: highest learning rate of AdamW; parts with pretrained weights may have their own
        lr_of: rates of parts that must not take lr, such as tokenizer.decoder=1e-5
        weight_decay: of matrices; never of norms, biases, positions and codebooks
        warmup: share of the steps in which the rate rises
        schedule: cosine, the rate falls to zero; constant, it stays; one-cycle, it rises and falls along a cosine
            (Smith and Topin 2018; with a warmup of about 0.3)
        layer_decay: rate of an encoder's layer as a share of that of the layer above it, the embeddings being lowest
            (BEiT: 0.65); heads and the last norm take the whole rate
        clip: largest norm of the gradient; 0 for no limit
        average: keep a running average of the weights with this decay per step, and validate and
            save that; 0 for none
        accumulate: batches per optimizer step
        sampling: all, every series once in a pass; balanced, classes are drawn alike often
        crop: samples to cut out of each training series, at a random place in each step; none leaves it whole
        augment: changes of training series, as NAME or NAME=STRENGTH: jitter (0.03), scaling (0.1), permutation (4),
            time-warp (0.2); off, none; auto, scaling, jitter=0.05 and time-warp for a classifier of few series
        mixup: blend each labelled series with another of its batch, the share drawn from Beta(mixup, mixup) (Zhang et
            al. 2018); 0 for none
        recompute: keep only what enters each Transformer block and run it again on the way back: less memory, a
            third more time
        compile: let torch compile encoder, decoder and head: the first steps take long, the others less
        probe: epochs from one linear probe to the next: pretraining is told apart by what frozen features know of the
            classes of the validation part, of which the weights learn nothing
        validate_every: optimizer steps from one validation to the next, which then count as an epoch; none means a pass
            over the training data
        patience: epochs without improvement after which training stops; none never stops early
        select: whose weights are kept: score, the latest epoch whose accuracy on validation is within a standard
            error of the best (or the one with the lowest error of a forecast); loss, the lowest validation loss; last;
            auto, last for a classifier of few series and where nothing is held out, and score otherwise
        seed: of weights, batches, masks and dropout
        device: where to train; auto takes a GPU if there is one
        precision: of activations; weights stay float32
        threads: of the CPU; none leaves it to torch
        deterministic: use operations alone that give the same bits in every run, and refuse others; on a GPU this takes
            more time, on a CPU seeded runs repeat without it
        callbacks: what plugins offer to look on with, by name (tstk list callbacks)
        track: who else is told of the course: tensorboard, wandb, mlflow; each must be installed
    """
    open_ = {"epochs": epochs, "steps": steps, "batch_size": batch_size, "augment": augment, "select": select}
    settled, _ = settle({**open_, "validate_every": validate_every}, pipeline, data)
    steps, batch_size, validate_every = settled["steps"], settled["batch_size"], settled["validate_every"]
    augment, select = settled["augment"], settled["select"]
    assert batch_size is not None
    if len(data.train) == 0:
        raise DataError(f"{data.name}: the training part is empty")
    if not len(data.val):
        for option, value in (("select", select != "last" and select), ("patience", patience), ("probe", probe)):
            if value:
                raise OptionError(
                    f"--{option} {value}: {data.name} has no validation series to judge by; --val-fraction "
                    f"{VAL_FRACTION} holds some out"
                )
    if crop is not None and data.task == "forecasting":
        raise OptionError(f"--crop {crop}: {data.name} is cut into windows already; use --context and --horizon")
    if augment and data.task == "forecasting":
        raise OptionError(
            f"--augment {','.join(augment)}: {data.name} is to be forecast, and what follows would not change"
        )
    if sampling == "balanced" and data.train.y is None:
        raise OptionError(f"--sampling balanced: {data.name} has no classes")
    if mixup < 0 or (mixup and data.task != "classification"):
        raise OptionError(f"--mixup {mixup}: expected 0 or more, and above 0 only with classes; {data.name} has none")
    accelerator = accelerating(device, precision)
    if probe is not None and data.task != "classification":
        raise OptionError(f"--probe {probe}: {data.name} has no classes to be told apart")
    share = (accelerator.process_index, accelerator.num_processes)
    batches = Batches(data.train, batch_size, accumulate, seed, share, validate_every, sampling == "balanced")
    epochs, total = budget(len(batches), epochs, steps)
    optimizer = AdamW(groups(pipeline, lr, weight_decay, layer_decay, lr_of), lr=lr, fused=True)
    highest = [group["lr"] for group in optimizer.param_groups]
    factor = course(total, warmup, schedule)
    model, step_of = prepare(accelerator, pipeline, optimizer)
    callable_apart(pipeline, "answer", "encode")  # for validation
    backward, clip_to, cast = accelerator.backward, accelerator.clip_grad_norm_, accelerator.autocast
    if accelerator.scaler is None:  # Accelerate adds nothing to these then but time
        backward, step_of = Tensor.backward, optimizer
        if accelerator.num_processes == 1:
            clip_to = torch.nn.utils.clip_grad_norm_
    if precision == "fp32":
        cast = nullcontext
    trained = [p for p in pipeline.parameters() if p.requires_grad]
    board: Board | None = None
    if track and accelerator.is_main_process:
        watcher = board = Board(track, Path() if last is None else last.run, watcher)
    changed = changing(augment)
    fitted, judge, ledger = Fitted(), Judge(select, patience), Ledger(watcher, sync=accelerator.device.type == "cpu")
    averaged = Average(trained, average)
    now = Moving(pipeline, optimizer, averaged, ledger, judge, accelerator.scaler)
    if last is not None and (saved := last.read()) is not None:
        fitted.history = saved.history
        now.take(saved)
    told = called(callbacks) if accelerator.is_main_process else {}
    if watcher:
        watcher.begin(total, epochs)
    for callback in told.values():
        callback.begin(pipeline, total, epochs)

    def rate(step: int) -> None:
        """Set the rates of a step, 0 being the first."""
        share = factor(step)
        for group, most in zip(optimizer.param_groups, highest, strict=True):
            group["lr"] = most * share

    rate(now.step)
    listening = asked_to_stop() if last is not None else nullcontext(lambda: 0)
    ends = nullcontext() if board is None else closing(board)
    with (
        ends,
        deterministic_algorithms(deterministic),
        threaded(threads),
        denormals_flushed(),
        recomputing(pipeline, recompute),
        compiled(pipeline, compile) as plainly,
        listening as asked,
    ):
        pause = Pauses(last, now, asked)
        if pipeline.linear_map is not None and not now.step:  # before training it forecasts alone
            with cast():
                val = evaluate(pipeline, data.val, seed=seed, batch_size=max(batch_size, 256))
            judge.improved({"epoch": 0, "val": val}, pipeline)
        while not now.done:
            epoch = now.epoch
            pipeline.train()
            if not now.at:
                ledger.open(epoch)
            stop = min(len(batches), now.at + total - now.step)
            for group in ledger.loading(batches.epoch(epoch, accelerator.device, now.at, stop)):
                now.step, now.at = now.step + 1, now.at + 1
                flows = []
                rows = sum(len(s.x) for s in group)
                for i, series in enumerate(group):
                    final = i == len(group) - 1
                    with nullcontext() if final else accelerator.no_sync(model), cast():
                        key = series.key
                        assert key is not None
                        drawn = now.step * accumulate + i
                        changes = Draws(seed, -1 - drawn, key)
                        if crop is not None:
                            series = cropped(series, crop, changes)
                        if augment:
                            series = changed(series, pipeline.mean, pipeline.std, changes)
                        if mixup:
                            series = mix(series, mixup, len(data.classes), changes)
                        flow = model(series, Draws(seed, drawn, key))
                        backward(flow.total if len(group) == 1 else flow.total * (len(series.x) / rows))
                    flows.append(flow)
                if clip:
                    clip_to(trained, clip)
                step_of.step()
                step_of.zero_grad()
                rate(now.step)
                pipeline.after_step(flows)
                averaged.update()
                ledger.enter(now.step, rows, flows)
                for callback in told.values():
                    callback.step(now.step, flows)
                fitted.started = fitted.started or time.time()
                pause.between_steps()
            row = ledger.close()
            row["lr"] = max(group["lr"] for group in optimizer.param_groups)
            with averaged.in_place(), plainly():
                with cast():
                    row["val"] = {}
                    if len(data.val):
                        row["val"] = evaluate(pipeline, data.val, seed=seed, batch_size=max(batch_size, 256))
                    if probe and (epoch % probe == 0 or epoch == epochs):
                        row["val"]["probe"] = told_apart(pipeline, data.train, data.val)
                for name, value in row["val"].items():
                    check_finite(f"{name!r} of the validation part", value, f"after step {now.step}", epoch)
                for name, callback in told.items():
                    if found := callback.epoch(row, pipeline):
                        row.setdefault("callbacks", {})[name] = found
                row["seconds"] = round(time.perf_counter() - now.begin, 3)
                fitted.history.append(row)
                improved = judge.improved(row, pipeline)
                if last is not None:
                    last.epoch(row, pipeline, judge.state if improved else None)
                if watcher:
                    watcher.epoch(row, improved)
            now.epoch, now.at = epoch + 1, 0
            now.done = judge.weary or now.step == total or epoch == epochs
            pause.between_epochs()
    unwrap(accelerator, model)
    fitted.best, fitted.weights = judge.best, judge.state
    fitted.seconds = time.perf_counter() - now.begin
    put_state(pipeline, judge.state)
    pipeline.eval()
    for callback in told.values():
        callback.end(fitted.best)
    return fitted
