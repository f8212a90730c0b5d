"""Overhead of the training loop over the same steps in plain torch.

The plain loop does the same arithmetic and no more: the same batches and random numbers, backward pass, gradient
clipping, AdamW, cosine schedule, EMA of the weights, and the loss read after every step. The difference is the cost of
devices, precision, progress, metrics, checks and resumability.

Two measurements: the time of a whole short training with validation, as in the other benchmarks; and the additional
time of a single step, in CPU time of this thread, which other programs on the machine hardly affect.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
import torch

from benchmarks import harness
from benchmarks.harness import Case, CheckResult, OutputCheck
from tstk.config.resolve import resolve_config
from tstk.core.rng import SampleRNG
from tstk.data.load import load_data
from tstk.runs.checkpoint import initialize_for_training
from tstk.training.callbacks import Callback
from tstk.training.config import TrainConfig
from tstk.training.loader import BatchLoader
from tstk.training.loop import fit
from tstk.training.optim import lr_lambda, param_groups

STEPS = 25
DATA = load_data("har-demo")
LR, WEIGHT_DECAY, GRAD_CLIP, EMA_DECAY, WARMUP_RATIO = 1e-3, 0.05, 1.0, 0.998, 0.1


def make_pipeline(dim: int = 64):
    torch.manual_seed(0)
    config = resolve_config(
        ("here", {"encoder": {"use": "transformer", "depth": 1, "dim": dim}, "head": {"use": "linear"}})
    )
    return initialize_for_training(config, DATA.spec)[0]


class RecordingCallback(Callback):
    """A callback that receives every number, as a progress bar does."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self.clock, self.times, self.loss = clock, [], float("nan")

    def on_log(self, state, losses, series_per_second):
        self.loss = losses["loss"]
        self.times.append(self.clock())


def train_plain(steps: int = STEPS, batch: int = 32, dim: int = 64, clock: Callable[[], float] = time.perf_counter):
    """Train in plain torch; return the last loss and the time after each step."""
    model = make_pipeline(dim).train()
    torch.set_flush_denormal(True)
    optimizer = torch.optim.AdamW(param_groups(model, LR, WEIGHT_DECAY), lr=LR, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lr_lambda(steps, WARMUP_RATIO, "cosine"))
    weights = list(model.parameters())
    average = [w.detach().clone() for w in weights]
    batches, times = BatchLoader(DATA.train, TrainConfig(batch_size=batch)), []
    while len(times) < steps:
        for (series,) in batches.iterate_epoch(1 + len(times) // len(batches), torch.device("cpu")):
            step_output = model(series, SampleRNG(0, len(times), series.sample_id))
            step_output.loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, GRAD_CLIP)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            model.after_step([step_output])
            torch._foreach_lerp_(average, [w.detach() for w in weights], 1 - EMA_DECAY)
            loss = step_output.loss.item()
            times.append(clock())
            if len(times) == steps:
                break
    torch.set_flush_denormal(False)
    return torch.tensor(loss), times


def train_tstk(
    steps: int = STEPS, batch: int = 32, dim: int = 64, clock: Callable[[], float] = time.perf_counter, **overrides
):
    """Train with tstk; return the same as `train_plain`."""
    callback = RecordingCallback(clock)
    options = {
        "lr": LR,
        "weight_decay": WEIGHT_DECAY,
        "grad_clip": GRAD_CLIP,
        "ema_decay": EMA_DECAY,
        "warmup_ratio": WARMUP_RATIO,
        "select_by": "last",
    }
    config = TrainConfig(steps=steps, batch_size=batch, device="cpu", **options, **overrides)
    fit(make_pipeline(dim), DATA, config, [callback])
    return torch.tensor(callback.loss), callback.times


def make_check() -> OutputCheck:
    """Return a check that the last loss is clearly below that of chance (1.79 for six classes)."""

    def check(outputs: Sequence[torch.Tensor]) -> CheckResult:
        loss = outputs[0].item()
        return CheckResult(loss, "" if loss < 1.6 else f"a loss of {loss:.2f} after {STEPS} steps")

    return check


def list_cases(full: bool, device: str) -> list[Case]:
    """Return the only case: one thread, as the loop's overhead is CPU time."""
    contenders = {
        "tstk.training.loop": harness.make_contender(lambda: train_tstk()[0], "also validates at each of its epochs"),
        "loop": harness.make_contender(lambda: train_plain()[0]),
    }
    size = f"{STEPS} steps, batch 32"
    return [Case("engine", "one-layer transformer", size, lambda seed, device: (), contenders, make_check)]


def test_training_steps(compare, case, name):
    """The loop takes less than three times as long as the same steps in plain torch."""
    ratios = compare(case, name)
    assert ratios["loop"] > 1 / 3


def compute_step_time(times: Sequence[float]) -> float:
    """Return the lower quartile of the milliseconds per step, which excludes interrupted steps."""
    each = sorted(b - a for a, b in pairwise(times[5:]))
    return 1000 * each[len(each) // 4]


@pytest.mark.parametrize(("dim", "batch"), [(16, 4), (64, 32)], ids=["small", "larger"])
def test_a_step_costs_at_most_a_tenth_or_a_few_tenths_of_a_millisecond_more(dim, batch):
    """At most 0.4 ms, or a tenth of the step if that is more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    size = {"steps": 60, "batch": batch, "dim": dim, "clock": time.thread_time}
    train_tstk(**{**size, "steps": 5})  # Accelerate is imported
    rounds = [
        (compute_step_time(train_tstk(**size, validate_every=60)[1]), compute_step_time(train_plain(**size)[1]))
        for _ in range(4)
    ]
    mine, theirs = (min(column) for column in zip(*rounds, strict=True))
    torch.set_num_threads(threads)
    print(f"\nstep of {theirs:.2f} ms in plain torch, {mine - theirs:+.2f} ms ({mine / theirs - 1:+.0%}) in tstk")
    assert mine - theirs <= max(0.4, theirs / 10)
