"""Progress of training: a bar on a terminal or in a notebook, otherwise a line every few epochs."""

from __future__ import annotations

import time
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from tstk.cli.output import echo, make_console
from tstk.evaluation.formatting import MAIN_METRICS, format_number
from tstk.training.callbacks import Callback

if TYPE_CHECKING:
    from tstk.training.state import TrainState


class ProgressBar(Callback):
    """Progress bar over all steps with epoch, losses, speed, remaining time and the last validation."""

    def __init__(self) -> None:
        self.progress = Progress(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[losses]}", markup=False),
            TextColumn("{task.fields[speed]}", style="dim"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[val]}", style="green", markup=False),
            console=make_console(stderr=True),
            transient=True,
        )

    def on_fit_start(self, state: TrainState) -> None:
        """Start the bar."""
        self.last_refresh = 0.0
        self.task = self.progress.add_task(
            "", total=state.total_steps, epoch=state.epoch, epochs=state.epochs, losses="", speed="", val=""
        )
        self.progress.start()

    def on_log(self, state: TrainState, losses: dict[str, float], series_per_second: float) -> None:
        """Update the bar, at most ten times a second."""
        now = time.monotonic()
        if now - self.last_refresh < 0.1 and state.step < state.total_steps:
            return
        self.last_refresh = now
        speed = f"{series_per_second:,.0f}/s"
        self.progress.update(
            self.task, completed=state.step, epoch=state.epoch, losses=_format_losses(losses), speed=speed
        )

    def on_validation_end(self, state: TrainState, metrics: dict[str, Any]) -> None:
        """Show the validation scores."""
        is_best = state.best_metrics is metrics
        self.progress.update(self.task, val=_format_validation(metrics, 1) + (" best" if is_best else ""))

    def teardown(self) -> None:
        """Remove the bar, also after an error."""
        with suppress(OSError):  # the terminal was closed
            self.progress.stop()


class ProgressLines(Callback):
    """One line for about every tenth part of training, and for the first and last epoch."""

    def on_fit_start(self, state: TrainState) -> None:
        """Choose the epochs to print."""
        self.every, self.start_time = max(1, round(state.epochs / 10)), time.monotonic()
        self.epochs_before = state.epoch - 1  # not 0 in a resumed run

    def on_validation_end(self, state: TrainState, metrics: dict[str, Any]) -> None:
        """Print the epoch, if it is one of those to print."""
        epoch, epochs = state.epoch, state.epochs
        if epoch in (1, epochs) or epoch % self.every == 0:
            fraction = metrics["seconds_loading"] / (metrics["seconds_training"] or 1)
            loading = f"  {fraction:.0%} of it loading" if fraction > 0.1 else ""
            left = (time.monotonic() - self.start_time) / (epoch - self.epochs_before) * (epochs - epoch)
            echo(
                f"epoch {epoch}/{epochs}  train {_format_losses(metrics['train'])}  "
                f"{_format_validation(metrics)}{'  ' if metrics['val'] else ''}"
                f"{metrics['series_per_second']:,.0f} series/s{loading}  {left:.0f} s left",
                err=True,
            )


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


def _format_validation(metrics: dict[str, Any], limit: int | None = None) -> str:
    if not metrics["val"]:
        return ""
    scores = {k: v for k, v in metrics["val"].items() if k in MAIN_METRICS} or {"loss": metrics["val"]["loss"]}
    return "val " + " ".join(f"{k} {format_number(v)}" for k, v in [*scores.items()][:limit])
