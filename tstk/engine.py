"""The training loop, on Accelerate: devices, precision and distributed wrappers are its business; ours are the
optimizer's groups, the schedule, selection by validation, and stopping with a reason.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from tstk.account import Average, Judge, Ledger, Watcher, check_finite
from tstk.augment import crop as cropped
from tstk.callbacks import called
from tstk.draws import Draws
from tstk.errors import DataError, OptionError
from tstk.evaluate import evaluate
from tstk.pipeline import Pipeline
from tstk.probe import told_apart
from tstk.records import Series

if TYPE_CHECKING:
    from accelerate import Accelerator

    from tstk.data.dataset import Dataset
    from tstk.data.parts import Part


@dataclass
class Fitted:
    """What training leaves behind.

    Args:
        history: a row per epoch
        best: the row that was selected; the pipeline holds its weights
        seconds: wall time of the loop
        started: when the first optimizer step was done, `time.time()`
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    started: float = 0.0


def fit(
    pipeline: Pipeline,
    data: Dataset,
    watcher: Watcher | None = None,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int = 64,
    lr: float = 1e-3,
    weight_decay: float = 0.05,
    warmup: float = 0.1,
    schedule: Literal["cosine", "constant"] = "cosine",
    clip: float = 1.0,
    average: float = 0.998,
    accumulate: int = 1,
    crop: int | None = None,
    probe: int | None = None,
    patience: int | None = None,
    select: Literal["score", "loss", "last"] = "score",
    seed: int = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    threads: int | None = None,
    callbacks: tuple[str, ...] = (),
) -> Fitted:
    """Train a pipeline and leave it with its best weights by validation.

    Args:
        epochs: passes over the training data; none means enough for 1500 steps, between 10 and 100 passes
        steps: optimizer steps, instead of epochs
        batch_size: series per batch
        lr: highest learning rate of AdamW; parts with pretrained weights may have their own
        weight_decay: of matrices; never of norms, biases, positions and codebooks
        warmup: share of the steps in which the rate rises linearly
        schedule: cosine, the rate falls to zero; constant, it stays
        clip: largest norm of the gradient; 0 for no limit
        average: keep a running average of the weights with this decay per step, and validate and
            save that; 0 for none
        accumulate: batches per optimizer step
        crop: samples to cut out of each training series, at a random place in each step; none leaves it whole
        probe: epochs from one linear probe to the next: pretraining is told apart by what frozen features know of the
            classes of the validation part, of which the weights learn nothing
        patience: epochs without improvement after which training stops; none never stops early
        select: whose weights are kept: score, the latest epoch whose accuracy on validation is within a standard
            error of the best (or the one with the lowest error of a forecast); loss, the lowest validation loss; last
        seed: of weights, batches, masks and dropout
        device: where to train; auto takes a GPU if there is one
        precision: of activations; weights stay float32
        threads: of the CPU; none leaves it to torch
        callbacks: what plugins offer to look on with, by name (tstk list callbacks)
    """
    if len(data.train) == 0:
        raise DataError(f"{data.name}: the training part is empty")
    if crop is not None and data.task == "forecasting":
        raise OptionError(f"--crop {crop}: {data.name} is cut into windows already; use --context and --horizon")
    accelerator = _accelerator(device, precision)
    if probe is not None and data.task != "classification":
        raise OptionError(f"--probe {probe}: {data.name} has no classes to be told apart")
    batches = Batches(data.train, batch_size, accumulate, seed)
    epochs, total = _budget(len(batches), epochs, steps)
    optimizer = torch.optim.AdamW(_groups(pipeline, lr, weight_decay), lr=lr, fused=True)
    ramp = torch.optim.lr_scheduler.LambdaLR(optimizer, _ramp(total, warmup, schedule))
    model = accelerator.prepare(pipeline)
    step_of = accelerator.prepare(optimizer)
    trained = [p for p in pipeline.parameters() if p.requires_grad]
    fitted, judge, ledger = Fitted(), Judge(select, patience), Ledger(watcher, sync=accelerator.device.type == "cpu")
    averaged = Average(trained, average)
    begin = time.perf_counter()
    step = 0
    told = called(callbacks)
    if watcher:
        watcher.begin(total, epochs)
    for callback in told.values():
        callback.begin(pipeline, total, epochs)
    with _threads(threads), _denormals_flushed():
        for epoch in range(1, epochs + 1):
            pipeline.train()
            ledger.open(epoch)
            for group in batches.epoch(epoch, accelerator.device):
                if step == total:
                    break
                step += 1
                flows = []
                rows = sum(len(s.x) for s in group)
                for i, series in enumerate(group):
                    last = i == len(group) - 1
                    with nullcontext() if last else accelerator.no_sync(model), accelerator.autocast():
                        key = series.key
                        assert key is not None
                        drawn = step * accumulate + i
                        if crop is not None:
                            series = cropped(series, crop, Draws(seed, -1 - drawn, key))
                        flow = model(series, Draws(seed, drawn, key))
                        accelerator.backward(flow.total * (len(series.x) / rows))
                    flows.append(flow)
                if clip:
                    accelerator.clip_grad_norm_(trained, clip)
                step_of.step()
                step_of.zero_grad()
                ramp.step()
                pipeline.after_step(flows)
                averaged.update()
                ledger.enter(step, rows, flows)
                for callback in told.values():
                    callback.step(step, flows)
                fitted.started = fitted.started or time.time()
            row = ledger.close()
            row["lr"] = ramp.get_last_lr()[0]
            with averaged.in_place():
                with accelerator.autocast():
                    row["val"] = evaluate(pipeline, data.val, seed=seed, batch_size=max(batch_size, 256))
                    if probe and (epoch % probe == 0 or epoch == epochs):
                        row["val"]["probe"] = told_apart(pipeline, data.train, data.val)
                for name, value in row["val"].items():
                    check_finite(f"{name!r} of the validation part", value, f"after step {step}", epoch)
                for name, callback in told.items():
                    if found := callback.epoch(row, pipeline):
                        row.setdefault("callbacks", {})[name] = found
                row["seconds"] = round(time.perf_counter() - begin, 3)
                fitted.history.append(row)
                improved = judge.improved(row, pipeline)
                if watcher:
                    watcher.epoch(row, improved)
            if judge.weary or step == total:
                break
    accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    fitted.best = judge.best
    fitted.seconds = time.perf_counter() - begin
    pipeline.load_state_dict(judge.state)
    pipeline.eval()
    for callback in told.values():
        callback.end(fitted.best)
    return fitted


class Batches:
    """Shuffled batches of a part, whole index tensors at a time, grouped by optimizer step."""

    def __init__(self, part: Part, batch_size: int, accumulate: int, seed: int) -> None:
        if batch_size < 1 or accumulate < 1:
            raise OptionError(f"batch_size={batch_size} and accumulate={accumulate}: expected at least 1")
        self.part, self.batch_size, self.accumulate, self.seed = part, batch_size, accumulate, seed

    def __len__(self) -> int:
        """Optimizer steps per epoch."""
        return -(-len(self.part) // (self.batch_size * self.accumulate))

    def epoch(self, epoch: int, device: torch.device) -> Iterator[list[Series]]:
        """The groups of one epoch; the order depends on the seed and the epoch alone."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.part), generator=generator)
        for group in order.split(self.batch_size * self.accumulate):
            yield [self.part.batch(index).to(device, non_blocking=True) for index in group.split(self.batch_size)]


def _budget(per_epoch: int, epochs: int | None, steps: int | None) -> tuple[int, int]:
    """Epochs and optimizer steps to train for."""
    if steps is not None:
        epochs = -(-steps // per_epoch)
    elif epochs is None:
        epochs = min(100, max(10, -(-1500 // per_epoch)))
    if epochs < 1:
        raise OptionError(f"epochs={epochs}, steps={steps}: expected at least 1")
    return epochs, per_epoch * epochs if steps is None else steps


def _ramp(total: int, warmup: float, schedule: str) -> Callable[[int], float]:
    if not 0 <= warmup < 1:
        raise OptionError(f"warmup={warmup}: expected a share of the steps, 0 or more and less than 1")
    rising = warmup * total

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / (rising + 1)
        if schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * min((step - rising) / max(total - rising, 1), 1.0)))

    return factor


def _groups(pipeline: Pipeline, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters by (learning rate, decay): only matrices of linear and convolutional layers decay."""
    matrices = {
        f"{name}.weight"
        for name, part in pipeline.named_modules()
        if isinstance(part, nn.Linear | nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d | nn.ConvTranspose2d)
    }
    own = {f"{slot}.{path}".rstrip("."): rate for slot, part in pipeline.slots() for path, rate in part.rates().items()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in pipeline.named_parameters():
        if parameter.requires_grad:
            rate = next((r for path, r in own.items() if name == path or name.startswith(path + ".")), lr)
            groups.setdefault((rate, weight_decay if name in matrices else 0.0), []).append(parameter)
    return [{"params": p, "lr": rate, "weight_decay": decay} for (rate, decay), p in groups.items()]


def _accelerator(device: str, precision: str) -> Accelerator:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    if device == "cuda" and not torch.cuda.is_available():
        raise OptionError("--device cuda: torch sees no GPU here; use --device cpu")
    if precision == "fp16" and (device == "cpu" or not torch.cuda.is_available()):
        raise OptionError("--precision fp16 needs a GPU; on a CPU use bf16 or fp32")
    # Accelerate keeps the first precision of a process; a second fit may want another
    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(cpu=device == "cpu", mixed_precision={"fp32": "no"}.get(precision, precision))


@contextmanager
def _denormals_flushed() -> Iterator[None]:
    """On the CPU, tiny learned scales make Adam's second moment denormal, at up to twice the time per step."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
