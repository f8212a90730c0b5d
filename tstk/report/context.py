"""Everything a report is made from: the files of a run, its pipeline, and its data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tstk.config.records import RunConfig, RunResult, read_history
from tstk.config.resolve import Config
from tstk.config.run_directory import RESULT_FILE, resolve_run_dir
from tstk.core.pipeline import Pipeline
from tstk.core.types import Series, Split, StepOutput
from tstk.data.data_module import DataModule
from tstk.data.identity import locate_run_data
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
        run_config: its config
        result: its scores; None if training did not finish
        history: one row per epoch, as in metrics.jsonl
        pipeline: pipeline with the selected weights
        data: training data with the splits of the run
    """

    run_dir: Path
    run_config: RunConfig
    result: RunResult | None
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


def get_samples(pipeline: Pipeline, series: Series) -> Tensor:
    """Return the samples [B, C, T] of a batch in the units of the file, NaN where missing.

    They are float64 if an offset was subtracted when they were read.
    """
    return pipeline.add_offset(series.x.masked_fill(~series.observed_mask, torch.nan).cpu())


def to_data_units(pipeline: Pipeline, values: Tensor, step_output: StepOutput) -> Tensor:
    """Return normalized samples in the units of the file.

    Args:
        pipeline: that normalized them
        values: [B, C, T], or [B * C, 1, T] of folded channels
        step_output: of the batch

    Returns:
        [B, C, T], float64 if an offset was subtracted when the data were read
    """
    if pipeline.channel_independent:
        values = values[:, 0].unflatten(0, (-1, pipeline.spec.channels))
    if step_output.loc is not None and step_output.scale is not None:
        values = values * step_output.scale + step_output.loc
    return pipeline.add_offset((values * pipeline.std + pipeline.mean).cpu())


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
    pipeline, run_config = load(run_dir).to(default_device()), RunConfig.read(run_dir)
    data = read_data(Config({**run_config.values, "data": locate_run_data(run_config, data_root)}), data_root)
    result = RunResult.read(run_dir) if (run_dir / RESULT_FILE).is_file() else None
    return RunContext(run_dir, run_config, result, read_history(run_dir), pipeline, data)
