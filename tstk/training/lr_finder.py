"""A learning rate to try first: the loss of some steps, each with a larger rate than the one before (Smith 2017).

Unlike the paper, the rate that is suggested is where the smoothed loss falls most steeply, as fastai has it.
"""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tstk.core.pipeline import Pipeline
from tstk.core.rng import Draws
from tstk.errors import TrainingError
from tstk.training.devices import accelerator as accelerating
from tstk.training.devices import prepare, unwrap
from tstk.training.loader import Batches
from tstk.training.lr_schedule import groups
from tstk.training.optim import AdamW

if TYPE_CHECKING:
    from tstk.data.data_module import Dataset

LOWEST, HIGHEST, STEPS = 1e-6, 1.0, 100
NOISY = 10
"""First steps, whose running mean is of so few batches that it falls and rises by chance."""


@dataclass
class Sweep:
    """What a sweep found.

    Args:
        rates: of each step
        losses: smoothed, of each step
        suggestion: where the loss falls most steeply
    """

    rates: list[float]
    losses: list[float]
    suggestion: float


def find_rate(
    pipeline: Pipeline,
    data: Dataset,
    *,
    batch_size: int,
    accumulate: int,
    weight_decay: float,
    clip: float,
    seed: int,
    device: str,
    precision: str,
) -> Sweep:
    """Sweep the rate from 1e-6 to 1, and leave the weights as they were.

    It ends early where the loss is four times its least. Parts with a rate of their own take the same.

    Args:
        pipeline: as training would begin with it
        data: whose training part is learnt from
        batch_size, accumulate, weight_decay, clip, seed, device, precision: as in `tstk.training.loop.fit`

    Raises:
        TrainingError: the loss is not finite from the start
    """
    accelerator = accelerating(device, precision)
    before = deepcopy(pipeline.state_dict())
    rates = [{**group, "lr": LOWEST} for group in groups(pipeline, LOWEST, weight_decay)]
    model, optimizer = prepare(accelerator, pipeline, AdamW(rates, lr=LOWEST))
    learning = [p for p in pipeline.parameters() if p.requires_grad]
    batches = Batches(data.train, batch_size, accumulate, seed, every=STEPS)
    pipeline.train()
    tried: list[float] = []
    losses: list[float] = []
    mean = 0.0
    for step, group in enumerate(batches.epoch(1, accelerator.device)):
        rate = LOWEST * (HIGHEST / LOWEST) ** (step / (STEPS - 1))
        for table in optimizer.param_groups:
            table["lr"] = rate
        flows = []
        for i, series in enumerate(group):
            assert series.key is not None
            with accelerator.autocast():
                flow = model(series, Draws(seed, (step + 1) * accumulate + i, series.key))
            accelerator.backward(flow.total / len(group))
            flows.append(flow)
        if clip:
            accelerator.clip_grad_norm_(learning, clip)
        optimizer.step()
        optimizer.zero_grad()
        pipeline.after_step(flows)
        mean = 0.9 * mean + 0.1 * sum(float(flow.total.detach()) for flow in flows) / len(flows)
        loss = mean / (1 - 0.9 ** (step + 1))
        if not math.isfinite(loss) or (losses and loss > 4 * min(losses) > 0):
            break
        tried.append(rate)
        losses.append(loss)
    unwrap(accelerator, model)
    pipeline.load_state_dict(before)
    if len(tried) < NOISY + 3:
        raise TrainingError(f"--find-lr: the loss broke down after {len(tried)} steps from 1e-6 on; look at the data")
    steepest = max(range(NOISY, len(losses) - 2), key=lambda i: losses[i] - losses[i + 2])
    return Sweep(tried, losses, tried[steepest + 1])
