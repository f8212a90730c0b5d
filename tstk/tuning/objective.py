"""What trials are compared by: the metric, the validation series, and the training of one config."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

from tstk.config.resolve import Config
from tstk.core.task import get_task
from tstk.data.catalog import DEFAULT_VAL_FRACTION
from tstk.errors import OptionError, did_you_mean
from tstk.evaluation.formatting import is_lower_better
from tstk.training.callbacks import Callback
from tstk.training.config import TrainConfig
from tstk.training.loop import FitResult, fit
from tstk.training.memory import check_memory
from tstk.training.runs import prepare_training
from tstk.training.small_data import read_data
from tstk.tuning.space import SearchSpace

if TYPE_CHECKING:
    from optuna import Trial

    from tstk.data.data_module import DataModule
    from tstk.training.state import TrainState

PRUNING_STARTS_AT = 0.25
"""Fraction of the epochs that every trial trains for: scores of the warm-up say little."""


class TrialCallback(Callback):
    """Reports the validation scores of a trial, and stops it if it is pruned or the time is over.

    Args:
        trial: of Optuna
        metric: of the validation split
        deadline: `time.monotonic()` at which the trial stops; None for no limit
    """

    def __init__(self, trial: Trial, metric: str, deadline: float | None) -> None:
        self.trial, self.metric, self.deadline = trial, metric, deadline
        self.is_pruned = self.is_out_of_time = False

    def on_validation_end(self, state: TrainState, metrics: dict[str, Any]) -> None:
        """Report the score of the epoch."""
        if (value := metrics["val"].get(self.metric)) is not None:
            self.trial.report(value, state.epoch)
        if state.epoch >= state.epochs or state.should_stop:
            return
        if self.deadline is not None and time.monotonic() > self.deadline:
            self.is_out_of_time = state.should_stop = True
        elif value is not None and state.epoch >= PRUNING_STARTS_AT * state.epochs and self.trial.should_prune():
            self.is_pruned = state.should_stop = True


class Objective:
    """Trains a config and says what its score is; the validation series are the same for all configs of a search.

    Args:
        space: the configs to compare
        metric: of the validation split; None for the main one
        best_file: where the best config is written, for messages
        print_note: called with each note for the user

    Raises:
        OptionError: there is nothing to compare trials by, or validation is the test split
    """

    def __init__(
        self, space: SearchSpace, metric: str | None, best_file: Path, print_note: Callable[[str], None]
    ) -> None:
        self.space, self.best_file, self.print_note = space, best_file, print_note
        self.forces_validation = False
        data = self._read_validation_data()
        self.metric = metric or self._select_metric(space.base, data)
        if not len(data.val):
            data = read_data(self._set_val_fraction(space.base, DEFAULT_VAL_FRACTION))
        self.validation = _describe_validation(space.base, data, self.metric)

    def _read_validation_data(self) -> DataModule:
        """Read the data of the config itself; hold validation series out if the defaults of training would not."""
        config = self.space.base
        if trackers := config.options("train")["trackers"]:
            raise OptionError(
                f"--trackers {','.join(trackers)}: trials have no run directory that could be tracked; leave it out, "
                f"and give it to tstk train --config {self.best_file}"
            )
        data = read_data(config)
        if data.val_from_train and config.values["data"]["val_fraction"] is None:
            self.forces_validation = True
            self.print_note(
                f"trials hold {DEFAULT_VAL_FRACTION:.0%} of the training series out for validation; "
                f"{self.best_file.name} leaves --val-fraction at its default"
            )
        elif not len(data.val):
            raise OptionError(
                f"{data.name} has no validation series to compare trials by; hold some out with "
                f"--val-fraction {DEFAULT_VAL_FRACTION}"
            )
        if data.test is not None and data.val is data.test:
            raise OptionError(
                f"the validation split of {data.name} is its test split, which trials must not see; hold validation "
                f"series out with --val-fraction {DEFAULT_VAL_FRACTION}"
            )
        return data

    def _select_metric(self, config: Config, data: DataModule) -> str:
        """Return the metric by which trials are compared."""
        if data.task is not None and ("head" in config.values or data.spec.horizon is not None):
            return get_task(data.task).main_metric
        if config.options("train")["probe_every"] is not None:
            return "probe"
        self.print_note(
            "pretraining is compared by its validation loss, which says nothing across losses, masks or tokenizers; "
            "with --probe-every 5, trials are compared by the accuracy of a linear probe"
        )
        return "loss"

    @property
    def lower_is_better(self) -> bool:
        """Whether the metric is an error."""
        return is_lower_better(self.metric)

    def train(self, options: Mapping[str, Any], callbacks: Sequence[Callback]) -> tuple[Config, int, FitResult]:
        """Train with some options; return the config, the number of validation series, and the result.

        Args:
            options: option -> value that was drawn
            callbacks: of training

        Raises:
            OptionError: the options do not fit together, or change what is validated
        """
        config = self._set_val_fraction(self.space.resolve(options), DEFAULT_VAL_FRACTION)
        pipeline, data = prepare_training(config, self.print_note)
        for fact, value in _describe_validation(config, data, self.metric).items():
            if value != self.validation[fact]:
                raise OptionError(
                    f"{fact}: {value} rather than {self.validation[fact]} of the config itself, so their scores could "
                    "not be compared"
                )
        train_config = TrainConfig.from_config(config)
        check_memory(pipeline, data, train_config)
        return config, len(data.val), fit(pipeline, data, train_config, callbacks)

    def read_score(self, result: FitResult) -> tuple[float, int]:
        """Return the score of the selected epoch, or of the last that has it, and that epoch.

        Raises:
            OptionError: validation has no such metric
        """
        metric = self.metric
        for metrics in (result.best_metrics, *reversed(result.history)):
            if metric in metrics["val"]:
                return float(metrics["val"][metric]), int(metrics["epoch"])
        names = list(dict.fromkeys(name for metrics in result.history for name in metrics["val"]))
        known = [name for name in names if not name.endswith("_se")]
        raise OptionError(
            f"validation has no {metric!r}.{did_you_mean(metric, known)} It has: {', '.join(known)}; choose with "
            "--metric"
        )

    def format_config(self, config: Config) -> str:
        """Return the config of a trial as TOML, without the validation series that only trials hold out."""
        return self._set_val_fraction(config, None).to_toml()

    def _set_val_fraction(self, config: Config, fraction: float | None) -> Config:
        """Return a config with this fraction of validation series, if the defaults of training would hold none out."""
        if not self.forces_validation:
            return config
        return replace(config, values={**config.values, "data": {**config.values["data"], "val_fraction": fraction}})


def _describe_validation(config: Config, data: DataModule, metric: str) -> dict[str, Any]:
    """Return facts on what is validated, which are the same for all trials of a search."""
    is_forecast, y = data.spec.horizon is not None, data.val.y
    facts: dict[str, Any] = {"validation series": len(data.val)}
    if is_forecast:
        facts["channels to forecast"] = ", ".join(data.channels)
    elif y is not None:
        facts["checksum of the validation targets"] = crc32(y.contiguous().numpy().tobytes())
    if is_lower_better(metric):  # in units of standardized values
        facts["--standardize"] = config.values["data"]["standardize"]
    return facts
