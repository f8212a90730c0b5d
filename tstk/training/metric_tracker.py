"""Means of the loss terms of an epoch, and the check that they are finite."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from tstk.core.types import StepOutput
from tstk.data.data_module import DataModule, compute_channel_ranges
from tstk.errors import TrainingError
from tstk.training.distributed import get_world_size

FLUSH_SECONDS = 0.25
"""Seconds between two reads of losses from a GPU, each of which waits for the GPU."""

LARGE_VALUE = 1e4
"""Absolute value from which data that are not standardized may be the cause of a loss that is not finite."""

T = TypeVar("T")


class MetricTracker:
    """Sums of the loss terms of an epoch, read from the device in intervals.

    Args:
        log: called at each flush with the mean losses since the last one, and the training series per second
        data: the data to train on, for messages
        flush_every_step: read the losses in every step, as costs nothing on a CPU
    """

    def __init__(
        self, log: Callable[[dict[str, float], float], None], data: DataModule, flush_every_step: bool
    ) -> None:
        self.log, self.data, self.flush_every_step = log, data, flush_every_step
        self.pending: list[tuple[int, int, dict[str, Tensor]]] = []

    def reset(self, epoch: int) -> None:
        """Start an epoch."""
        self.epoch, self.sums, self.num_series, self.loading_seconds = epoch, dict[str, float](), 0, 0.0
        self.start_time = self.last_flush_time = time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        """Return the sums of the current epoch, JSON-able; call `flush` first."""
        seconds = time.perf_counter() - self.start_time
        return {
            "sums": self.sums,
            "num_series": self.num_series,
            "seconds": seconds,
            "loading_seconds": self.loading_seconds,
        }

    def load_state_dict(self, epoch: int, state_dict: dict[str, Any]) -> None:
        """Continue `epoch` from what `state_dict` returned."""
        self.reset(epoch)
        self.sums, self.num_series = dict(state_dict["sums"]), state_dict["num_series"]
        self.start_time -= state_dict["seconds"]
        self.loading_seconds = state_dict["loading_seconds"]

    def time_loading(self, batches: Iterator[T]) -> Iterator[T]:
        """Yield from `batches`, adding the time that each takes to `loading_seconds`."""
        begin = time.perf_counter()
        for batch in batches:
            self.loading_seconds += time.perf_counter() - begin
            yield batch
            begin = time.perf_counter()

    def update(self, step: int, num_series: int, step_outputs: list[StepOutput]) -> None:
        """Add the losses of an optimizer step.

        Args:
            step: number of the step
            num_series: series of all its micro-batches
            step_outputs: one per micro-batch
        """
        for output in step_outputs:
            assert output.loss is not None
            terms = {k: v.detach() for k, v in {**output.losses, **output.metrics, "loss": output.loss}.items()}
            self.pending.append((step, num_series // len(step_outputs), terms))
        if self.flush_every_step or time.perf_counter() - self.last_flush_time > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Read the pending losses from the device.

        Raises:
            TrainingError: a loss term is not finite
        """
        recent_sums, recent_series = dict[str, float](), 0
        for step, num_series, terms in self.pending:
            values = torch.stack([v.float() for v in terms.values()]).tolist()
            for name, value in zip(terms, values, strict=True):
                check_finite(f"the loss term {name!r}", value, f"at step {step}", self.epoch, self.data)
                recent_sums[name] = recent_sums.get(name, 0.0) + value * num_series
                # step by step, so that the sum does not depend on when it was flushed
                self.sums[name] = self.sums.get(name, 0.0) + value * num_series
            recent_series += num_series
        self.num_series += recent_series
        now = time.perf_counter()
        if self.pending:
            losses = {name: value / recent_series for name, value in recent_sums.items()}
            self.log(losses, self.num_series / max(now - self.start_time, 1e-9))
        self.pending, self.last_flush_time = [], now

    def compute(self) -> dict[str, Any]:
        """Return the metrics of the epoch over all processes: mean loss terms, series per second, and seconds."""
        self.flush()
        sums, num_series = self._reduce_over_processes()
        seconds = max(time.perf_counter() - self.start_time, 1e-9)
        return {
            "epoch": self.epoch,
            "train": {name: value / max(num_series, 1) for name, value in sums.items()},
            "series_per_second": round(num_series / seconds, 1),
            "seconds_training": round(seconds, 3),
            "seconds_loading": round(self.loading_seconds, 3),
        }

    def _reduce_over_processes(self) -> tuple[dict[str, float], float]:
        """Return the sums and the number of series over all processes."""
        if get_world_size() == 1:
            return self.sums, self.num_series
        device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
        values = torch.tensor([*self.sums.values(), self.num_series], dtype=torch.float64, device=device)
        distributed.all_reduce(values)
        *sums, num_series = values.tolist()
        return dict(zip(self.sums, sums, strict=True)), num_series


def check_finite(quantity: str, value: float, location: str, epoch: int, data: DataModule) -> None:
    """Raise a `TrainingError` if `value` is not finite.

    Args:
        quantity: name of the value, for the message
        value: the value
        location: when it was computed, such as "at step 3"
        epoch: number of the epoch; from the second on there are weights of an earlier one
        data: the data to train on, the scale of which may be the cause
    """
    if not math.isfinite(value):
        raise create_training_error(f"{quantity} became {value} {location}", epoch, data)


def create_training_error(fault: str, epoch: int, data: DataModule) -> TrainingError:
    """Return the error that stops training because something is not finite.

    Args:
        fault: what is not finite, and when
        epoch: see `check_finite`
        data: see `check_finite`
    """
    kept = " and the best weights so far were kept" if epoch > 1 else ""
    remedy = describe_large_values(data) or "Try a lower --lr, a smaller --grad-clip or --precision fp32"
    return TrainingError(f"{fault} (epoch {epoch}); training stopped{kept}. {remedy}")


def describe_large_values(data: DataModule) -> str:
    """Return which channel has large values that nothing standardizes, and the remedy; "" if there is none."""
    if data.mean.any() or (data.std != 1).any():
        return ""
    ranges = zip(data.channels, compute_channel_ranges(data.train), strict=True)
    largest, channel = max((max(abs(r["min"] or 0.0), abs(r["max"] or 0.0)), name) for name, r in ranges)
    if largest < LARGE_VALUE:
        return ""
    return f"Channel {channel} has values up to {largest:.3g}, which are not standardized: remove --standardize none"
