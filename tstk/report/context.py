"""All that a report can tell from: the files that a run left, its pipeline, and its data."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tstk.config.resolve import Config
from tstk.config.run_directory import read_config, run_folder
from tstk.core.pipeline import Pipeline
from tstk.data.data_module import Dataset
from tstk.data.datasets import Part
from tstk.errors import CheckpointError
from tstk.runs.checkpoint import load
from tstk.training.small_data import read_data

MOST = 1000
"""Series or windows that are drawn or averaged over at most, evenly chosen; a report should not take minutes."""


@dataclass
class Known:
    """A run as its report sees it.

    Args:
        run: the run directory
        found: its config.json
        result: its result.json; empty if training did not come to its end
        history: a row per epoch, as in metrics.jsonl
        pipeline: with the weights that were kept
        data: what it was trained on, split as it was then
    """

    run: Path
    found: dict[str, Any]
    result: dict[str, Any]
    history: list[dict[str, Any]]
    pipeline: Pipeline
    data: Dataset

    @property
    def part(self) -> Part:
        """The part to show answers on: test, or validation where there is none."""
        return self.data.val if self.data.test is None else self.data.test

    @property
    def part_name(self) -> str:
        """What that part is called."""
        return "validation" if self.data.test is None else "test"

    def some(self, most: int = MOST) -> torch.Tensor:
        """Rows of the part, evenly chosen, in their order: [at most `most`] long."""
        count = len(self.part)
        return torch.arange(count) if count <= most else torch.linspace(0, count - 1, most).long()


def know(run: str | Path, data_root: str | None = None) -> Known:
    """Read everything.

    Args:
        run: its directory
        data_root: folder with data sets to be found by name

    Raises:
        CheckpointError: the run cannot be loaded, or a file in it is damaged
        NameUnknown, DataError: its data are not where they were
    """
    folder = run_folder(run)
    pipeline, found = load(folder), read_config(folder)
    data = read_data(Config(found["config"]), data_root)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Known(folder, found, _result(folder), _history(folder), pipeline.to(device), data)


def _result(folder: Path) -> dict[str, Any]:
    path = folder / "result.json"
    return _parsed(path, path.read_text(encoding="utf-8")) if path.is_file() else {}


def _history(folder: Path) -> list[dict[str, Any]]:
    path = folder / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [_parsed(path, line) for line in lines]


def _parsed(path: Path, text: str) -> dict[str, Any]:
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError) as e:
        raise CheckpointError(f"{path} is damaged: {e}") from None
