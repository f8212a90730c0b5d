"""`last/` of a run directory: the state from which an unfinished run is resumed, bit for bit.

    last/state.json                        numbers, and the name of the file with the tensors
    last/step-120-89abcdef.safetensors     tensors

state.json is replaced once its tensors are on the disk, and the previous tensors are removed after that, so that one
pair is complete at every moment. A step may be saved twice, before and after its validation, so no two files have the
same name. state.json holds the SHA-256 of itself, of the tensors, of config.json and of the rows
of metrics.jsonl; all are checked on reading. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any

from torch import Tensor

from tstk.config.records import read_record, refuse_later_format, write_record
from tstk.config.run_directory import (
    CONFIG_FILE,
    METRICS_FILE,
    RESULT_FILE,
    STATE_FILE,
    STATE_FILES,
    STATE_FOLDER,
    WEIGHTS_FILE,
    remove_own_files,
    remove_saved_state,
)
from tstk.core.pipeline import Pipeline
from tstk.errors import CheckpointError
from tstk.files import append_line, remove_leftovers, truncate_file
from tstk.runs.checkpoint import collect_versions, read_tensors, save_weights, write_tensors
from tstk.training.distributed import full_tensor

FORMAT_VERSION = 1
SEPARATOR = "/"
"""Between the keys of nested dictionaries, in the names of tensors in a file; parameters have dots in their names."""


@dataclass
class ResumeSnapshot:
    """The saved state of a training run.

    Args:
        state: what `TrainingCheckpoint.state_dict` returned
        history: metrics of the finished epochs
        path: the file with the tensors, for messages
    """

    state: dict[str, Any]
    history: list[dict[str, Any]]
    path: Path


class ResumeStore:
    """Writes the metrics and best weights of a run after each epoch, and its training state in between.

    Saving the training state is throttled to at most `MAX_TIME_FRACTION` of the training time.

    Args:
        run_dir: the run directory, which holds config.json
        is_writer: whether this process writes; of several only the first does, and all read
    """

    MAX_TIME_FRACTION = 0.02

    def __init__(self, run_dir: Path, is_writer: bool = True) -> None:
        self.run_dir, self.is_writer = run_dir, is_writer
        self.folder, self.metrics_path = run_dir / STATE_FOLDER, run_dir / METRICS_FILE
        self.state_path = self.folder / STATE_FILE
        self.save_seconds: float | None = None
        self.last_save_time = time.perf_counter()

    def exists(self) -> bool:
        """Return whether a training state was saved."""
        return self.state_path.is_file()

    def is_due(self, num_bytes: int) -> bool:
        """Return whether the training state may be saved without exceeding `MAX_TIME_FRACTION`.

        Args:
            num_bytes: bytes of the weights, from which the time of the first save is estimated (for a slow disk)
        """
        expected_seconds = 0.01 + 5 * num_bytes / 2e8 if self.save_seconds is None else self.save_seconds
        return (time.perf_counter() - self.last_save_time) * self.MAX_TIME_FRACTION >= expected_seconds

    def save(self, state: dict[str, Any]) -> None:
        """Save the training state, replacing the previous one; every process must call this.

        Args:
            state: nested dictionaries of tensors and JSON-able values, among them `step`

        Raises:
            FileError: the disk is full or read-only; the previous state is still complete
        """
        begin = time.perf_counter()
        tensors, json_state = split_tensors(state)
        tensors = {name: full_tensor(value).cpu() for name, value in tensors.items()}
        if not self.is_writer:
            return
        path = self.folder / f"step-{state['step']}-{token_hex(4)}.safetensors"
        digest = write_tensors(path, tensors)
        metrics = self._fsync_metrics()
        header = {
            "format": FORMAT_VERSION,
            "tensors": path.name,
            "tensors_sha256": digest,
            "config": self._hash_config(),
            "versions": collect_versions(),
            "metrics": len(metrics),
            "metrics_sha256": hashlib.sha256(metrics).hexdigest(),
        }
        write_record(self.state_path, header | json_state)
        remove_own_files(self.folder, STATE_FILES, keep=(self.state_path, path))
        self.last_save_time = time.perf_counter()
        self.save_seconds = self.last_save_time - begin

    def save_epoch(
        self, metrics: dict[str, Any], pipeline: Pipeline, best_weights: Mapping[str, Tensor] | None
    ) -> None:
        """Append the metrics of an epoch to metrics.jsonl, and save its weights if they are the best so far.

        Args:
            metrics: of the epoch
            pipeline: the pipeline being trained
            best_weights: the weights to save, None unless this is the best epoch

        Raises:
            FileError: the disk is full or read-only; the previous files are still complete
        """
        if self.is_writer:
            append_line(self.metrics_path, json.dumps(metrics) + "\n")
            if best_weights is not None:
                save_weights(pipeline, self.run_dir / WEIGHTS_FILE, best_weights)

    def read(self) -> ResumeSnapshot | None:
        """Read the saved training state, or return None if there is none.

        Rows of metrics.jsonl that were written after the state was saved are removed.

        Raises:
            CheckpointError: a file is damaged or does not belong to this run
        """
        if self.is_writer:
            remove_leftovers(self.run_dir, CONFIG_FILE, WEIGHTS_FILE, RESULT_FILE)
            remove_leftovers(self.folder, STATE_FILE, "step-*.safetensors")
        if not self.exists():
            self._truncate_metrics(0)
            return None
        json_state = self.read_state()
        tensors_path = self.folder / Path(json_state["tensors"]).name
        if not tensors_path.is_file():
            raise CheckpointError(
                f"{self.state_path} names {tensors_path.name!r}, which does not exist; {self._remedy}"
            )
        tensors = read_tensors(tensors_path, self._remedy, json_state.get("tensors_sha256"))
        history = self._read_history(json_state)
        self._truncate_metrics(json_state["metrics"])
        try:
            return ResumeSnapshot(merge_tensors(json_state, tensors), history, tensors_path)
        except (AttributeError, TypeError) as e:
            raise self._report_damage(self.state_path, e) from None

    def read_state(self) -> dict[str, Any]:
        """Read state.json, and check that config.json is the one with which it was written.

        Raises:
            CheckpointError: it is damaged or does not belong to this run
        """
        json_state = read_record(self.state_path, self._remedy)
        header = {"format": int, "tensors": str, "config": str, "metrics": int}
        if not isinstance(json_state, dict) or not all(isinstance(json_state.get(k), t) for k, t in header.items()):
            raise self._report_damage(self.state_path, "it lacks what every state has")
        refuse_later_format(json_state, FORMAT_VERSION, str(self.state_path))
        if json_state["config"] != self._hash_config():
            raise CheckpointError(
                f"{self.run_dir / CONFIG_FILE} has changed since {self.state_path} was written; restore it, or train "
                "with these options in another --out"
            )
        return json_state

    def _read_history(self, json_state: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the rows of metrics.jsonl that had been written when the state was saved."""
        size = json_state["metrics"]
        content = self.metrics_path.read_bytes()[:size] if self.metrics_path.is_file() else b""
        if len(content) != size:
            raise CheckpointError(f"{self.metrics_path} is shorter than {self.state_path} says; {self._remedy}")
        if json_state.get("metrics_sha256") not in (None, hashlib.sha256(content).hexdigest()):
            raise self._report_damage(self.metrics_path, f"it does not match its SHA-256 in {self.state_path.name}")
        try:
            return [dict(json.loads(line)) for line in content.splitlines()]
        except (ValueError, TypeError, RecursionError) as e:
            raise self._report_damage(self.metrics_path, e) from None

    @property
    def _remedy(self) -> str:
        return f"remove {self.folder} to start this run again from its first step"

    def _report_damage(self, path: Path, reason: object) -> CheckpointError:
        return CheckpointError(f"{path} is damaged ({reason}); {self._remedy}")

    def remove(self) -> None:
        """Remove the training state of a finished run, which is several times as large as its weights."""
        if self.is_writer:
            remove_saved_state(self.run_dir)

    def _hash_config(self) -> str:
        return hashlib.sha256((self.run_dir / CONFIG_FILE).read_bytes()).hexdigest()

    def _fsync_metrics(self) -> bytes:
        """Flush metrics.jsonl to the disk and return its content."""
        if not self.metrics_path.is_file():
            return b""
        with self.metrics_path.open("rb") as file:
            os.fsync(file.fileno())
            return file.read()

    def _truncate_metrics(self, size: int) -> None:
        if self.is_writer and self.metrics_path.is_file():
            truncate_file(self.metrics_path, size)


def split_tensors(state: Mapping[str, Any], prefix: str = "") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split nested dictionaries into their tensors, by the path of keys to each, and the rest."""
    tensors, rest = dict[str, Tensor](), dict[str, Any]()
    for key, value in state.items():
        if isinstance(value, Tensor):
            tensors[f"{prefix}{key}"] = value
        elif isinstance(value, Mapping):
            inner, rest[key] = split_tensors(value, f"{prefix}{key}{SEPARATOR}")
            tensors |= inner
        else:
            rest[key] = value
    return tensors, rest


def merge_tensors(rest: dict[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Put the tensors that `split_tensors` took out back into their places."""
    for path, value in tensors.items():
        *keys, last = path.split(SEPARATOR)
        table = rest
        for key in keys:
            table = table.setdefault(key, {})
        table[last] = value
    return rest
