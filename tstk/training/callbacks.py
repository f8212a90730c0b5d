"""Callbacks of a training run: those that plugins register, and the protocol of progress reporting.

A plugin registers a subclass of `Callback` with `Entry("callback", "mine", "tstk_plugins_mine.callback:Mine", ...)`;
`--callbacks mine` creates one without arguments for each run. Callbacks observe; they must not change what trains.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

from tstk.plugins.registry import get_registry

if TYPE_CHECKING:
    from tstk.core.pipeline import Pipeline
    from tstk.core.types import StepOutput


class Callback:
    """A base class whose hooks do nothing; override the ones you need."""

    def on_fit_start(self, pipeline: Pipeline, steps: int, epochs: int) -> None:
        """Run before the first step.

        Args:
            pipeline: on its device, not wrapped
            steps: optimizer steps to train for, at most
            epochs: epochs to train for, at most
        """

    def on_step_end(self, step: int, step_outputs: list[StepOutput]) -> None:
        """Run after an optimizer step.

        Args:
            step: number of the step, from 1
            step_outputs: one per micro-batch of the step, with losses, masks and predictions
        """

    def on_validation_end(self, metrics: dict[str, Any], pipeline: Pipeline) -> dict[str, float] | None:
        """Run after an epoch was validated.

        Args:
            metrics: of the epoch, as written to metrics.jsonl
            pipeline: with the averaged weights, as they are saved

        Returns:
            numbers to add to the epoch's metrics under the callback's name, or None
        """

    def on_fit_end(self, best_metrics: dict[str, Any]) -> None:
        """Run after training.

        Args:
            best_metrics: metrics of the epoch whose weights are kept
        """


class ProgressCallback(Protocol):
    """Reports the progress of training: a progress bar, experiment trackers, a test."""

    def on_fit_start(self, steps: int, epochs: int) -> None:
        """Run before the first step, with the optimizer steps and epochs to train for."""

    def on_step_end(self, step: int, epoch: int, losses: dict[str, float], series_per_second: float) -> None:
        """Run after one or more steps, with the mean losses since the last call."""

    def on_validation_end(self, metrics: dict[str, Any], is_best: bool) -> None:
        """Run after each epoch, with its metrics and whether its weights are the best so far."""


def create_callbacks(names: Iterable[str]) -> dict[str, Callback]:
    """Create the registered callback of each name.

    Raises:
        UnknownNameError: no callback has this name
    """
    registry = get_registry()
    return {name: registry.load(registry.find("callback", name))() for name in names}
