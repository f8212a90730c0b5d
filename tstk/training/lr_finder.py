"""Learning rate finder: train some steps with rising learning rates and record the loss (Smith 2017).

Unlike the paper, the suggestion is the learning rate at which the smoothed loss falls most steeply, as in fastai.
"""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tstk.core.pipeline import Pipeline
from tstk.core.repr import ShortRepr
from tstk.core.rng import SampleRNG
from tstk.errors import TrainingError
from tstk.training.devices import create_accelerator, prepare_model, unwrap_model
from tstk.training.loader import BatchLoader
from tstk.training.optim import AdamW, param_groups

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


def lr_range_test(
    pipeline: Pipeline,
    data: DataModule,
    *,
    batch_size: int,
    grad_accum_steps: int,
    weight_decay: float,
    grad_clip: float,
    seed: int,
    device: str,
    precision: str,
) -> LRRangeTestResult:
    """Raise the learning rate from 1e-6 to 1 in 100 steps, and restore the weights.

    The test stops early when the loss exceeds four times its minimum. All parts use the same learning rate, even those
    with an override.

    Args:
        pipeline: initialized for training
        data: its training split is used
        batch_size: as for `tstk.training.loop.fit`, like all other options
        grad_accum_steps: batches per optimizer step
        weight_decay: of matrices
        grad_clip: largest norm of the gradient; 0 for no limit
        seed: of batches, masks and dropout
        device: auto, cpu or cuda
        precision: fp32, bf16 or fp16

    Raises:
        TrainingError: the loss diverges within the first steps
    """
    accelerator = create_accelerator(device, precision)
    initial_state = deepcopy(pipeline.state_dict())
    groups = [{**group, "lr": MIN_LR} for group in param_groups(pipeline, MIN_LR, weight_decay)]
    model, optimizer = prepare_model(accelerator, pipeline, AdamW(groups, lr=MIN_LR))
    trainable = [p for p in pipeline.parameters() if p.requires_grad]
    loader = BatchLoader(data.train, batch_size, grad_accum_steps, seed, steps_per_epoch=NUM_STEPS)
    pipeline.train()
    lrs: list[float] = []
    losses: list[float] = []
    running_mean = 0.0
    for step, batches in enumerate(loader.iterate_epoch(1, accelerator.device)):
        lr = MIN_LR * (MAX_LR / MIN_LR) ** (step / (NUM_STEPS - 1))
        for group in optimizer.param_groups:
            group["lr"] = lr
        step_outputs = []
        for i, series in enumerate(batches):
            assert series.sample_id is not None
            with accelerator.autocast():
                output = model(series, SampleRNG(seed, (step + 1) * grad_accum_steps + i, series.sample_id))
            accelerator.backward(output.loss / len(batches))
            step_outputs.append(output)
        if grad_clip:
            accelerator.clip_grad_norm_(trainable, grad_clip)
        optimizer.step()
        optimizer.zero_grad()
        pipeline.after_step(step_outputs)
        loss_sum = sum(float(output.loss.detach()) for output in step_outputs)
        running_mean = 0.9 * running_mean + 0.1 * loss_sum / len(step_outputs)
        loss = running_mean / (1 - 0.9 ** (step + 1))
        if not math.isfinite(loss) or (losses and loss > 4 * min(losses) > 0):
            break
        lrs.append(lr)
        losses.append(loss)
    unwrap_model(accelerator, model)
    pipeline.load_state_dict(initial_state)
    if len(lrs) < SKIP_BEGIN + 3:
        raise TrainingError(
            f"--find-lr: the loss diverged after {len(lrs)} steps, starting from a learning rate of {MIN_LR:g}; check "
            "the data for extreme values"
        )
    steepest = max(range(SKIP_BEGIN, len(losses) - 2), key=lambda i: losses[i] - losses[i + 2])
    return LRRangeTestResult(lrs, losses, lrs[steepest + 1])
