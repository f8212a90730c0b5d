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
from torch import Tensor

from tstk.account import Average, Judge, Ledger, Watcher, check_finite
from tstk.augment import crop as cropped
from tstk.augment import mix
from tstk.board import Board
from tstk.draws import Draws
from tstk.errors import DataError, OptionError
from tstk.evaluate import evaluate
from tstk.nn.blocks import recomputing
from tstk.pipeline import Pipeline
from tstk.probe import told_apart
from tstk.rates import groups
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
    lr_of: tuple[str, ...] = (),
    weight_decay: float = 0.05,
    warmup: float = 0.1,
    schedule: Literal["cosine", "constant"] = "cosine",
    layer_decay: float = 1.0,
    clip: float = 1.0,
    average: float = 0.998,
    accumulate: int = 1,
    crop: int | None = None,
    mixup: float = 0.0,
    recompute: bool = False,
    probe: int | None = None,
    validate_every: int | None = None,
    patience: int | None = None,
    select: Literal["score", "loss", "last"] = "score",
    seed: int = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    threads: int | None = None,
    tensorboard: str | None = None,
) -> Fitted:
    """Train a pipeline and leave it with its best weights by validation.

    Args:
        epochs: passes over the training data; none means enough for 1500 steps, between 10 and 100 passes
        steps: optimizer steps, instead of epochs
        batch_size: series per batch, of all processes together if there are several (torchrun)
        lr: highest learning rate of AdamW; parts with pretrained weights may have their own
        lr_of: rates of parts that must not take lr, such as tokenizer.decoder=1e-5
        weight_decay: of matrices; never of norms, biases, positions and codebooks
        warmup: share of the steps in which the rate rises linearly
        schedule: cosine, the rate falls to zero; constant, it stays
        layer_decay: rate of an encoder's layer as a share of that of the layer above it, the embeddings being lowest
            (BEiT: 0.65); heads and the last norm take the whole rate
        clip: largest norm of the gradient; 0 for no limit
        average: keep a running average of the weights with this decay per step, and validate and
            save that; 0 for none
        accumulate: batches per optimizer step
        crop: samples to cut out of each training series, at a random place in each step; none leaves it whole
        mixup: blend each labelled series with another of its batch, the share drawn from Beta(mixup, mixup) (Zhang et
            al. 2018); 0 for none
        recompute: keep only what enters each Transformer block and run it again on the way back: less memory, a
            third more time
        probe: epochs from one linear probe to the next: pretraining is told apart by what frozen features know of the
            classes of the validation part, of which the weights learn nothing
        validate_every: optimizer steps from one validation to the next, which then count as an epoch; none means a pass
            over the training data
        patience: epochs without improvement after which training stops; none never stops early
        select: whose weights are kept: score, the latest epoch whose accuracy on validation is within a standard
            error of the best (or the one with the lowest error of a forecast); loss, the lowest validation loss; last
        seed: of weights, batches, masks and dropout
        device: where to train; auto takes a GPU if there is one
        precision: of activations; weights stay float32
        threads: of the CPU; none leaves it to torch
        tensorboard: folder of event files for TensorBoard, which must be installed; none writes none
    """
    if len(data.train) == 0:
        raise DataError(f"{data.name}: the training part is empty")
    if crop is not None and data.task == "forecasting":
        raise OptionError(f"--crop {crop}: {data.name} is cut into windows already; use --context and --horizon")
    if mixup < 0 or (mixup and data.task != "classification"):
        raise OptionError(f"--mixup {mixup}: expected 0 or more, and above 0 only with classes; {data.name} has none")
    accelerator = _accelerator(device, precision)
    if probe is not None and data.task != "classification":
        raise OptionError(f"--probe {probe}: {data.name} has no classes to be told apart")
    share = (accelerator.process_index, accelerator.num_processes)
    batches = Batches(data.train, batch_size, accumulate, seed, share, validate_every)
    epochs, total = _budget(len(batches), epochs, steps)
    rates = groups(pipeline, lr, weight_decay, layer_decay, lr_of)
    optimizer = torch.optim.AdamW(rates, lr=lr, fused=True)
    ramp = torch.optim.lr_scheduler.LambdaLR(optimizer, _ramp(total, warmup, schedule))
    model = accelerator.prepare(pipeline)
    step_of = accelerator.prepare(optimizer)
    trained = [p for p in pipeline.parameters() if p.requires_grad]
    if tensorboard is not None:
        watcher = Board(tensorboard, watcher)
    fitted, judge, ledger = Fitted(), Judge(select, patience), Ledger(watcher, sync=accelerator.device.type == "cpu")
    averaged = Average(trained, average)
    begin = time.perf_counter()
    step = 0
    if watcher:
        watcher.begin(total, epochs)
    with _threads(threads), _denormals_flushed(), recomputing(pipeline, recompute):
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
                        changes = Draws(seed, -1 - drawn, key)
                        if crop is not None:
                            series = cropped(series, crop, changes)
                        if mixup:
                            series = mix(series, mixup, len(data.classes), changes)
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
                fitted.started = fitted.started or time.time()
            row = ledger.close()
            row["lr"] = max(ramp.get_last_lr())
            with averaged.in_place():
                with accelerator.autocast():
                    row["val"] = evaluate(pipeline, data.val, seed=seed, batch_size=max(batch_size, 256))
                    if probe and (epoch % probe == 0 or epoch == epochs):
                        row["val"]["probe"] = told_apart(pipeline, data.train, data.val)
                for name, value in row["val"].items():
                    check_finite(f"{name!r} of the validation part", value, f"after step {step}", epoch)
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
    return fitted


class Batches:
    """Shuffled batches of a part, whole index tensors at a time, grouped by optimizer step.

    Args:
        share: number of this process, and of how many; each gets its part of every batch, and an epoch leaves out the
            few series that cannot be dealt out evenly
        every: optimizer steps per epoch; a pass over the part unless given
    """

    def __init__(
        self,
        part: Part,
        batch_size: int,
        accumulate: int,
        seed: int,
        share: tuple[int, int] = (0, 1),
        every: int | None = None,
    ) -> None:
        if batch_size < 1 or accumulate < 1:
            raise OptionError(f"batch_size={batch_size} and accumulate={accumulate}: expected at least 1")
        if every is not None and every < 1:
            raise OptionError(f"validate_every={every}: expected at least 1")
        self.part, self.batch_size, self.accumulate, self.seed = part, batch_size, accumulate, seed
        self.mine, self.of = share
        if batch_size % self.of or len(part) < self.of:
            raise OptionError(
                f"--batch-size {batch_size} of {len(part)} series: expected a multiple of {self.of}, "
                "the number of processes"
            )
        self.whole = -(-(len(part) - len(part) % self.of) // (batch_size * accumulate))
        self.steps = every or self.whole

    def __len__(self) -> int:
        """Optimizer steps per epoch."""
        return self.steps

    def epoch(self, epoch: int, device: torch.device) -> Iterator[list[Series]]:
        """The groups of one epoch; the order depends on the seed and the pass over the data alone."""
        first = (epoch - 1) * self.steps
        groups: tuple[Tensor, ...] = ()
        for step in range(first, first + self.steps):
            done, at = divmod(step, self.whole)
            if not at or not groups:
                groups = self._order(done + 1).split(self.batch_size * self.accumulate)
            mine = [index[self.mine :: self.of] for index in groups[at].split(self.batch_size)]
            yield [self.part.batch(index).to(device, non_blocking=True) for index in mine]

    def _order(self, number: int) -> Tensor:
        """The series of one pass over the part."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        order = torch.randperm(len(self.part), generator=generator)
        return order[: len(order) - len(order) % self.of]


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


def _accelerator(device: str, precision: str) -> Accelerator:
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState

    if device == "cuda" and not torch.cuda.is_available():
        raise OptionError("--device cuda: torch sees no GPU here; use --device cpu")
    if precision == "fp16" and (device == "cpu" or not torch.cuda.is_available()):
        raise OptionError("--precision fp16 needs a GPU; on a CPU use bf16 or fp32")
    # Accelerate keeps the first precision of a process; a second fit may want another
    AcceleratorState._reset_state(reset_partial_state=True)
    # a pipeline may hold parts that a stage has no use for, such as the way back of a tokenizer
    several = DistributedDataParallelKwargs(find_unused_parameters=True)
    kind = {"fp32": "no"}.get(precision, precision)
    return Accelerator(cpu=device == "cpu", mixed_precision=kind, kwargs_handlers=[several])


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
