"""Progress of training: a bar on a terminal, a line now and then where there is none."""

from __future__ import annotations

import time
from typing import Any

import click
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from tstk.cli.output import console
from tstk.evaluation.formatting import MEASURES, number


class Bar:
    """A bar over all steps with epoch, loss terms, speed, time left and the last validation."""

    def __init__(self) -> None:
        self.progress = Progress(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[terms]}"),
            TextColumn("[dim]{task.fields[speed]}[/dim]"),
            TimeRemainingColumn(),
            TextColumn("[green]{task.fields[val]}"),
            console=console(stderr=True),
            transient=True,
        )

    def begin(self, steps: int, epochs: int) -> None:
        """Training starts."""
        self.steps, self.shown = steps, 0.0
        self.task = self.progress.add_task("", total=steps, epoch=1, epochs=epochs, terms="", speed="", val="")
        self.progress.start()

    def step(self, step: int, epoch: int, terms: dict[str, float], speed: float) -> None:
        """Some steps are done; nobody reads more than ten numbers a second."""
        now = time.monotonic()
        if now - self.shown < 0.1 and step < self.steps:
            return
        self.shown = now
        self.progress.update(self.task, completed=step, epoch=epoch, terms=_pairs(terms), speed=f"{speed:,.0f}/s")

    def epoch(self, row: dict[str, Any], improved: bool) -> None:
        """An epoch is over."""
        self.progress.update(self.task, val=_val(row, 1) + (" best" if improved else ""))

    def end(self) -> None:
        """Training is over, well or not."""
        self.progress.stop()


class Lines:
    """A line for about every tenth epoch, the first and the last."""

    def begin(self, steps: int, epochs: int) -> None:
        """Training starts."""
        self.epochs, self.every, self.start = epochs, max(1, round(epochs / 10)), time.monotonic()
        self.before: int | None = None

    def step(self, step: int, epoch: int, terms: dict[str, float], speed: float) -> None:
        """Some steps are done: nothing to say yet."""

    def epoch(self, row: dict[str, Any], improved: bool) -> None:
        """An epoch is over."""
        at = row["epoch"]
        self.before = at - 1 if self.before is None else self.before  # a resumed run has some behind it
        if at in (1, self.epochs) or at % self.every == 0:
            share = row["seconds_loading"] / (row["seconds_training"] or 1)
            loading = f"  {share:.0%} of it loading" if share > 0.1 else ""
            left = (time.monotonic() - self.start) / (at - self.before) * (self.epochs - at)
            click.echo(
                f"epoch {at}/{self.epochs}  train {_pairs(row['train'])}  {_val(row)}{'  ' if row['val'] else ''}"
                f"{row['series_per_second']:,.0f} series/s{loading}  {left:.0f} s left",
                err=True,
            )

    def end(self) -> None:
        """Training is over, well or not."""


def watcher() -> Bar | Lines:
    """What suits the terminal, or its absence."""
    return Bar() if console(stderr=True).is_terminal else Lines()


def _pairs(terms: dict[str, float]) -> str:
    # a single term is the loss itself
    shown = {k: v for k, v in terms.items() if k != "loss"} if len(terms) > 2 else {"loss": terms["loss"]}
    return " ".join(f"{k} {number(v)}" for k, v in shown.items())


def _val(row: dict[str, Any], most: int | None = None) -> str:
    if not row["val"]:
        return ""
    scores = {k: v for k, v in row["val"].items() if k in MEASURES} or {"loss": row["val"]["loss"]}
    return "val " + " ".join(f"{k} {number(v)}" for k, v in [*scores.items()][:most])
