"""Progress of training: a bar on a terminal or in a notebook, otherwise a line every few epochs."""

from __future__ import annotations

import time
from importlib.util import find_spec
from typing import Any

import click
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from tstk.cli.output import make_console
from tstk.evaluation.formatting import MAIN_METRICS, format_number


class ProgressBar:
    """Progress bar over all steps with epoch, losses, speed, remaining time and the last validation."""

    def __init__(self) -> None:
        self.progress = Progress(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[losses]}"),
            TextColumn("[dim]{task.fields[speed]}[/dim]"),
            TimeRemainingColumn(),
            TextColumn("[green]{task.fields[val]}"),
            console=make_console(stderr=True),
            transient=True,
        )

    def on_fit_start(self, steps: int, epochs: int) -> None:
        """Start the bar."""
        self.steps, self.last_refresh = steps, 0.0
        self.task = self.progress.add_task("", total=steps, epoch=1, epochs=epochs, losses="", speed="", val="")
        self.progress.start()

    def on_step_end(self, step: int, epoch: int, losses: dict[str, float], speed: float) -> None:
        """Update the bar, at most ten times a second."""
        now = time.monotonic()
        if now - self.last_refresh < 0.1 and step < self.steps:
            return
        self.last_refresh = now
        self.progress.update(
            self.task, completed=step, epoch=epoch, losses=_format_losses(losses), speed=f"{speed:,.0f}/s"
        )

    def on_validation_end(self, row: dict[str, Any], improved: bool) -> None:
        """Show the validation scores."""
        self.progress.update(self.task, val=_format_validation(row, 1) + (" best" if improved else ""))

    def on_fit_end(self) -> None:
        """Remove the bar, also after an error."""
        self.progress.stop()


class ProgressLines:
    """One line for about every tenth part of training, and for the first and last epoch."""

    def on_fit_start(self, steps: int, epochs: int) -> None:
        """Choose the epochs to print."""
        self.epochs, self.every, self.start_time = epochs, max(1, round(epochs / 10)), time.monotonic()
        self.epochs_before: int | None = None

    def on_step_end(self, step: int, epoch: int, losses: dict[str, float], speed: float) -> None:
        """Do nothing: lines are printed after validation."""

    def on_validation_end(self, row: dict[str, Any], improved: bool) -> None:
        """Print the epoch, if it is one of those to print."""
        epoch = row["epoch"]
        if self.epochs_before is None:
            self.epochs_before = epoch - 1  # not 0 in a resumed run
        if epoch in (1, self.epochs) or epoch % self.every == 0:
            share = row["seconds_loading"] / (row["seconds_training"] or 1)
            loading = f"  {share:.0%} of it loading" if share > 0.1 else ""
            left = (time.monotonic() - self.start_time) / (epoch - self.epochs_before) * (self.epochs - epoch)
            click.echo(
                f"epoch {epoch}/{self.epochs}  train {_format_losses(row['train'])}  "
                f"{_format_validation(row)}{'  ' if row['val'] else ''}"
                f"{row['series_per_second']:,.0f} series/s{loading}  {left:.0f} s left",
                err=True,
            )

    def on_fit_end(self) -> None:
        """Do nothing: there is nothing to clean up."""


def make_progress_callback() -> ProgressBar | ProgressLines:
    """Return a bar on a terminal and in a notebook with ipywidgets, which rich needs there; otherwise lines."""
    console = make_console(stderr=True)
    can_draw = console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)
    return ProgressBar() if can_draw else ProgressLines()


def is_interactive() -> bool:
    """Return whether stderr is a terminal or the output of a notebook."""
    console = make_console(stderr=True)
    return console.is_terminal or console.is_jupyter


def _format_losses(losses: dict[str, float]) -> str:
    # a single term equals the loss
    shown = {k: v for k, v in losses.items() if k != "loss"} if len(losses) > 2 else {"loss": losses["loss"]}
    return " ".join(f"{k} {format_number(v)}" for k, v in shown.items())


def _format_validation(row: dict[str, Any], limit: int | None = None) -> str:
    if not row["val"]:
        return ""
    scores = {k: v for k, v in row["val"].items() if k in MAIN_METRICS} or {"loss": row["val"]["loss"]}
    return "val " + " ".join(f"{k} {format_number(v)}" for k, v in [*scores.items()][:limit])
