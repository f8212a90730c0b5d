"""Everything a report is made from: the files of a run, its pipeline, and its data."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tstk.config.resolve import Config
from tstk.config.run_directory import read_run_config, resolve_run_dir
from tstk.core.pipeline import Pipeline
from tstk.core.types import Split
from tstk.data.data_module import DataModule
from tstk.errors import CheckpointError
from tstk.nn.devices import default_device
from tstk.runs.checkpoint import load
from tstk.training.small_data import read_data

MAX_ROWS = 1000
"""Number of series or windows used at most, so that a report does not take minutes."""


@dataclass
class RunContext:
    """A run, its pipeline and its data.

    Args:
        run_dir: run directory
        run_config: contents of config.json
        result: contents of result.json; empty if training did not finish
        history: one row per epoch, as in metrics.jsonl
        pipeline: pipeline with the selected weights
        data: training data with the splits of the run
    """

    run_dir: Path
    run_config: dict[str, Any]
    result: dict[str, Any]
    history: list[dict[str, Any]]
    pipeline: Pipeline
    data: DataModule

    @property
    def split(self) -> Split:
        """The split to show predictions on: test, or validation if there is no test split."""
        return self.data.val if self.data.test is None else self.data.test

    @property
    def split_name(self) -> str:
        """Name of that split."""
        return "validation" if self.data.test is None else "test"

    def sample_rows(self, max_rows: int = MAX_ROWS) -> torch.Tensor:
        """Return at most `max_rows` evenly spaced row numbers of the split, in ascending order."""
        count = len(self.split)
        return torch.arange(count) if count <= max_rows else torch.linspace(0, count - 1, max_rows).long()


def load_context(run: str | Path, data_root: str | None = None) -> RunContext:
    """Load a run and its data.

    Args:
        run: run directory
        data_root: folder to look up data sets by name in

    Raises:
        CheckpointError: the run cannot be loaded, or one of its files is damaged
        UnknownNameError: its data set is not found
        DataError: its data cannot be read
    """
    run_dir = resolve_run_dir(run)
    pipeline, run_config = load(run_dir).to(default_device()), read_run_config(run_dir)
    data = read_data(Config(run_config["config"]), data_root)
    return RunContext(run_dir, run_config, _read_result(run_dir), _read_history(run_dir), pipeline, data)


def _read_result(run_dir: Path) -> dict[str, Any]:
    path = run_dir / "result.json"
    return _parse_json(path, path.read_text(encoding="utf-8")) if path.is_file() else {}


def _read_history(run_dir: Path) -> list[dict[str, Any]]:
    path = run_dir / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [_parse_json(path, line) for line in lines]


def _parse_json(path: Path, text: str) -> dict[str, Any]:
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError) as e:
        raise CheckpointError(f"{path} is damaged: {e}") from None
