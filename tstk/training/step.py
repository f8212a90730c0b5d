"""One optimizer step: forward and backward passes of its micro-batches, gradient clipping, and the update."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tstk.core.pipeline import Pipeline
from tstk.core.rng import SampleRNG
from tstk.core.types import Series, StepOutput
from tstk.training.config import TrainConfig
from tstk.training.devices import prepare_model
from tstk.training.optim import AdamW, param_groups

if TYPE_CHECKING:
    from accelerate import Accelerator


class TrainStep:
    """The optimizer step of a training run; training, `--find-lr` and `--dry-run` share it.

    Args:
        accelerator: from `create_accelerator`
        pipeline: moved to the device, and wrapped where Accelerate requires it
        config: the options of training
        lr_factor: function from a step, counted from 0, to its fraction of the peak learning rates
        transform: augmentation of a micro-batch
    """

    def __init__(
        self,
        accelerator: Accelerator,
        pipeline: Pipeline,
        config: TrainConfig,
        lr_factor: Callable[[int], float],
        transform: Callable[[Series, SampleRNG], Series],
    ) -> None:
        self.accelerator, self.pipeline, self.config = accelerator, pipeline, config
        self.lr_factor, self.transform = lr_factor, transform
        groups = param_groups(
            pipeline,
            config.lr,
            config.weight_decay,
            config.layer_decay,
            config.lr_override,
            decay_all=config.weight_decay_on == "all",
        )
        self.optimizer = AdamW(groups, lr=config.lr, fused=True)
        self.peak_lrs = [group["lr"] for group in self.optimizer.param_groups]
        self.model, self.prepared_optimizer = prepare_model(accelerator, pipeline, self.optimizer)
        self.trainable = {name: p for name, p in pipeline.named_parameters() if p.requires_grad}
        self.backward, self.clip_grad_norm = accelerator.backward, accelerator.clip_grad_norm_
        if accelerator.scaler is None:  # then Accelerate's versions only take more time
            self.backward, self.prepared_optimizer = Tensor.backward, self.optimizer
            if accelerator.num_processes == 1:
                self.clip_grad_norm = torch.nn.utils.clip_grad_norm_
        self.autocast: Callable[[], AbstractContextManager[Any]] = accelerator.autocast
        if config.precision == "fp32":
            self.autocast = nullcontext

    def set_lr(self, step: int) -> None:
        """Set the learning rates of a step, counted from 0."""
        factor = self.lr_factor(step)
        for group, peak_lr in zip(self.optimizer.param_groups, self.peak_lrs, strict=True):
            group["lr"] = peak_lr * factor

    def __call__(self, step: int, batches: list[Series]) -> list[StepOutput]:
        """Train on the micro-batches of a step, counted from 1, and return their outputs."""
        outputs = self.compute_gradients(step, batches)
        if self.config.grad_clip:
            self.clip_grad_norm(self.trainable.values(), self.config.grad_clip)
        self.prepared_optimizer.step()
        self.prepared_optimizer.zero_grad()
        self.set_lr(step)
        self.pipeline.after_step(outputs)
        return outputs

    def compute_gradients(self, step: int, batches: list[Series]) -> list[StepOutput]:
        """Run the forward and backward passes of a step, each micro-batch weighted by its number of series."""
        num_series, seed = sum(len(series.x) for series in batches), self.config.seed
        outputs = []
        for i, series in enumerate(batches):
            is_last = i == len(batches) - 1
            index, sample_id = step * self.config.grad_accum_steps + i, series.sample_id
            assert sample_id is not None
            with nullcontext() if is_last else self.accelerator.no_sync(self.model), self.autocast():
                # negative numbers, so that augmentations and masks are drawn independently
                series = self.transform(series, SampleRNG(seed, -1 - index, sample_id))
                output = self.model(series, SampleRNG(seed, index, sample_id))
                weight = len(series.x) / num_series
                self.backward(output.loss if len(batches) == 1 else output.loss * weight)
            outputs.append(output)
        return outputs
