"""`last/` of a run directory: the state from which an unfinished run is resumed, bit for bit.

    last/state.json                numbers, and the name of the file with the tensors
    last/step-120.safetensors      tensors

state.json is replaced once its tensors are on the disk, and the previous tensors are removed after that, so that one
pair is complete at every moment. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from tstk.config.run_directory import (
    CONFIG_FILE,
    METRICS_FILE,
    RESULT_FILE,
    STATE_FILE,
    STATE_FILES,
    STATE_FOLDER,
    WEIGHTS_FILE,
    remove_own_files,
)
from tstk.core.pipeline import Pipeline
from tstk.errors import CheckpointError
from tstk.files import append_line, explain_os_error, remove_leftovers, truncate_file, write_json
from tstk.plugins.distribution import CORE_DISTRIBUTION
from tstk.runs.checkpoint import collect_versions, read_tensors, save_weights, write_tensors
from tstk.training.distributed import full_tensor

FORMAT_VERSION = 1
SEPARATOR = "/"
"""Between the keys of nested dictionaries, in the names of tensors in a file; parameters have dots in their names."""


@dataclass
class ResumeSnapshot:
    """The saved state of a training run.

    Args:
        state: what `tstk.training.state.state_dict` returned
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
        path = self.folder / f"step-{state['step']}.safetensors"
        write_tensors(path, tensors)
        header = {
            "format": FORMAT_VERSION,
            "tensors": path.name,
            "config": self._hash_config(),
            "versions": collect_versions(),
        }
        write_json(self.state_path, header | {"metrics": self._fsync_metrics()} | json_state)
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
        remedy = f"; remove {self.folder} to start this run again from its first step"
        if self.is_writer:
            remove_leftovers(self.run_dir, CONFIG_FILE, WEIGHTS_FILE, RESULT_FILE)
            remove_leftovers(self.folder, "*")
        if not self.exists():
            self._truncate_metrics(0)
            return None
        try:
            json_state = json.loads(self.state_path.read_text(encoding="utf-8"))
            format_version, tensors_path = int(json_state["format"]), self.folder / str(json_state["tensors"])
            config_hash, metrics_size = json_state["config"], int(json_state["metrics"])
        except OSError as e:
            raise explain_os_error(self.state_path, e, "read") from None
        except (ValueError, KeyError, TypeError, RecursionError) as e:
            raise CheckpointError(f"{self.state_path} is damaged ({type(e).__name__}: {e}){remedy}") from None
        if format_version > FORMAT_VERSION:
            version = json_state.get("versions", {}).get("tstk", "a later version")
            raise CheckpointError(
                f"{self.state_path} was written by tstk {version}, in a format this version does not know: "
                f"pip install --upgrade {CORE_DISTRIBUTION}"
            )
        if config_hash != self._hash_config():
            raise CheckpointError(
                f"{self.run_dir / 'config.json'} has changed since {self.state_path} was written; restore it, or train "
                "with these options in another --out"
            )
        if tensors_path.parent != self.folder or not tensors_path.is_file():
            raise CheckpointError(f"{self.state_path} names {tensors_path.name}, which does not exist{remedy}")
        try:
            tensors = read_tensors(tensors_path)
        except CheckpointError as e:
            raise CheckpointError(f"{e}{remedy}") from None
        if self._get_metrics_size() < metrics_size:
            raise CheckpointError(f"{self.metrics_path} is shorter than {self.state_path} says{remedy}")
        try:
            lines = self.metrics_path.read_bytes()[:metrics_size].splitlines() if metrics_size else []
            history = [json.loads(line) for line in lines]
        except (ValueError, RecursionError) as e:
            raise CheckpointError(f"{self.metrics_path} is damaged ({e}){remedy}") from None
        self._truncate_metrics(metrics_size)
        try:
            return ResumeSnapshot(merge_tensors(json_state, tensors), history, tensors_path)
        except (AttributeError, TypeError) as e:
            raise CheckpointError(f"{self.state_path} is damaged ({type(e).__name__}: {e}){remedy}") from None

    def remove(self) -> None:
        """Remove the training state of a finished run, which is several times as large as its weights."""
        if self.is_writer and self.folder.is_dir():
            self.state_path.unlink(missing_ok=True)  # first, so that an interrupted removal leaves no state
            remove_own_files(self.folder, STATE_FILES)
            with suppress(OSError):  # there are files of others
                self.folder.rmdir()

    def _hash_config(self) -> str:
        return hashlib.sha256((self.run_dir / "config.json").read_bytes()).hexdigest()

    def _get_metrics_size(self) -> int:
        return self.metrics_path.stat().st_size if self.metrics_path.is_file() else 0

    def _fsync_metrics(self) -> int:
        """Flush metrics.jsonl to the disk and return its size in bytes."""
        if self.metrics_path.is_file():
            with self.metrics_path.open("rb") as file:
                os.fsync(file.fileno())
        return self._get_metrics_size()

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
