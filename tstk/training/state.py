"""The state of a training run between two steps: weights, optimizer, callbacks, progress and random generators."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tstk.errors import CheckpointError, DataError, OptionError
from tstk.runs.checkpoint import check_state_dict
from tstk.training.distributed import copy_into, get_world_size, load_full_state_dict
from tstk.training.resume_store import ResumeSnapshot

if TYPE_CHECKING:
    from tstk.training.loop import Trainer


def state_dict(trainer: Trainer) -> dict[str, Any]:
    """Return the state of a trainer; every process must call this.

    Learning rates are not part of it, since they follow from the step.

    Returns:
        nested dictionaries of tensors and JSON-able values

    Raises:
        TrainingError: a loss term is not finite
    """
    if trainer.step_in_epoch:
        trainer.metric_tracker.flush()
    optimizer, scaler = trainer.train_step.optimizer, trainer.accelerator.scaler
    return {
        "step": trainer.step,
        "epoch": trainer.epoch,
        "step_in_epoch": trainer.step_in_epoch,
        "is_done": trainer.is_done,
        "world_size": get_world_size(),
        "seconds": time.perf_counter() - trainer.start_time,
        "metric_tracker": trainer.metric_tracker.state_dict() if trainer.step_in_epoch else None,
        "scaler": None if scaler is None else scaler.state_dict(),
        "callbacks": {name: state for name, c in trainer.callbacks.items() if (state := c.state_dict())},
        "pipeline": dict(trainer.pipeline.state_dict()),
        "optimizer": {name: dict(optimizer.state[p]) for name, p in trainer.train_step.trainable.items()},
        "rng": _gather_rng_states(),
    }


def load_state_dict(trainer: Trainer, snapshot: ResumeSnapshot) -> None:
    """Restore a snapshot of what `state_dict` returned.

    Raises:
        CheckpointError: the snapshot is damaged or belongs to another run
        DataError: the data have changed
        OptionError: the number of processes differs
    """
    try:
        _load_state_dict(trainer, snapshot.state, snapshot.path)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as e:
        folder = snapshot.path.parent
        raise CheckpointError(
            f"{folder / 'state.json'} is damaged ({type(e).__name__}: {e}); remove {folder} to start this run "
            "again from its first step"
        ) from None
    trainer.history = snapshot.history


def _load_state_dict(trainer: Trainer, state: dict[str, Any], path: Path) -> None:
    if state["world_size"] != get_world_size():
        raise OptionError(
            f"{path} was saved by {state['world_size']} processes, not {get_world_size()}: continue with "
            f"--devices {state['world_size']}"
        )
    _check_tensors(trainer, state, path)
    load_full_state_dict(trainer.pipeline, state["pipeline"])
    _load_optimizer_state(trainer, state["optimizer"], path)
    for name, callback_state in state["callbacks"].items():
        if name in trainer.callbacks:  # of several processes, only the first has all callbacks
            trainer.callbacks[name].load_state_dict(callback_state)
    if state["metric_tracker"] is not None:
        trainer.metric_tracker.load_state_dict(state["epoch"], state["metric_tracker"])
    if trainer.accelerator.scaler is not None and state["scaler"] is not None:
        trainer.accelerator.scaler.load_state_dict(state["scaler"])
    trainer.step, trainer.epoch, trainer.step_in_epoch = (int(state[k]) for k in ("step", "epoch", "step_in_epoch"))
    trainer.is_done = bool(state["is_done"])
    trainer.start_time = time.perf_counter() - state["seconds"]
    _set_rng_state(state["rng"])


def _check_tensors(trainer: Trainer, state: dict[str, Any], path: Path) -> None:
    """Raise unless the saved tensors have this run's names and shapes, and its data the same mean and deviation."""
    expected = trainer.pipeline.state_dict()
    check_state_dict(path, state["pipeline"], expected)
    check_state_dict(path, state["callbacks"]["ema"].get("averages", {}), trainer.ema.averages)
    if best_weights := state["callbacks"]["best_epoch"].get("best_weights"):
        check_state_dict(path, best_weights, expected)
    for name in ("mean", "std"):
        if not torch.allclose(expected[name].cpu(), state["pipeline"][name], rtol=1e-4):
            raise DataError(f"the data have changed since {path} was saved: the {name} of their channels differs")


def _load_optimizer_state(trainer: Trainer, state: Mapping[str, Mapping[str, Tensor]], path: Path) -> None:
    for name, values in state.items():
        parameter = trainer.train_step.trainable.get(name)
        for kind, value in values.items():
            if parameter is None or (value.ndim and value.shape != parameter.shape):
                raise CheckpointError(
                    f"{path} does not fit its config.json: no trainable parameter {name!r} with a {kind!r} of shape "
                    f"{list(value.shape)}"
                )
            restored = torch.zeros_like(parameter) if value.ndim else torch.zeros((), device=parameter.device)
            copy_into(restored, value)
            trainer.train_step.optimizer.state[parameter][kind] = restored


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
