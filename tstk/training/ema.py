"""Exponential moving average of the weights, which is validated and saved instead of the weights themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from tstk.errors import OptionError


class EMA:
    """An exponential moving average of weights.

    Args:
        weights: tensors that training updates in place
        decay: per step, in [0, 1); 0 keeps no average
    """

    def __init__(self, weights: Sequence[Tensor], decay: float) -> None:
        if not 0 <= decay < 1:
            raise OptionError(f"--ema-decay {decay}: expected at least 0 and less than 1, such as 0.998")
        self.weights, self.decay, self.num_updates = list(weights), decay, 0
        self.averages = [weight.detach().clone() for weight in weights] if decay else []

    @torch.no_grad()
    def update(self) -> None:
        """Update the averages with the current weights; call after each optimizer step."""
        if self.averages:
            self.num_updates += 1
            # a smaller decay at first, so that the initial weights are soon forgotten
            decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
            torch._foreach_lerp_(self.averages, self.weights, 1 - decay)

    @contextmanager
    def use_averages(self) -> Iterator[None]:
        """Replace the weights by their averages inside the context."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        # values are copied, since FSDP and compiled graphs hold references to the tensors
        for average, weight in zip(self.averages, self.weights, strict=False):
            previous = weight.clone()
            weight.copy_(average)
            average.copy_(previous)
