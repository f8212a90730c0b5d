"""All that moves while training, gathered to be saved and put back where it was."""

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
from tstk.runs.checkpoint import matches
from tstk.training.distributed import put, put_state, whole
from tstk.training.metric_tracker import Average, Judge, Ledger
from tstk.training.resume_store import Saved


@dataclass
class Moving:
    """A training between two steps.

    Args:
        pipeline: with teachers, codebooks and what else it does not export
        optimizer: Adam or a relative; rates are not kept, as they follow from the step
        scaler: of gradients in half precision, or None
        step: optimizer steps done
        epoch: number of the epoch under way
        at: steps of it that are done
        done: nothing is left but to write the result
        begin: `time.perf_counter()` when training began, if it had never been interrupted
    """

    pipeline: Pipeline
    optimizer: torch.optim.Optimizer
    averaged: Average
    ledger: Ledger
    judge: Judge
    scaler: Any = None
    step: int = 0
    epoch: int = 1
    at: int = 0
    done: bool = False
    begin: float = field(default_factory=time.perf_counter)

    @property
    def learning(self) -> dict[str, torch.nn.Parameter]:
        """What learns, by name."""
        return {name: p for name, p in self.pipeline.named_parameters() if p.requires_grad}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and numbers; of several processes all must ask.

        Raises:
            TrainingError: a loss term is not finite
        """
        if self.at:
            self.ledger.flush()
        tensors: dict[str, Tensor] = {f"pipeline.{k}": v for k, v in self.pipeline.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in zip(self.learning, self.averaged.mean, strict=False)}
        tensors |= {f"best.{k}": v for k, v in self.judge.state.items()}
        for name, parameter in self.learning.items():
            tensors |= {f"optimizer.{name}/{k}": v for k, v in self.optimizer.state[parameter].items()}
        tensors |= {f"generator.{k}": v for k, v in _generators().items()}
        facts = {
            "step": self.step,
            "epoch": self.epoch,
            "at": self.at,
            "done": self.done,
            "processes": processes(),
            "seconds": time.perf_counter() - self.begin,
            "average": self.averaged.steps,
            "ledger": self.ledger.state() if self.at else None,
            "judge": self.judge.numbers(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
        }
        return {k: whole(v).cpu() for k, v in tensors.items()}, facts

    def take(self, saved: Saved) -> None:
        """Be as `state` was.

        Raises:
            CheckpointError: it is of another training
            DataError: the data are not the same
            OptionError: there are more or fewer processes than then
        """
        try:
            self._take(saved)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as e:
            folder = saved.place.parent
            raise CheckpointError(
                f"{folder / 'state.json'} is damaged ({type(e).__name__}: {e}); remove {folder} to start this run "
                "again from its first step"
            ) from None

    def _take(self, saved: Saved) -> None:
        facts, place = saved.facts, saved.place
        if facts["processes"] != processes():
            raise OptionError(
                f"{place} was saved by {facts['processes']} processes, and this is {processes()}: continue with "
                f"--devices {facts['processes']}"
            )
        of: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for name, value in saved.tensors.items():
            kind, _, rest = name.partition(".")
            of[kind][rest] = value
        state = self.pipeline.state_dict()
        matches(place, of["pipeline"], state)
        learning = self.learning
        matches(place, of["average"], dict(zip(learning, self.averaged.mean, strict=False)))
        if of["best"]:
            matches(place, of["best"], state)
        for name in ("mean", "std"):
            if not torch.allclose(state[name].cpu(), of["pipeline"][name], rtol=1e-4):
                raise DataError(
                    f"the data have changed since {place} was saved: the {name} of their channels is another"
                )
        put_state(self.pipeline, of["pipeline"])
        for mine, name in zip(self.averaged.mean, learning, strict=False):
            put(mine, of["average"][name])
        self._take_moments(of["optimizer"], learning, place)
        self.averaged.steps = facts["average"]
        self.judge.take(facts["judge"], of["best"])
        if facts["ledger"] is not None:
            self.ledger.take(facts["epoch"], facts["ledger"])
        if self.scaler is not None and facts["scaler"] is not None:
            self.scaler.load_state_dict(facts["scaler"])
        self.step, self.epoch, self.at = (int(facts[k]) for k in ("step", "epoch", "at"))
        self.done = bool(facts["done"])
        self.begin = time.perf_counter() - facts["seconds"]
        _set_generators(of["generator"])

    def _take_moments(
        self, found: Mapping[str, Tensor], learning: Mapping[str, torch.nn.Parameter], place: Path
    ) -> None:
        for name, value in found.items():
            owner, _, kind = name.rpartition("/")
            parameter = learning.get(owner)
            if parameter is None or (value.ndim and value.shape != parameter.shape):
                raise CheckpointError(f"{place} does not fit its config.json: no {owner!r} learns with such a {kind!r}")
            fresh = torch.zeros_like(parameter) if value.ndim else torch.zeros((), device=parameter.device)
            put(fresh, value)
            self.optimizer.state[parameter][kind] = fresh


def processes() -> int:
    """How many there are."""
    several = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if several else 1


def _generators() -> dict[str, Tensor]:
    """States of torch's generators, of each process its own."""
    mine = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        mine["cuda"] = torch.cuda.get_rng_state()
    all_of = [mine]
    if processes() > 1:
        all_of = [{}] * processes()
        torch.distributed.all_gather_object(all_of, mine)
    return {f"{i}.{k}": v for i, one in enumerate(all_of) for k, v in one.items()}


def _set_generators(found: Mapping[str, Tensor]) -> None:
    rank = torch.distributed.get_rank() if processes() > 1 else 0
    torch.set_rng_state(found[f"{rank}.cpu"])
    if torch.cuda.is_available() and f"{rank}.cuda" in found:
        torch.cuda.set_rng_state(found[f"{rank}.cuda"])
