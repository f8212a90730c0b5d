"""`last/` of a run directory: what an unfinished training goes on from, bit for bit.

    last/state.json                numbers, and the name of the file with the tensors
    last/step-120.safetensors      tensors

state.json is replaced only when the tensors that it names are on the disk, and theirs are removed only after that: at
every moment one pair is whole. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from tstk.config.run_directory import WEIGHTS, append, write_json
from tstk.core.pipeline import Pipeline
from tstk.errors import CheckpointError
from tstk.plugins.distribution import CORE
from tstk.runs.checkpoint import read_tensors, save_weights, versions, write_tensors

FORMAT = 1
Facts = dict[str, Any]
"""What is no tensor, JSON-able."""


@dataclass
class Saved:
    """What a training goes on from.

    Args:
        tensors: by name
        facts: see `Facts`
        history: the rows of the epochs before
        place: the file, for messages
    """

    tensors: dict[str, Tensor]
    facts: Facts
    history: list[dict[str, Any]]
    place: Path


class Last:
    """Writes metrics and the best weights of a run as they come, and now and then what it goes on from.

    The last never takes more than `SHARE` of the time: the next one waits until that is so.

    Args:
        run: the run directory; config.json is there already
        writes: this process saves; of several only the first does, and all read
    """

    SHARE = 0.02

    def __init__(self, run: Path, writes: bool = True) -> None:
        self.run, self.folder, self.metrics, self.writes = run, run / "last", run / "metrics.jsonl", writes
        self.cost: float | None = None
        self.saved = time.perf_counter()

    def exists(self) -> bool:
        """Whether anything was saved."""
        return (self.folder / "state.json").is_file()

    def due(self, size: int) -> bool:
        """Whether it is time to save.

        Args:
            size: bytes of what learns; as long as nothing was saved, a slow disk is assumed
        """
        cost = 0.01 + 5 * size / 2e8 if self.cost is None else self.cost
        return (time.perf_counter() - self.saved) * self.SHARE >= cost

    def save(self, tensors: dict[str, Tensor], facts: Facts) -> None:
        """Replace what was saved before, if any.

        Args:
            tensors: by name
            facts: `step` among them

        Raises:
            DiskFull: what was saved before is still there
        """
        if not self.writes:
            return
        begin = time.perf_counter()
        path = self.folder / f"step-{facts['step']}.safetensors"
        write_tensors(path, tensors)
        about = {"format": FORMAT, "tensors": path.name, "config": self._config(), "versions": versions()}
        write_json(self.folder / "state.json", about | {"metrics": self._settled()} | facts)
        for other in self.folder.iterdir():
            if other.name not in ("state.json", path.name):
                other.unlink()
        self.saved = time.perf_counter()
        self.cost = self.saved - begin

    def epoch(self, row: dict[str, Any], pipeline: Pipeline, state: Mapping[str, Tensor] | None) -> None:
        """An epoch is over.

        Args:
            row: of metrics.jsonl
            pipeline: that is trained
            state: its weights, if they are the best so far

        Raises:
            DiskFull: what there was is still there
        """
        if self.writes:
            append(self.metrics, json.dumps(row) + "\n")
            if state is not None:
                save_weights(pipeline, self.run / WEIGHTS, state)

    def read(self) -> Saved | None:
        """What was saved, or None if nothing ever was; metrics.jsonl loses the rows that came later.

        Raises:
            CheckpointError: it is damaged, or not of this run
        """
        path = self.folder / "state.json"
        again = f"; remove {self.folder} to start this run again from its first step"
        if not path.is_file():
            self._cut(0)
            return None
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            number, tensors = int(facts["format"]), self.folder / str(facts["tensors"])
            config, metrics = facts["config"], int(facts["metrics"])
        except (ValueError, KeyError, TypeError, OSError, RecursionError) as e:
            raise CheckpointError(f"{path} is damaged ({type(e).__name__}: {e}){again}") from None
        if number > FORMAT:
            wrote = facts.get("versions", {}).get("tstk", "a later version")
            raise CheckpointError(
                f"{path} was written by tstk {wrote}, whose format this version does not know: "
                f"pip install --upgrade {CORE}"
            )
        if config != self._config():
            raise CheckpointError(
                f"{self.run / 'config.json'} has changed since {path} was written; put it back, or train with these "
                "options in another --out"
            )
        if tensors.parent != self.folder or not tensors.is_file():
            raise CheckpointError(f"{path} names {tensors.name}, which is not there{again}")
        try:
            found = read_tensors(tensors)
        except CheckpointError as e:
            raise CheckpointError(f"{e}{again}") from None
        if self._size() < metrics:
            raise CheckpointError(f"{self.metrics} is shorter than {path} says{again}")
        try:
            rows = [json.loads(row) for row in self.metrics.read_bytes()[:metrics].splitlines()] if metrics else []
        except (ValueError, RecursionError) as e:
            raise CheckpointError(f"{self.metrics} is damaged ({e}){again}") from None
        self._cut(metrics)
        return Saved(found, facts, rows, tensors)

    def remove(self) -> None:
        """The run is finished: what it kept to go on with is several times as large as its weights."""
        if self.writes and self.folder.is_dir():
            # state.json goes first: what is left of an interrupted removal is not taken for a state
            for path in sorted(self.folder.iterdir(), key=lambda path: path.name != "state.json"):
                path.unlink()
            self.folder.rmdir()

    def _config(self) -> str:
        return hashlib.sha256((self.run / "config.json").read_bytes()).hexdigest()

    def _size(self) -> int:
        return self.metrics.stat().st_size if self.metrics.is_file() else 0

    def _settled(self) -> int:
        """Bytes of metrics.jsonl, which are on the disk from now on."""
        if self.metrics.is_file():
            with self.metrics.open("rb") as file:
                os.fsync(file.fileno())
        return self._size()

    def _cut(self, size: int) -> None:
        if self.writes and self.metrics.is_file():
            os.truncate(self.metrics, size)
