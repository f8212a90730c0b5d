"""What is saved of a training run to resume it bit for bit: weights, optimizer, callbacks, progress, generators."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tstk.errors import CheckpointError, DataError, OptionError
from tstk.runs.checkpoint import check_state_dict
from tstk.training.callbacks import Callback
from tstk.training.distributed import copy_into, full_state_dict, get_world_size, load_full_state_dict
from tstk.training.lora import merge_lora
from tstk.training.metric_tracker import MetricTracker
from tstk.training.resume_store import ResumeSnapshot
from tstk.training.state import TrainState
from tstk.training.step import TrainStep

COUNTERS = ("step", "epoch", "step_in_epoch")


class TrainingCheckpoint:
    """Everything that a resumed run needs, as one state dict.

    Args:
        state: the state of the run
        train_step: with the optimizer and the gradient scaler
        metric_tracker: losses of the current epoch
        callbacks: by name
    """

    def __init__(
        self, state: TrainState, train_step: TrainStep, metric_tracker: MetricTracker, callbacks: Mapping[str, Callback]
    ) -> None:
        self.state, self.train_step, self.metric_tracker, self.callbacks = state, train_step, metric_tracker, callbacks

    def state_dict(self) -> dict[str, Any]:
        """Return nested dictionaries of tensors and JSON-able values; every process must call this.

        Learning rates are not part of it, since they follow from the step.

        Raises:
            TrainingError: a loss term is not finite
        """
        state = self.state
        if state.step_in_epoch:
            self.metric_tracker.flush()
        optimizer, scaler = self.train_step.optimizer, self.train_step.accelerator.scaler
        return {
            **{name: getattr(state, name) for name in COUNTERS},
            "is_done": state.is_done,
            "world_size": get_world_size(),
            "seconds": state.seconds,
            "best_metrics": state.best_metrics,
            "best_weights": state.best_weights,
            "metric_tracker": self.metric_tracker.state_dict() if state.step_in_epoch else None,
            "scaler": None if scaler is None else scaler.state_dict(),
            "callbacks": {name: saved for name, c in self.callbacks.items() if (saved := c.state_dict())},
            "pipeline": dict(state.pipeline.state_dict()),
            "optimizer": {name: dict(optimizer.state[p]) for name, p in self.train_step.trainable.items()},
            "rng": _gather_rng_states(),
        }

    def load_snapshot(self, snapshot: ResumeSnapshot) -> None:
        """Restore a snapshot of what `state_dict` returned.

        Raises:
            CheckpointError: the snapshot is damaged or belongs to another run
            DataError: the data have changed
            OptionError: the number of processes differs
        """
        try:
            self._load_state_dict(snapshot.state, snapshot.path)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as e:
            folder = snapshot.path.parent
            raise CheckpointError(
                f"{folder / 'state.json'} is damaged ({type(e).__name__}: {e}); remove {folder} to start this run "
                "again from its first step"
            ) from None
        self.state.history = snapshot.history

    def _load_state_dict(self, saved: dict[str, Any], path: Path) -> None:
        if saved["world_size"] != get_world_size():
            raise OptionError(
                f"{path} was saved by {saved['world_size']} processes, not {get_world_size()}: continue with "
                f"--devices {saved['world_size']}"
            )
        self._check_tensors(saved, path)
        load_full_state_dict(self.state.pipeline, saved["pipeline"])
        self._load_optimizer_state(saved["optimizer"], path)
        for name, callback_state in saved["callbacks"].items():
            if name in self.callbacks:  # of several processes, only the first has all callbacks
                self.callbacks[name].load_state_dict(callback_state)
        if saved["metric_tracker"] is not None:
            self.metric_tracker.load_state_dict(saved["epoch"], saved["metric_tracker"])
        scaler = self.train_step.accelerator.scaler
        if scaler is not None and saved["scaler"] is not None:
            scaler.load_state_dict(saved["scaler"])
        for name in COUNTERS:
            setattr(self.state, name, int(saved[name]))
        self.state.is_done = bool(saved["is_done"])
        self.state.best_metrics, self.state.best_weights = dict(saved["best_metrics"]), dict(saved["best_weights"])
        self.state.start_time = time.perf_counter() - saved["seconds"]
        _set_rng_state(saved["rng"])

    def _check_tensors(self, saved: dict[str, Any], path: Path) -> None:
        """Raise unless the tensors have this run's names and shapes, and its data the same mean and deviation."""
        expected = self.state.pipeline.state_dict()
        check_state_dict(path, saved["pipeline"], expected)
        averages = self.callbacks["ema"].state_dict()["averages"]
        check_state_dict(path, saved["callbacks"]["ema"].get("averages", {}), averages)
        if saved["best_weights"]:
            check_state_dict(
                path, saved["best_weights"], merge_lora(self.state.pipeline, full_state_dict(self.state.pipeline))
            )
        for name in ("mean", "std"):
            if not torch.allclose(expected[name].cpu(), saved["pipeline"][name], rtol=1e-4):
                raise DataError(f"the data have changed since {path} was saved: the {name} of their channels differs")

    def _load_optimizer_state(self, saved: Mapping[str, Mapping[str, Tensor]], path: Path) -> None:
        for name, values in saved.items():
            parameter = self.train_step.trainable.get(name)
            for kind, value in values.items():
                if parameter is None or (value.ndim and value.shape != parameter.shape):
                    raise CheckpointError(
                        f"{path} does not fit its config.json: no trainable parameter {name!r} with a {kind!r} of "
                        f"shape {list(value.shape)}"
                    )
                restored = torch.zeros_like(parameter) if value.ndim else torch.zeros((), device=parameter.device)
                copy_into(restored, value)
                self.train_step.optimizer.state[parameter][kind] = restored


def _gather_rng_states() -> dict[str, dict[str, Tensor]]:
    """Return the states of torch's generators by rank and device."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    states_by_rank = [states]
    if get_world_size() > 1:
        states_by_rank = [{}] * get_world_size()
        torch.distributed.all_gather_object(states_by_rank, states)
    return {str(rank): rank_states for rank, rank_states in enumerate(states_by_rank)}


def _set_rng_state(states: Mapping[str, Mapping[str, Tensor]]) -> None:
    rank_states = states[str(torch.distributed.get_rank() if get_world_size() > 1 else 0)]
    torch.set_rng_state(rank_states["cpu"])
    if torch.cuda.is_available() and "cuda" in rank_states:
        torch.cuda.set_rng_state(rank_states["cuda"])
