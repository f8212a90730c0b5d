"""The task: what is predicted for a series, how predictions are decoded and scored, and what they are compared with.

`Spec.task` is the name of an entry of the kind `task`, and `get_task` returns the task itself; pretraining is the
absence of one. Heads and losses declare the types of targets that they serve (`Slot.target_types`), so that those of
the core serve the tasks of plugins too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tstk.core.repr import ShortRepr
from tstk.core.standardization import StandardizedModel
from tstk.core.types import Series, Split, StepOutput
from tstk.errors import UnknownNameError
from tstk.plugins.registry import get_registry

TargetType = Literal["class", "labels", "numbers", "future", "sample-class"]
"""What the targets of a series are.

class: one of several classes, [B] long, -1 where unknown; labels: any number of labels, [B, K] long, 1 or 0, -1 where
unknown; numbers: [B, K] float64 in the units of the data, NaN where unknown; future: samples [B, C, H], NaN where
unknown; sample-class: one of several classes for each sample, [B, T] long, -1 where unknown or padding.
"""

TARGET_DESCRIPTIONS: dict[str, str] = {
    "class": "classes",
    "labels": "several labels",
    "numbers": "numbers",
    "future": "forecasts",
    "sample-class": "a class per sample",
}
"""Type of targets -> what is predicted, for messages."""


@dataclass(repr=False)
class Prediction(ShortRepr):
    """Predictions for N series: classes or labels with their probabilities, numbers, or forecasts.

    Args:
        labels: [N] names of the predicted classes, or their indices if the pipeline was built without data; where a
            series may have several labels, those with a probability of at least 0.5, joined by ;. [N, T] of a class per
            sample
        probabilities: [N, K] float64; calibrated if the pipeline is. [N, K, T] of a class per sample
        classes: names of the classes or labels, in the order of the columns of `probabilities`
        values: [N, K] float64 predicted numbers in the units of the data
        target_names: names of the numbers, in the order of the columns of `values`
        forecast: [N, C, H] in the units of the data; the mean over sample paths if the loss draws them. float64 if an
            offset was subtracted from the data
        forecast_samples: [S, N, C, H] sample paths, if their number was requested
        channels: names of the forecast channels
    """

    labels: NDArray[Any] | None = None
    probabilities: NDArray[np.float64] | None = None
    classes: tuple[str, ...] = ()
    values: NDArray[np.float64] | None = None
    target_names: tuple[str, ...] = ()
    forecast: NDArray[np.floating[Any]] | None = None
    forecast_samples: NDArray[np.floating[Any]] | None = None
    channels: tuple[str, ...] = ()


@dataclass
class Baselines:
    """Scores of the baselines.

    Args:
        scores: baseline -> metric -> value
        skipped: baseline -> why it was not computed
        details: baseline -> the hyperparameters selected on validation, in words
    """

    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    details: dict[str, str] = field(default_factory=dict)

    def __or__(self, other: Baselines) -> Baselines:
        return Baselines(self.scores | other.scores, self.skipped | other.skipped, self.details | other.details)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields of `RunResult` that describe the baselines."""
        return {"baselines": self.scores, "baselines_skipped": self.skipped, "baselines_details": self.details}


class Metrics(Protocol):
    """Metrics that accumulate over the batches of a split."""

    def update(self, series: Series, step_output: StepOutput) -> None:
        """Add a batch with its predictions."""

    def compute(self, split: Split) -> dict[str, float]:
        """Return the metrics of all batches; {} if no target is known.

        Args:
            split: that the batches are of, in its order; its groups name dependent series, for standard errors
        """


class Task:
    """Base class of the entries of kind `task`; it has no state.

    Subclasses with targets of all types but future implement `decode`, `score` and `score_baselines`.
    """

    target_type: ClassVar[TargetType]
    """The type of the targets, which determines how the data are read, and encoded as `Series.y`."""
    default_head: ClassVar[str] = "linear"
    """Name of the head to use if none is selected."""
    default_loss: ClassVar[str]
    """Name of the loss to train with if none is selected."""
    default_probe: ClassVar[str] = ""
    """Name of the probe that `tstk probe` fits by default; empty if frozen features cannot be probed for this task."""
    main_metric: ClassVar[str]
    """The metric that selects epochs, compares runs with baselines, and ranks methods."""
    higher_is_better: ClassVar[bool] = True
    """Whether a higher main metric is better."""
    requirement: ClassVar[str] = "targets"
    """What the data must have, for messages."""
    remedy: ClassVar[str] = "give other data with --data"
    """How to provide it, for messages."""

    def decode(self, pipeline: StandardizedModel, outputs: Tensor, sample_paths: Tensor | None = None) -> Prediction:
        """Return the prediction of N series, with names, in the units of the data.

        Args:
            pipeline: made the outputs
            outputs: [N, K], [N, C, H] or, of a class per sample, [N, K, T] output of the head, on the CPU
            sample_paths: [S, N, C, H] of a forecast, if they were drawn
        """
        raise NotImplementedError

    def create_metrics(self, pipeline: StandardizedModel) -> Metrics:
        """Return empty metrics; by default `score` is called with all outputs and targets of a split."""
        return SeriesMetrics(self, pipeline)

    def score(
        self, outputs: Tensor, targets: Tensor, names: Sequence[str], groups: list[str] | None = None
    ) -> dict[str, float]:
        """Compute the metrics of a split; {} if no target is known.

        Args:
            outputs: [N, K] or [N, K, T] output of the head in the units of the data, on the CPU
            targets: [N], [N, K] or [N, T], as in `Series.y`
            names: K names of the outputs; empty if the pipeline was built without data
            groups: N names of dependent series, for standard errors
        """
        raise NotImplementedError

    def score_baselines(self, pipeline: StandardizedModel, data: Any, split: Split, batch_size: int = 256) -> Baselines:
        """Score simple methods that a model should beat.

        Args:
            pipeline: of this task; determines the units of errors
            data: the `DataModule` of the training data
            split: the split to predict, with targets
            batch_size: series at a time
        """
        return Baselines()

    def score_fitted_baselines(self, pipeline: StandardizedModel, split: Split, reason: str) -> Baselines:
        """Score the baselines for which what the pipeline knows of its training data is enough; the rest are skipped.

        Args:
            pipeline: of this task
            split: the split to predict, with targets
            reason: why the training data are not available
        """
        return Baselines()


class SeriesMetrics:
    """The metrics of a task whose targets are per series: outputs and targets are kept and scored together.

    Args:
        task: scores them
        pipeline: converts outputs to the units of the data
    """

    def __init__(self, task: Task, pipeline: StandardizedModel) -> None:
        self.task, self.pipeline = task, pipeline
        self.outputs: list[Tensor] = []
        self.targets: list[Tensor] = []

    def update(self, series: Series, step_output: StepOutput) -> None:
        """Add a batch with its predictions."""
        if step_output.head_output is not None and series.y is not None:
            self.outputs.append(self.pipeline.to_data_units(step_output.head_output).cpu())
            self.targets.append(series.y.cpu())

    def compute(self, split: Split) -> dict[str, float]:
        """Return the metrics of all batches."""
        if not self.outputs:
            return {}
        names = self.pipeline.classes or self.pipeline.target_names
        return self.task.score(torch.cat(self.outputs), torch.cat(self.targets), names, split.groups)


def get_task(name: str) -> Task:
    """Return the task of this name.

    Raises:
        UnknownNameError: there is none
    """
    # configs are checked on the meta device, on which the constants of a module would have no values
    with torch.device("cpu"):
        task: Task = get_registry().load(get_registry().find("task", name))()
    return task


def choose_target_type(served: Sequence[Sequence[TargetType]]) -> TargetType | None:
    """Return the first type of targets that all components serve, or else that the first one serves.

    Args:
        served: `target_types` of each component, the most important first; empty if it serves all
    """
    served = [target_types for target_types in served if target_types]
    common = [t for t in served[0] if all(t in other for other in served)] if served else []
    return next(iter([*common, *(served[0] if served else ())]), None)


def find_task(target_type: TargetType) -> str:
    """Return the name of the core's task for a type of targets."""
    for entry in get_registry().list_entries("task"):
        if entry.dist == "tstk" and get_task(entry.name).target_type == target_type:
            return entry.name
    raise UnknownNameError(f"no task has targets of the type {target_type}")
