"""Everything a report is made from: the files of a run, its pipeline, its data, and what of them to show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from torch import Tensor

from tstk.config.records import RunConfig, RunResult, read_history
from tstk.config.resolve import Config
from tstk.config.run_directory import RESULT_FILE, resolve_run_dir
from tstk.data.data_module import DataModule
from tstk.data.identity import locate_run_data, why_no_data
from tstk.errors import DataError, OptionError
from tstk.nn.devices import default_device
from tstk.plot.plot_data import PlotData, choose_split
from tstk.runs.checkpoint import load
from tstk.training.small_data import read_data


@dataclass(frozen=True)
class Selection:
    """What a report shows of the data; fields that are empty leave it to each section.

    Args:
        channels: names or numbers of the channels
        samples: numbers of the series in the split, from 0, or their ids
        window: first and last (exclusive) sample of a series, or of a window and its future
    """

    channels: tuple[int | str, ...] = ()
    samples: tuple[int | str, ...] = ()
    window: tuple[int, int] | None = None


@dataclass
class RunContext(PlotData):
    """A run, its pipeline and its data; predictions are shown on the split `split`: test, or validation without one.

    Args:
        run_dir: run directory
        run_config: its config
        result: its scores; None if training did not finish
        history: one row per epoch, as in metrics.jsonl
        data: training data with the splits of the run
        selection: what to show
        applied: fields of the selection that a section has asked for
    """

    run_dir: Path
    run_config: RunConfig
    result: RunResult | None
    history: list[dict[str, Any]]
    data: DataModule
    selection: Selection = field(default_factory=Selection)
    applied: set[str] = field(default_factory=set)

    @property
    def split_name(self) -> str:
        """Name of the split."""
        return "validation" if self.data.test is None else "test"

    def select_rows(self, max_rows: int) -> Tensor:
        """Return the rows of the series to show: those that were chosen, or at most `max_rows` evenly spaced ones."""
        self.applied.add("samples")
        if self.selection.samples:
            return torch.tensor([self.find_sample(sample) for sample in self.selection.samples])
        return self.sample_rows(max_rows)

    def select_channels(self, default: Sequence[int] | None = None) -> list[int]:
        """Return the numbers of the channels to show: those that were chosen, or the default ones.

        Without `default` these are the first two and the last: the one of most interest is often the first or the last.
        """
        self.applied.add("channels")
        last = len(self.channels) - 1
        default = sorted({0, min(1, last), last}) if default is None else default
        return [self.find_channel(channel) for channel in self.selection.channels] or list(default)

    def describe_channels(self, shown: Sequence[int]) -> str:
        """Return a sentence, after a space, on the number of channels if not all are shown; else an empty text."""
        count = len(self.channels)
        return f" {len(shown)} of {count} channels are shown; --channel chooses others." if len(shown) < count else ""

    @property
    def window(self) -> tuple[int, int] | None:
        """First and last (exclusive) sample to show of a series; None leaves it to the section."""
        self.applied.add("window")
        return self.selection.window

    def check_selection(self) -> None:
        """Raise OptionError if no section has asked for something that was selected."""
        for name, option in (("channels", "--channel"), ("samples", "--sample"), ("window", "--window")):
            if getattr(self.selection, name) and name not in self.applied:
                raise OptionError(
                    f"{option} has no effect on the report of this run, of which no section shows chosen {name}; "
                    "remove it"
                )


def load_context(run: str | Path, data_root: str | None = None, selection: Selection | None = None) -> RunContext:
    """Load a run and its data.

    Args:
        run: run directory
        data_root: folder to look up data sets by name in
        selection: what to show of the data

    Raises:
        CheckpointError: the run cannot be loaded, or one of its files is damaged
        UnknownNameError: its data set is not found
        DataError: its data cannot be read, or it has none
        OptionError: there is no such channel or series
    """
    run_dir = resolve_run_dir(run)
    run_config = RunConfig.read(run_dir)
    if reason := why_no_data(run_config):
        raise DataError(
            f"{reason}, and this command uses those of the run; draw figures of others: tstk plot KIND "
            f"{quote(str(run))} --data FILE --out FIGURE"
        )
    pipeline = load(run_dir).to(default_device())
    data = read_data(Config({**run_config.values, "data": locate_run_data(run_config, data_root)}), data_root)
    result = RunResult.read(run_dir) if (run_dir / RESULT_FILE).is_file() else None
    split, name = choose_split(data)
    seed, history = run_config.options("train")["seed"], read_history(run_dir)
    context = RunContext(
        pipeline, split, name, seed, run_dir, run_config, result, history, data, selection or Selection()
    )
    context.select_rows(1)
    context.select_channels()
    context.applied.clear()
    return context
