"""What eval, predict, embed and probe have in common: a run, data to apply it to, and which of its features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import click
import rich_click

from tstk.cli.completion import data_sets, runs

Features = Literal["pooled", "tokens", "codes", "counts"]
Pool = Literal["mean", "max", "cls", "statistics"]


def applied(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the argument RUN and the options --data, --data-root, --label and --batch-size."""
    for decorator in (
        rich_click.option(
            "--batch-size",
            type=click.IntRange(min=1),
            default=256,
            show_default=True,
            metavar="int",
            help="series at a time",
        ),
        rich_click.option("--label", metavar="str", help="column or array of the labels, if it has an unusual name"),
        rich_click.option("--data-root", metavar="DIR", help="folder with data sets to be found by name"),
        rich_click.option(
            "--data",
            metavar="NAME|PATH",
            help="data to use; the run's own if not given",
            shell_complete=data_sets,
        ),
        click.argument("run", metavar="RUN", shell_complete=runs),
    ):
        function = decorator(function)
    return function


def featured(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options --features and --pool."""
    for decorator in (
        rich_click.option(
            "--pool",
            type=click.Choice(get_args(Pool)),
            default="mean",
            show_default=True,
            help="how tokens become one vector; statistics: mean and deviation, of independent channels side by side",
        ),
        rich_click.option(
            "--features",
            type=click.Choice(get_args(Features)),
            default="pooled",
            show_default=True,
            help="one vector by --pool, all tokens side by side, the share of each code, or how often each occurs",
        ),
    ):
        function = decorator(function)
    return function
