"""Output of commands: notes go to stderr, results to stdout, and help pages end with runnable examples.

Names of classes, channels, files and plugins come from strangers. Everything is printed through this module, which
escapes control characters and interprets no markup, so that no name can drive the terminal or forge a line.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterable, Mapping, Sequence
from math import log10
from typing import TYPE_CHECKING, Any

import click

from tstk.errors import escape_control_characters
from tstk.evaluation.formatting import (
    CLASS_SCORE_LABELS,
    EXTRA_METRICS,
    MAIN_METRICS,
    describe_better_baselines,
    format_number,
)

if TYPE_CHECKING:
    from rich.console import Console


def format_examples(*lines: str) -> str:
    """Return the Examples section of a help page."""
    return "\n\n".join(["Examples:", *(f"$ {line}" for line in lines)])


def make_console(stderr: bool = False) -> Console:
    """Return a rich console; without a terminal it is plain and 160 columns wide."""
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal:
        console.width = 160
    return console


def echo(text: str = "", *, lead: str = "", err: bool = False, nl: bool = True, **lead_style: Any) -> None:
    """Print text with its control characters escaped, except line feeds and tabs.

    Args:
        text: plain text, of several lines
        lead: start of the first line, in a style of its own; line feeds are escaped
        err: print on stderr
        nl: end the line
        lead_style: arguments of `click.style`
    """
    start = click.style(escape_control_characters(lead, keep=""), **lead_style) if lead else ""
    try:
        click.echo(start + escape_control_characters(text), err=err, nl=nl)
    except OSError as e:
        if e.errno != errno.EIO:  # the terminal was closed, so nobody reads it
            raise


def print_note(line: str) -> None:
    """Print a line for the user on stderr."""
    echo(lead=line, dim=True, err=True)


def print_json(value: Any) -> None:
    """Print a result as JSON on stdout."""
    echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(header: Sequence[str], rows: Iterable[Sequence[Any]], right_aligned: Sequence[str] = ()) -> None:
    """Print a table on stdout.

    Args:
        header: column names
        rows: cells; None is printed as an empty cell
        right_aligned: names of the columns to align right
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="dim")
    for name in header:
        grid.add_column(
            Text(escape_control_characters(name, keep="")),
            justify="right" if name in right_aligned else "left",
            overflow="fold",
            no_wrap=name == header[0],
        )
    for row in rows:
        grid.add_row(*("" if cell is None else Text(escape_control_characters(str(cell), keep="")) for cell in row))
    make_console().print(grid)


def print_scores(columns: Mapping[str, Mapping[str, Any]]) -> None:
    """Print a table of scores, one column per split or baseline, with standard errors where known.

    Args:
        columns: column name -> score -> value; empty columns are left out, and a table without any
    """
    columns = {name: scores for name, scores in columns.items() if scores}
    if not columns:
        return
    names = dict.fromkeys(k for scores in columns.values() for k, v in scores.items() if isinstance(v, int | float))
    metrics = (*MAIN_METRICS, *EXTRA_METRICS)
    loss_terms = [n for n in names if n not in metrics and n != "loss" and not n.endswith("_se")]
    # a single term equals the loss
    shown = [n for n in (*metrics, *loss_terms, *(["loss"] if len(loss_terms) != 1 else [])) if n in names]
    print_table(
        ["score", *columns],
        [[n, *(_format_score(scores, n) for scores in columns.values())] for n in shown],
        right_aligned=list(columns),
    )


MAX_CLASSES_SHOWN = 20


def print_class_scores(result: Mapping[str, Any]) -> None:
    """Print the scores of classes and probabilities with their intervals, and those of each class.

    Args:
        result: the fields of a `ClassificationScores`
    """
    echo()
    rows = [
        [name, format_number(value), _format_interval(result["intervals"].get(name))]
        for name, value in result["scores"].items()
    ]
    print_table(["score", "value", "95 % interval"], rows, right_aligned=["value"])
    print_note(f"note: {result['resampling']}")
    if len(result["classes"]) > MAX_CLASSES_SHOWN:
        print_note(f"note: --json has the scores of each of the {len(result['classes'])} classes")
    else:
        echo()
        columns = ["class", "series", *CLASS_SCORE_LABELS.values()]
        class_rows = [
            [name, f"{sum(counts):,}", *(_format_defined(result["per_class"][name].get(k)) for k in CLASS_SCORE_LABELS)]
            for name, counts in zip(result["classes"], result["confusion"], strict=True)
        ]
        print_table(columns, class_rows, right_aligned=columns[1:])
    for note in result["notes"]:
        print_note(f"note: {note}")


def print_threshold_scores(result: Mapping[str, Any]) -> None:
    """Print the scores of the decisions of a threshold.

    Args:
        result: the fields of a `ThresholdScores`
    """
    echo(
        f"\nClass {result['positive_class']} from a probability of {result['threshold']:.6g} on, for a "
        f"{result['requested']}:"
    )
    names = ("sensitivity", "specificity", "precision", "npv")
    rows = [
        [
            name,
            _format_defined(result["validation"].get(name)),
            _format_defined(result["scores"].get(name)),
            _format_interval(result["intervals"].get(name)),
        ]
        for name in names
    ]
    print_table(["score", "val", "value", "95 % interval"], rows, right_aligned=["val", "value"])


def format_calibration(result: Mapping[str, Any]) -> str:
    """Return the temperature, and the calibration error before and after it, in one line.

    Args:
        result: the fields of a `Calibration`
    """
    if result["note"]:
        return result["note"]
    changes = [
        f"ECE {format_number(before['ece'])} -> {format_number(result['after'][split]['ece'])} and log loss "
        f"{format_number(before['log_loss'])} -> {format_number(result['after'][split]['log_loss'])} on {split}"
        for split, before in result["before"].items()
    ]
    return f"Calibrated by a temperature of {result['temperature']:.4g}: {', '.join(changes)}"


def _format_interval(ends: Sequence[float] | None) -> str:
    return "" if ends is None else f"{format_number(ends[0])} to {format_number(ends[1])}"


def _format_defined(value: float | None) -> str:
    return "" if value is None else format_number(value)


def print_baseline_notes(
    scores: Mapping[str, Any],
    baselines: Mapping[str, Mapping[str, float]],
    skipped: Mapping[str, str],
    details: Mapping[str, str],
    prefix: str = "",
) -> None:
    """Print how baselines were configured, which were skipped, and which beat the model.

    Args:
        scores: scores of the model
        baselines: baseline -> metric -> score
        skipped: baseline -> why it was not computed
        details: baseline -> its hyperparameters, in words
        prefix: start of every line, where there are several results
    """
    for name, description in details.items():
        print_note(f"note: {prefix}baseline {name}: {description}")
    for name, reason in skipped.items():
        print_note(f"note: {prefix}baseline {name} was skipped: {reason}")
    for sentence in describe_better_baselines(scores, baselines):
        echo(lead=prefix + sentence, fg="yellow")


def _format_score(scores: Mapping[str, Any], name: str) -> str | None:
    if name not in scores:
        return None
    error = scores.get(f"{name}_se")
    return format_number(scores[name]) + (f" ± {format_number(error)}" if error is not None else "")


def format_curve(x: Sequence[float], y: Sequence[float], marker: float) -> str:
    """Draw a curve over logarithmic x as text.

    Args:
        x: positive, increasing values
        y: one value per x
        marker: x value to mark on the axis
    """
    height, width = 12, 64  # in characters
    low, high = min(y), max(y)
    column = {v: round((log10(v) - log10(x[0])) / (log10(x[-1]) - log10(x[0])) * (width - 1)) for v in (*x, marker)}
    rows = [[" "] * width for _ in range(height)]
    for position, value in zip(x, y, strict=True):
        rows[round((high - value) / ((high - low) or 1) * (height - 1))][column[position]] = "•"
    labels = {0: format_number(high), height - 1: format_number(low)}
    lines = [f"{labels.get(i, ''):>10} │{''.join(row).rstrip()}" for i, row in enumerate(rows)]
    ends = f"{x[0]:.0e}{x[-1]:.0e}"
    axis = f"{x[0]:.0e}" + " " * (width - len(ends)) + f"{x[-1]:.0e}"
    return "\n".join(
        [*lines, f"{'':>10} └" + "─" * column[marker] + "▲" + "─" * (width - 1 - column[marker]), f"{'':>12}{axis}"]
    )
