"""The state of a training run between two steps: weights, optimizer, averages, progress and random generators."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tstk.core.pipeline import Pipeline
from tstk.errors import CheckpointError, DataError, OptionError
from tstk.runs.checkpoint import check_state_dict
from tstk.training.distributed import copy_into, full_tensor, get_world_size, load_full_state_dict
from tstk.training.ema import EMA
from tstk.training.metric_tracker import MetricTracker
from tstk.training.resume_store import ResumeSnapshot
from tstk.training.selection import BestEpoch


@dataclass
class TrainState:
    """The state of a training run between two steps.

    Args:
        pipeline: including teachers, codebooks and other buffers that are not exported
        optimizer: whose per-parameter state is saved; its learning rates are not, since they follow from `step`
        ema: average of the trainable parameters
        metric_tracker: losses of the current epoch
        best_epoch: metrics and weights of the best epoch
        scaler: gradient scaler of half precision, or None
        step: optimizer steps taken
        epoch: number of the current epoch, from 1
        step_in_epoch: steps taken in the current epoch
        is_done: whether training has ended and only the result remains to be written
        start_time: `time.perf_counter()` of the start of training, as if it had never been interrupted
    """

    pipeline: Pipeline
    optimizer: torch.optim.Optimizer
    ema: EMA
    metric_tracker: MetricTracker
    best_epoch: BestEpoch
    scaler: Any = None
    step: int = 0
    epoch: int = 1
    step_in_epoch: int = 0
    is_done: bool = False
    start_time: float = field(default_factory=time.perf_counter)

    @property
    def trainable_parameters(self) -> dict[str, torch.nn.Parameter]:
        """The parameters that require gradients, by name."""
        return {name: p for name, p in self.pipeline.named_parameters() if p.requires_grad}

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the state as tensors by name and JSON-able values; every process must call this.

        Raises:
            TrainingError: a loss term is not finite
        """
        if self.step_in_epoch:
            self.metric_tracker.flush()
        tensors: dict[str, Tensor] = {f"pipeline.{k}": v for k, v in self.pipeline.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in zip(self.trainable_parameters, self.ema.averages, strict=False)}
        tensors |= {f"best.{k}": v for k, v in self.best_epoch.best_weights.items()}
        for name, parameter in self.trainable_parameters.items():
            tensors |= {f"optimizer.{name}/{k}": v for k, v in self.optimizer.state[parameter].items()}
        tensors |= {f"generator.{k}": v for k, v in _gather_rng_states().items()}
        json_state = {
            "step": self.step,
            "epoch": self.epoch,
            "at": self.step_in_epoch,
            "done": self.is_done,
            "processes": get_world_size(),
            "seconds": time.perf_counter() - self.start_time,
            "average": self.ema.num_updates,
            "ledger": self.metric_tracker.state_dict() if self.step_in_epoch else None,
            "judge": self.best_epoch.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
        }
        return {k: full_tensor(v).cpu() for k, v in tensors.items()}, json_state

    def load_state_dict(self, snapshot: ResumeSnapshot) -> None:
        """Restore a snapshot of what `state_dict` returned.

        Raises:
            CheckpointError: the snapshot is damaged or belongs to another run
            DataError: the data have changed
            OptionError: the number of processes differs
        """
        try:
            self._load_state_dict(snapshot)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as e:
            folder = snapshot.path.parent
            raise CheckpointError(
                f"{folder / 'state.json'} is damaged ({type(e).__name__}: {e}); remove {folder} to start this run "
                "again from its first step"
            ) from None

    def _load_state_dict(self, snapshot: ResumeSnapshot) -> None:
        json_state, path = snapshot.json_state, snapshot.path
        if json_state["processes"] != get_world_size():
            raise OptionError(
                f"{path} was saved by {json_state['processes']} processes, not {get_world_size()}: continue with "
                f"--devices {json_state['processes']}"
            )
        tensors: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for key, value in snapshot.tensors.items():
            kind, _, name = key.partition(".")
            tensors[kind][name] = value
        self._check_tensors(tensors, path)
        load_full_state_dict(self.pipeline, tensors["pipeline"])
        for average, name in zip(self.ema.averages, self.trainable_parameters, strict=False):
            copy_into(average, tensors["average"][name])
        self._load_optimizer_state(tensors["optimizer"], path)
        self.ema.num_updates = json_state["average"]
        self.best_epoch.load_state_dict(json_state["judge"], tensors["best"])
        if json_state["ledger"] is not None:
            self.metric_tracker.load_state_dict(json_state["epoch"], json_state["ledger"])
        if self.scaler is not None and json_state["scaler"] is not None:
            self.scaler.load_state_dict(json_state["scaler"])
        self.step, self.epoch, self.step_in_epoch = (int(json_state[k]) for k in ("step", "epoch", "at"))
        self.is_done = bool(json_state["done"])
        self.start_time = time.perf_counter() - json_state["seconds"]
        _set_rng_state(tensors["generator"])

    def _check_tensors(self, tensors: Mapping[str, dict[str, Tensor]], path: Path) -> None:
        """Raise unless the saved tensors have this run's names and shapes, and its data the same mean and deviation."""
        state_dict = self.pipeline.state_dict()
        check_state_dict(path, tensors["pipeline"], state_dict)
        averages = dict(zip(self.trainable_parameters, self.ema.averages, strict=False))
        check_state_dict(path, tensors["average"], averages)
        if tensors["best"]:
            check_state_dict(path, tensors["best"], state_dict)
        for name in ("mean", "std"):
            if not torch.allclose(state_dict[name].cpu(), tensors["pipeline"][name], rtol=1e-4):
                raise DataError(f"the data have changed since {path} was saved: the {name} of their channels differs")

    def _load_optimizer_state(self, tensors: Mapping[str, Tensor], path: Path) -> None:
        trainable = self.trainable_parameters
        for key, value in tensors.items():
            name, _, kind = key.rpartition("/")
            parameter = trainable.get(name)
            if parameter is None or (value.ndim and value.shape != parameter.shape):
                raise CheckpointError(
                    f"{path} does not fit its config.json: no trainable parameter {name!r} with a {kind!r} of shape "
                    f"{list(value.shape)}"
                )
            state = torch.zeros_like(parameter) if value.ndim else torch.zeros((), device=parameter.device)
            copy_into(state, value)
            self.optimizer.state[parameter][kind] = state


def _gather_rng_states() -> dict[str, Tensor]:
    """Return the states of torch's generators in every process, as "rank.device"."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    states_by_rank = [states]
    if get_world_size() > 1:
        states_by_rank = [{}] * get_world_size()
        torch.distributed.all_gather_object(states_by_rank, states)
    return {f"{rank}.{k}": v for rank, rank_states in enumerate(states_by_rank) for k, v in rank_states.items()}


def _set_rng_state(states: Mapping[str, Tensor]) -> None:
    rank = torch.distributed.get_rank() if get_world_size() > 1 else 0
    torch.set_rng_state(states[f"{rank}.cpu"])
    if torch.cuda.is_available() and f"{rank}.cuda" in states:
        torch.cuda.set_rng_state(states[f"{rank}.cuda"])
