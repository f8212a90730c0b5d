"""Exponential moving average of the weights, which is validated and saved instead of the weights themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tstk.training.callbacks import Callback
from tstk.training.distributed import copy_into

if TYPE_CHECKING:
    from tstk.core.types import StepOutput
    from tstk.training.loop import Trainer


class EMA(Callback):
    """An exponential moving average of weights, which replaces them during validation.

    Args:
        weights: tensors that training updates in place, by name
        decay: per step, in [0, 1); 0 keeps no average
    """

    def __init__(self, weights: Mapping[str, Tensor], decay: float) -> None:
        self.weights, self.decay, self.num_updates = dict(weights) if decay else {}, decay, 0
        self.averages = {name: weight.detach().clone() for name, weight in self.weights.items()}

    def on_step_end(self, trainer: Trainer, step_outputs: list[StepOutput]) -> None:
        """Update the averages with the current weights."""
        self.update()

    def on_validation_start(self, trainer: Trainer) -> None:
        """Replace the weights by their averages."""
        self.swap()

    def on_validation_end(self, trainer: Trainer, metrics: dict[str, Any]) -> None:
        """Put the weights back."""
        self.swap()

    @torch.no_grad()
    def update(self) -> None:
        """Update the averages with the current weights."""
        if self.averages:
            self.num_updates += 1
            # a smaller decay at first, so that the initial weights are soon forgotten
            decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
            torch._foreach_lerp_([*self.averages.values()], [*self.weights.values()], 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the weights and their averages."""
        # values are copied, since FSDP and compiled graphs hold references to the tensors
        for name, average in self.averages.items():
            previous = self.weights[name].clone()
            self.weights[name].copy_(average)
            average.copy_(previous)

    def state_dict(self) -> dict[str, Any]:
        """Return the averages by name, and the number of updates."""
        return {"num_updates": self.num_updates, "averages": dict(self.averages)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.num_updates = int(state_dict["num_updates"])
        for name, average in self.averages.items():
            copy_into(average, state_dict["averages"][name])
