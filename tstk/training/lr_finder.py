"""Learning rate finder: train some steps with rising learning rates and record the loss (Smith 2017).

Unlike the paper, the suggestion is the learning rate at which the smoothed loss falls most steeply, as in fastai.
"""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tstk.core.pipeline import Pipeline
from tstk.core.repr import ShortRepr
from tstk.errors import TrainingError
from tstk.training.config import TrainConfig
from tstk.training.devices import unwrap_model
from tstk.training.loop import Trainer
from tstk.training.memory import check_memory
from tstk.training.metric_tracker import describe_large_values
from tstk.training.small_data import resolve_defaults

if TYPE_CHECKING:
    from tstk.data.data_module import DataModule

MIN_LR, MAX_LR, NUM_STEPS = 1e-6, 1.0, 100
SKIP_BEGIN = 10
"""Steps at the beginning that are never suggested: their running mean covers too few batches."""


@dataclass(repr=False)
class LRRangeTestResult(ShortRepr):
    """The result of a learning rate range test.

    Args:
        lrs: learning rate of each step
        losses: smoothed loss of each step
        suggestion: learning rate at which the loss falls most steeply
    """

    lrs: list[float]
    losses: list[float]
    suggestion: float


def lr_range_test(pipeline: Pipeline, data: DataModule, config: TrainConfig) -> LRRangeTestResult:
    """Raise the learning rate from 1e-6 to 1 in 100 steps, and restore the weights.

    The steps are those of training, with all its options. The test stops early when the loss exceeds four times its
    minimum. All parts use the same learning rate, even those with an override.

    Args:
        pipeline: initialized for training
        data: its training split is used
        config: the options of training; those of its duration, validation and callbacks are not used

    Raises:
        OptionError: a step cannot fit into memory
        TrainingError: the loss diverges within the first steps
    """
    check_memory(pipeline, data, config)
    initial_state = deepcopy(pipeline.state_dict())
    trainer = Trainer(pipeline, data, _shorten(resolve_defaults(config, pipeline, data)[0]))
    trainer.train_step.peak_lrs = [1.0] * len(trainer.train_step.peak_lrs)
    trainer.train_step.lr_factor = _compute_lr
    pipeline.train()
    with trainer.execution_context():
        losses = _record_losses(trainer)
    unwrap_model(trainer.accelerator, trainer.train_step.model)
    pipeline.load_state_dict(initial_state)
    if len(losses) < SKIP_BEGIN + 3:
        raise TrainingError(
            f"--find-lr: the loss diverged after {len(losses)} steps, starting from a learning rate of {MIN_LR:g}; "
            + (describe_large_values(data) or "check the data for extreme values")
        )
    lrs = [_compute_lr(step) for step in range(len(losses))]
    steepest = max(range(SKIP_BEGIN, len(losses) - 2), key=lambda i: losses[i] - losses[i + 2])
    return LRRangeTestResult(lrs, losses, lrs[steepest + 1])


def _shorten(config: TrainConfig) -> TrainConfig:
    """Return the options of a training of `NUM_STEPS` steps without validation and callbacks."""
    return replace(
        config,
        epochs=None,
        steps=NUM_STEPS,
        validate_every=NUM_STEPS,
        select_by="last",
        patience=None,
        probe_every=None,
        ema_decay=0.0,
        callbacks=(),
        trackers=(),
    )


def _compute_lr(step: int) -> float:
    """Return the learning rate of a step, counted from 0."""
    return float(MIN_LR * (MAX_LR / MIN_LR) ** (step / (NUM_STEPS - 1)))


def _record_losses(trainer: Trainer) -> list[float]:
    """Train until the loss diverges, and return the smoothed loss of each step."""
    losses: list[float] = []
    running_mean = 0.0
    trainer.train_step.set_lr(0)
    for step, batches in enumerate(trainer.loader.iterate_epoch(1, trainer.accelerator.device), 1):
        outputs = trainer.train_step(step, batches)
        mean_loss = sum(float(output.loss.detach()) for output in outputs if output.loss is not None) / len(outputs)
        running_mean = 0.9 * running_mean + 0.1 * mean_loss
        loss = running_mean / (1 - 0.9**step)
        if not math.isfinite(loss) or (losses and loss > 4 * min(losses) > 0):
            break
        losses.append(loss)
    return losses
