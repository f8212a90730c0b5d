"""Shuffled batches for each optimizer step, and the number of steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tstk.core.types import Series
from tstk.errors import OptionError

if TYPE_CHECKING:
    from tstk.core.types import Split
    from tstk.training.config import TrainConfig


def resolve_duration(steps_per_epoch: int, epochs: int | None, steps: int | None) -> tuple[int, int]:
    """Return the numbers of epochs and optimizer steps to train for.

    Args:
        steps_per_epoch: optimizer steps per epoch
        epochs: as given; with neither `epochs` nor `steps`, enough for 1500 steps, between 10 and 100
        steps: as given, instead of `epochs`
    """
    if steps is not None:
        epochs = -(-steps // steps_per_epoch)
    elif epochs is None:
        epochs = min(100, max(10, -(-1500 // steps_per_epoch)))
    return epochs, steps_per_epoch * epochs if steps is None else steps


def describe_cut_warmup(split: Split, config: TrainConfig) -> str:
    """Return a note for the user if a run has fewer steps than its warm-up, else an empty string."""
    if config.warmup_steps is None or not len(split):
        return ""
    _, total_steps = resolve_duration(len(BatchLoader(split, config)), config.epochs, config.steps)
    if config.warmup_steps < total_steps:
        return ""
    return (
        f"the learning rate rises in all of the {total_steps} steps and never falls, as --warmup-steps is "
        f"{config.warmup_steps}; give fewer, or more --steps"
    )


class BatchLoader:
    """Shuffled batches of a split, grouped by optimizer step.

    Args:
        split: series to train on
        config: `batch_size` over all processes, `grad_accum_steps` (batches per optimizer step), `seed` of the order,
            `validate_every` (optimizer steps per epoch; None for one pass over the split), and `sampling`: balanced
            draws all classes equally often, with replacement, and leaves unlabelled series out
        rank_and_world_size: of this process; each process gets its share of every batch, and a pass leaves out the
            series that cannot be divided evenly

    Raises:
        OptionError: the processes cannot share the batches evenly
    """

    def __init__(self, split: Split, config: TrainConfig, rank_and_world_size: tuple[int, int] = (0, 1)) -> None:
        assert config.batch_size is not None
        self.split, self.seed = split, config.seed
        self.batch_size, self.grad_accum_steps = config.batch_size, config.grad_accum_steps
        self.rank, self.world_size = rank_and_world_size
        self.sampling_weights = _compute_sampling_weights(split) if config.sampling == "balanced" else None
        if self.batch_size % self.world_size or len(split) < self.world_size:
            raise OptionError(
                f"--batch-size {self.batch_size} of {len(split)} series: expected a multiple of {self.world_size}, "
                "the number of processes, and at least as many series"
            )
        num_series = len(split) - len(split) % self.world_size
        self.steps_per_pass = -(-num_series // (self.batch_size * self.grad_accum_steps))
        self.steps_per_epoch = config.validate_every or self.steps_per_pass

    def __len__(self) -> int:
        """Return the number of optimizer steps per epoch."""
        return self.steps_per_epoch

    def iterate_epoch(
        self, epoch: int, device: torch.device, start: int = 0, stop: int | None = None
    ) -> Iterator[list[Series]]:
        """Yield the batches of each optimizer step of an epoch.

        The order depends only on the seed and the number of the pass over the split.

        Args:
            epoch: number of the epoch, from 1
            device: device to move the batches to
            start: steps of the epoch to skip
            stop: step at which the epoch ends, None for all its steps
        """
        first = (epoch - 1) * self.steps_per_epoch
        order = torch.empty(0)
        for step in range(first + start, first + (self.steps_per_epoch if stop is None else stop)):
            num_passes, step_in_pass = divmod(step, self.steps_per_pass)
            if not step_in_pass or not len(order):
                order = self._draw_order(num_passes + 1)
                steps = torch.arange(len(order)).split(self.batch_size * self.grad_accum_steps)
            batches = [indices[self.rank :: self.world_size] for indices in steps[step_in_pass].split(self.batch_size)]
            yield [self._load_batch(order, indices).to(device, non_blocking=True) for indices in batches]

    def _load_batch(self, order: Tensor, indices: Tensor) -> Series:
        """Load the series at positions `indices` of `order`."""
        series = self.split.batch(order[indices])
        # positions as ids, so that a series that is drawn twice is masked and augmented in two ways
        return series if self.sampling_weights is None else series.replace(sample_id=indices)

    def _draw_order(self, pass_number: int) -> Tensor:
        """Draw the indices of the series of one pass, from 1."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + pass_number)
        if self.sampling_weights is None:
            order = torch.randperm(len(self.split), generator=generator)
        else:
            order = torch.multinomial(self.sampling_weights, len(self.split), replacement=True, generator=generator)
        return order[: len(order) - len(order) % self.world_size]


def _compute_sampling_weights(split: Split) -> Tensor:
    """Return the weights [N] with which drawing series gives all classes equally often."""
    assert split.y is not None
    is_labelled = split.y >= 0
    class_weights = 1 / torch.bincount(split.y[is_labelled]).double()
    return torch.where(is_labelled, class_weights[split.y.clamp(min=0)], 0.0)
