"""How commands speak: talk goes to stderr, results to stdout, help pages end with examples that work."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console


def examples(*lines: str) -> str:
    """The last section of a help page."""
    return "\n\n".join(["Examples:", *(f"$ {line}" for line in lines)])


def console(stderr: bool = False) -> Console:
    """Where to print; plain text when it is not a terminal."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, soft_wrap=True)


def note(line: str) -> None:
    """A line for the user, beside the results."""
    click.echo(click.style(line, dim=True), err=True)


def as_json(value: Any) -> None:
    """A result for programs."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "", right: Sequence[str] = ()) -> None:
    """A table on stdout, whole even where the terminal is narrow or absent.

    Args:
        head: names of the columns
        rows: cells; None stays empty
        title: above it
        right: columns of numbers
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, title=title or None, title_justify="left",
                 title_style="bold", header_style="dim")
    for name in head:
        grid.add_column(name, justify="right" if name in right else "left",
                        overflow="fold", no_wrap=name == head[0])
    for row in rows:
        grid.add_row(*("" if cell is None else Text(str(cell)) for cell in row))
    out = console()
    out.print(grid, soft_wrap=False, width=None if out.is_terminal else 160)


def number(value: float) -> str:
    """A score, short."""
    return f"{value:.4g}"


def scores(columns: Mapping[str, Mapping[str, Any]]) -> None:
    """Scores by name, one column per part.

    Args:
        columns: part -> score -> value; empty parts are left out
    """
    full = {name: part for name, part in columns.items() if part}
    names = dict.fromkeys(k for part in full.values() for k, v in part.items() if isinstance(v, int | float))
    rows = [[name, *(number(part[name]) if name in part else None for part in full.values())] for name in names]
    table(["score", *full], rows, right=list(full))


def beside(baseline: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The baseline as a column of its own, named by what it is."""
    return {str(baseline["what"]): baseline} if baseline else {}
