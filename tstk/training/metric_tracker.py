"""What the training loop keeps account of: loss terms as they come, averaged weights, and which epoch was best."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, distributed, nn

from tstk.core.types import Flow
from tstk.errors import OptionError, TrainingError
from tstk.training.distributed import whole_state

T = TypeVar("T")


class Watcher(Protocol):
    """Who is told how training goes: a progress bar, a metrics file, a test."""

    def begin(self, steps: int, epochs: int) -> None:
        """Training starts."""

    def step(self, step: int, epoch: int, terms: dict[str, float], speed: float) -> None:
        """Some steps are done: means of the loss terms since the last call, and series per second."""

    def epoch(self, row: dict[str, Any], improved: bool) -> None:
        """An epoch is over: its row of metrics, and whether its weights are the best so far."""


class Ledger:
    """Sums of loss terms, brought from the device now and then; stops training when one is not finite."""

    def __init__(self, watcher: Watcher | None, sync: bool) -> None:
        self.watcher, self.sync = watcher, sync
        self.pending: list[tuple[int, int, dict[str, Tensor]]] = []

    def open(self, epoch: int) -> None:
        """An epoch begins."""
        self.number, self.sums, self.rows, self.waited = epoch, dict[str, float](), 0, 0.0
        self.begin = self.flushed = time.perf_counter()

    def state(self) -> dict[str, Any]:
        """What an epoch under way has seen, JSON-able; `flush` comes first."""
        seconds = time.perf_counter() - self.begin
        return {"sums": self.sums, "rows": self.rows, "seconds": seconds, "waited": self.waited}

    def take(self, epoch: int, state: dict[str, Any]) -> None:
        """Go on with an epoch where `state` was."""
        self.open(epoch)
        self.sums, self.rows, self.begin = dict(state["sums"]), state["rows"], self.begin - state["seconds"]
        self.waited = state["waited"]

    def loading(self, groups: Iterator[T]) -> Iterator[T]:
        """The same, and the time that each takes to come counts as loading."""
        begin = time.perf_counter()
        for group in groups:
            self.waited += time.perf_counter() - begin
            yield group
            begin = time.perf_counter()

    def enter(self, step: int, rows: int, flows: list[Flow]) -> None:
        """A step is done: the flows of its micro-batches, of `rows` series in all."""
        for flow in flows:
            assert flow.total is not None
            terms = {k: v.detach() for k, v in {**flow.terms, **flow.logs, "loss": flow.total}.items()}
            self.pending.append((step, rows // len(flows), terms))
        # reading a number makes a GPU wait, so there it is done four times a second
        if self.sync or time.perf_counter() - self.flushed > 0.25:
            self.flush()

    def flush(self) -> None:
        """Read the numbers that are still on the device.

        Raises:
            TrainingError: one is not finite
        """
        recent, count = dict[str, float](), 0
        for step, rows, terms in self.pending:
            numbers = torch.stack([v.float() for v in terms.values()]).tolist()
            for name, value in zip(terms, numbers, strict=True):
                check_finite(f"the loss term {name!r}", value, f"at step {step}", self.number)
                recent[name] = recent.get(name, 0.0) + value * rows
                # step by step, so that the sum does not depend on when it was flushed
                self.sums[name] = self.sums.get(name, 0.0) + value * rows
            count += rows
        self.rows += count
        now = time.perf_counter()
        if self.watcher and self.pending:
            self.watcher.step(
                self.pending[-1][0],
                self.number,
                {k: v / count for k, v in recent.items()},
                self.rows / max(now - self.begin, 1e-9),
            )
        self.pending, self.flushed = [], now

    def close(self) -> dict[str, Any]:
        """The epoch's row of metrics, of all processes: mean loss terms, speed, and what of the time went into
        loading."""
        self.flush()
        sums, rows = self._of_all()
        seconds = max(time.perf_counter() - self.begin, 1e-9)
        return {
            "epoch": self.number,
            "train": {k: v / max(rows, 1) for k, v in sums.items()},
            "series_per_second": round(rows / seconds, 1),
            "seconds_training": round(seconds, 3),
            "seconds_loading": round(self.waited, 3),
        }

    def _of_all(self) -> tuple[dict[str, float], float]:
        """Sums and rows over all processes."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return self.sums, self.rows
        device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
        both = torch.tensor([*self.sums.values(), self.rows], dtype=torch.float64, device=device)
        distributed.all_reduce(both)
        *sums, rows = both.tolist()
        return dict(zip(self.sums, sums, strict=True)), rows


class Average:
    """An exponential running average of weights, which can take their place for a while."""

    def __init__(self, weights: Sequence[Tensor], decay: float) -> None:
        if not 0 <= decay < 1:
            raise OptionError(f"average={decay}: expected a decay of at least 0 and less than 1, such as 0.998")
        self.weights, self.decay, self.steps = list(weights), decay, 0
        self.mean = [w.detach().clone() for w in weights] if decay else []

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are after a step."""
        if self.mean:
            self.steps += 1
            # the first steps count for little: they are far from where the weights are going
            decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
            torch._foreach_lerp_(self.mean, self.weights, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the average is where the weights were."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for mean, weight in zip(self.mean, self.weights, strict=False):
            held = weight.clone()  # by value: who else knows the weights (FSDP, a compiled graph) need not be told
            weight.copy_(mean)
            mean.copy_(held)


class Judge:
    """Which epoch's weights to keep, and when to give up.

    A validation part is a small sample: among epochs that it cannot tell from the best, the latest is kept, whose rate
    has fallen further (the one-standard-error rule of Breiman et al. 1984, with "simpler" read as "more settled").
    """

    def __init__(self, select: str, patience: int | None) -> None:
        self.select, self.patience = select, patience
        self.best: dict[str, Any] = {}
        self.state: dict[str, Tensor] = {}
        self.best_score: float | None = None
        self.slack = 0.0
        self.idle = 0

    def improved(self, row: dict[str, Any], pipeline: nn.Module) -> bool:
        """Whether an epoch is the one to keep so far; if it is, its weights are remembered."""
        score, slack = self._score(row)
        progress = self.best_score is None or score > self.best_score
        self.idle = 0 if progress else self.idle + 1
        if progress:
            self.best_score, self.slack = score, slack
        elif self.best_score is None or score < self.best_score - self.slack:
            return False
        self.best = row
        self.state = {k: v.cpu().clone() for k, v in whole_state(pipeline).items()}
        return True

    def numbers(self) -> dict[str, Any]:
        """What was decided so far, JSON-able; the weights are in `state`."""
        return {"best": self.best, "score": self.best_score, "slack": self.slack, "idle": self.idle}

    def take(self, numbers: dict[str, Any], state: dict[str, Tensor]) -> None:
        """Go on where `numbers` were told."""
        self.best = dict(numbers["best"])
        self.best_score, self.slack, self.idle = numbers["score"], numbers["slack"], numbers["idle"]
        self.state = state

    def _score(self, row: dict[str, Any]) -> tuple[float, float]:
        """An epoch's score, higher is better, and by how much a later epoch may miss it."""
        val = row["val"]
        if self.select == "last":
            return row["epoch"], 0.0
        if self.select == "score" and "accuracy" in val:
            return val["accuracy"], val["accuracy_se"]
        if self.select == "score" and "mse" in val:
            return -val["mse"], 0.0
        return -val["loss"], 0.0

    @property
    def weary(self) -> bool:
        """Whether there was no progress for longer than `patience`."""
        return self.patience is not None and self.idle >= self.patience


def check_finite(what: str, value: float, when: str, epoch: int) -> None:
    """Stop training where a number says that it has gone wrong."""
    if not math.isfinite(value):
        kept = " and the best weights so far were kept" if epoch > 1 else ""
        raise TrainingError(
            f"{what} became {value} {when} (epoch {epoch}); training stopped{kept}. "
            "Try a lower --lr, a smaller --clip or --precision fp32"
        )
