"""Which series an optimizer step learns from, and how many steps there are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tstk.core.types import Series
from tstk.errors import OptionError

if TYPE_CHECKING:
    from tstk.data.datasets import Part


def budget(per_epoch: int, epochs: int | None, steps: int | None) -> tuple[int, int]:
    """Epochs and optimizer steps to train for.

    Raises:
        OptionError: there would be none
    """
    if steps is not None:
        epochs = -(-steps // per_epoch)
    elif epochs is None:
        epochs = min(100, max(10, -(-1500 // per_epoch)))
    if epochs < 1:
        raise OptionError(f"epochs={epochs}, steps={steps}: expected at least 1")
    return epochs, per_epoch * epochs if steps is None else steps


class Batches:
    """Shuffled batches of a part, whole index tensors at a time, grouped by optimizer step.

    Args:
        share: number of this process, and of how many; each gets its part of every batch, and an epoch leaves out the
            few series that cannot be dealt out evenly
        every: optimizer steps per epoch; a pass over the part unless given
        balanced: draw classes alike often, with replacement; what has no label is left out
    """

    def __init__(
        self,
        part: Part,
        batch_size: int,
        accumulate: int,
        seed: int,
        share: tuple[int, int] = (0, 1),
        every: int | None = None,
        balanced: bool = False,
    ) -> None:
        if batch_size < 1 or accumulate < 1:
            raise OptionError(f"batch_size={batch_size} and accumulate={accumulate}: expected at least 1")
        if every is not None and every < 1:
            raise OptionError(f"validate_every={every}: expected at least 1")
        self.part, self.batch_size, self.accumulate, self.seed = part, batch_size, accumulate, seed
        self.mine, self.of = share
        self.odds = _odds(part) if balanced else None
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

    def epoch(
        self, epoch: int, device: torch.device, start: int = 0, stop: int | None = None
    ) -> Iterator[list[Series]]:
        """The groups of one epoch; the order depends on the seed and the pass over the data alone.

        Args:
            epoch: its number, from 1
            device: where to
            start: steps of the epoch to leave out
            stop: how many steps the epoch has, if it ends early
        """
        first = (epoch - 1) * self.steps
        order = torch.empty(0)
        for step in range(first + start, first + (self.steps if stop is None else stop)):
            done, at = divmod(step, self.whole)
            if not at or not len(order):
                order = self._order(done + 1)
                groups = torch.arange(len(order)).split(self.batch_size * self.accumulate)
            mine = [places[self.mine :: self.of] for places in groups[at].split(self.batch_size)]
            yield [self._batch(order, places).to(device, non_blocking=True) for places in mine]

    def _batch(self, order: Tensor, places: Tensor) -> Series:
        """The series at some places of the order."""
        series = self.part.batch(order[places])
        # a series that was drawn twice is to be masked and changed in two ways
        return series if self.odds is None else series.but(key=places)

    def _order(self, number: int) -> Tensor:
        """The series of one pass over the part."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        if self.odds is None:
            order = torch.randperm(len(self.part), generator=generator)
        else:
            order = torch.multinomial(self.odds, len(self.part), replacement=True, generator=generator)
        return order[: len(order) - len(order) % self.of]


def _odds(part: Part) -> Tensor:
    """How often each series should be drawn so that classes come alike often, [N]."""
    assert part.y is not None
    known = part.y >= 0
    share = 1 / torch.bincount(part.y[known]).double()
    return torch.where(known, share[part.y.clamp(min=0)], 0.0)
