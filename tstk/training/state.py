"""The state of a training run, which callbacks read."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tstk.core.pipeline import Pipeline
from tstk.training.config import TrainConfig

if TYPE_CHECKING:
    from tstk.data.data_module import DataModule


@dataclass
class TrainState:
    """The state of a training run.

    Args:
        pipeline: the pipeline that is trained, not wrapped
        data: the data to train and validate on
        config: the options of training, with defaults resolved
        total_steps: optimizer steps to train for, at most
        epochs: epochs to train for, at most
        step: optimizer steps taken
        epoch: number of the current epoch, from 1
        step_in_epoch: steps taken in the current epoch
        should_stop: whether to end training after the current epoch; callbacks may set it
        is_done: whether training has ended and only the result remains to be written
        history: metrics of the finished epochs
        best_metrics: metrics of the best epoch so far
        best_weights: its weights, with full tensors, and with low-rank updates (`--lora`) added
        start_time: `time.perf_counter()` of the start of training, as if it had never been interrupted
    """

    pipeline: Pipeline
    data: DataModule
    config: TrainConfig
    total_steps: int
    epochs: int
    step: int = 0
    epoch: int = 1
    step_in_epoch: int = 0
    should_stop: bool = False
    is_done: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)
    best_metrics: dict[str, Any] = field(default_factory=dict)
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    start_time: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Seconds of training so far."""
        return time.perf_counter() - self.start_time
