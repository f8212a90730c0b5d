"""How commands speak: talk goes to stderr, results to stdout, help pages end with examples that work."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from math import log10
from typing import TYPE_CHECKING, Any

import click

from tstk.evaluation.formatting import FURTHER, MEASURES, beaten_by, number

if TYPE_CHECKING:
    from rich.console import Console


def examples(*lines: str) -> str:
    """The last section of a help page."""
    return "\n\n".join(["Examples:", *(f"$ {line}" for line in lines)])


def console(stderr: bool = False) -> Console:
    """Where to print; plain and wide when it is not a terminal."""
    from rich.console import Console

    found = Console(stderr=stderr, highlight=False)
    if not found.is_terminal:
        found.width = 160
    return found


def note(line: str) -> None:
    """A line for the user, beside the results."""
    click.echo(click.style(line, dim=True), err=True)


def as_json(value: Any) -> None:
    """A result for programs."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], right: Sequence[str] = ()) -> None:
    """A table on stdout.

    Args:
        head: names of the columns
        rows: cells; None stays empty
        right: columns of numbers
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="dim")
    for name in head:
        grid.add_column(name, justify="right" if name in right else "left", overflow="fold", no_wrap=name == head[0])
    for row in rows:
        grid.add_row(*("" if cell is None else Text(str(cell)) for cell in row))
    console().print(grid)


def scores(columns: Mapping[str, Mapping[str, Any]]) -> None:
    """Scores by name, one column per part; a standard error stands beside its score.

    Args:
        columns: part -> score -> value; empty parts are left out
    """
    full = {name: part for name, part in columns.items() if part}
    names = dict.fromkeys(k for part in full.values() for k, v in part.items() if isinstance(v, int | float))
    tasks = (*MEASURES, *FURTHER)
    terms = [n for n in names if n not in tasks and n != "loss" and not n.endswith("_se")]
    # a single term is the loss itself
    shown = [n for n in (*tasks, *terms, *(["loss"] if len(terms) != 1 else [])) if n in names]
    table(["score", *full], [[n, *(_cell(part, n) for part in full.values())] for n in shown], right=list(full))


def baseline_notes(scores: Mapping[str, Any], result: Mapping[str, Any], of: str = "") -> None:
    """Say what was chosen for baselines, which were skipped, and which are better than the model.

    Args:
        scores: of the model
        result: with "baselines", "baselines_skipped" and "baselines_details"
        of: what the lines begin with, where there are several results
    """
    for name, choice in result.get("baselines_details", {}).items():
        note(f"note: {of}baseline {name}: {choice}")
    for name, reason in result.get("baselines_skipped", {}).items():
        note(f"note: {of}baseline {name} was skipped: {reason}")
    for sentence in beaten_by(scores, result.get("baselines", {})):
        click.echo(click.style(of + sentence, fg="yellow"))


def _cell(part: Mapping[str, Any], name: str) -> str | None:
    if name not in part:
        return None
    error = part.get(f"{name}_se")
    return number(part[name]) + (f" ± {number(error)}" if error is not None else "")


def curve(x: Sequence[float], y: Sequence[float], mark: float, height: int = 12, width: int = 64) -> str:
    """A curve over logarithmic x as text.

    Args:
        x: above 0, rising
        y: a value for each
        mark: the x that is pointed at
        height, width: in characters
    """
    low, high = min(y), max(y)
    place = {v: round((log10(v) - log10(x[0])) / (log10(x[-1]) - log10(x[0])) * (width - 1)) for v in (*x, mark)}
    rows = [[" "] * width for _ in range(height)]
    for at, value in zip(x, y, strict=True):
        rows[round((high - value) / ((high - low) or 1) * (height - 1))][place[at]] = "•"
    sides = {0: number(high), height - 1: number(low)}
    lines = [f"{sides.get(i, ''):>10} │{''.join(row).rstrip()}" for i, row in enumerate(rows)]
    ends = f"{x[0]:.0e}{x[-1]:.0e}"
    axis = f"{x[0]:.0e}" + " " * (width - len(ends)) + f"{x[-1]:.0e}"
    return "\n".join(
        [*lines, f"{'':>10} └" + "─" * place[mark] + "▲" + "─" * (width - 1 - place[mark]), f"{'':>12}{axis}"]
    )
