"""Callbacks of training: objects that are notified after each step and each validation.

The EMA of the weights, the selection of the best epoch, early stopping, the linear probe, progress bars, experiment
trackers and saving are callbacks. So are those of plugins, which register a subclass with
`Entry("callback", "mine", "tstk_plugins_mine.callback:Mine", ...)`; `--callbacks mine` selects it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tstk.errors import OptionError, did_you_mean
from tstk.plugins.registry import get_registry
from tstk.plugins.signature import read_signature

if TYPE_CHECKING:
    from tstk.core.types import StepOutput
    from tstk.training.state import TrainState


class Callback:
    """A base class whose hooks do nothing; override the ones you need.

    They may read the `TrainState`; `state.should_stop = True` ends training after the current epoch. They must not
    change what trains. Of several processes, only the first has the callbacks of plugins and of the caller.

    Options are keyword-only parameters of the constructor, annotated and with literal defaults as those of components:
    `--callbacks mine:every=10`.
    """

    def on_fit_start(self, state: TrainState) -> None:
        """Run before the first step."""

    def on_step_end(self, state: TrainState, step_outputs: list[StepOutput]) -> None:
        """Run after an optimizer step.

        Args:
            state: `state.step` is the number of the step, from 1
            step_outputs: one per micro-batch of the step, with losses, masks and predictions
        """

    def on_log(self, state: TrainState, losses: dict[str, float], series_per_second: float) -> None:
        """Run when losses were read from the device: after every step on a CPU, a few times a second on a GPU.

        Args:
            state: the state of the run
            losses: mean loss terms since the last call
            series_per_second: training series per second in this epoch
        """

    def on_validation_start(self, state: TrainState) -> None:
        """Run before the validation of an epoch."""

    def on_validation_end(self, state: TrainState, metrics: dict[str, Any]) -> dict[str, float] | None:
        """Run after the validation of an epoch, while the pipeline has the averaged weights, as they are saved.

        Args:
            state: the state of the run
            metrics: of the epoch, as written to metrics.jsonl

        Returns:
            numbers to add to the epoch's metrics under the callback's name, or None
        """

    def on_epoch_end(self, state: TrainState, metrics: dict[str, Any]) -> None:
        """Run at the end of an epoch, after all callbacks have seen its validation.

        Args:
            state: at the first step of the next epoch
            metrics: of the epoch that has ended
        """

    def on_fit_end(self, state: TrainState) -> None:
        """Run after training, when the pipeline has the weights of the selected epoch."""

    def teardown(self) -> None:
        """Release resources; called in any case, also if training failed."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run must know: numbers, text and tensors, in nested dictionaries and lists."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""


def create_callbacks(selections: Iterable[str]) -> dict[str, Callback]:
    """Create the registered callbacks that are selected.

    Args:
        selections: a name each, or a name and options as NAME:OPTION=VALUE:OPTION=VALUE

    Returns:
        callback by name

    Raises:
        UnknownNameError: no callback has this name
        OptionError: a callback has no such option, or cannot take its value
    """
    registry, callbacks = get_registry(), {}
    for selection in selections:
        name, _, assignments = selection.partition(":")
        entry = registry.find("callback", name)
        options = _parse_options(selection, entry.target, assignments)
        callbacks[name] = registry.load(entry)(**options)
    return callbacks


def _parse_options(selection: str, target: str | type, assignments: str) -> dict[str, Any]:
    """Return the options in OPTION=VALUE:OPTION=VALUE, parsed as the callback's signature says."""
    known = read_signature(target).options if assignments else {}
    options = {}
    for assignment in filter(None, assignments.split(":")):
        name, equals, value = assignment.partition("=")
        key = name.replace("-", "_")
        if not equals or key not in known:
            names = ", ".join(known) or "none"
            raise OptionError(
                f"--callbacks {selection}: expected NAME:OPTION=VALUE, and the options are: {names}."
                f"{did_you_mean(key, known)}"
            )
        options[key] = known[key].parse(value, f"--callbacks {selection}: {name}")
    return options
