"""Options shared by eval, predict, embed, tokenize and probe: a run, the data to apply it to, and its features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import click
import rich_click

from tstk.cli.completion import complete_data_sets, complete_runs

Features = Literal["pooled", "tokens", "codes", "counts"]
Pool = Literal["mean", "max", "cls", "statistics"]


def add_run_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add to a command the argument RUN and the options --data, --data-root, --label-column and --batch-size."""
    for decorator in (
        rich_click.option(
            "--batch-size",
            type=click.IntRange(min=1),
            default=256,
            show_default=True,
            metavar="int",
            help="series per batch",
        ),
        rich_click.option(
            "--label-column", metavar="str", help="column or array that contains the labels, if not found by its name"
        ),
        rich_click.option("--data-root", metavar="DIR", help="folder in which data sets are looked up by name"),
        rich_click.option(
            "--data",
            metavar="NAME|PATH",
            help="data to use (default: the run's own)",
            shell_complete=complete_data_sets,
        ),
        click.argument("run", metavar="RUN", shell_complete=complete_runs),
    ):
        function = decorator(function)
    return function


def add_feature_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add to a command the options --features and --pool."""
    for decorator in (
        rich_click.option(
            "--pool",
            type=click.Choice(get_args(Pool)),
            default="mean",
            show_default=True,
            help="pooling of tokens to one vector; statistics: mean and standard deviation, concatenated over channels",
        ),
        rich_click.option(
            "--features",
            type=click.Choice(get_args(Features)),
            default="pooled",
            show_default=True,
            help="pooled: one vector by --pool; tokens: all tokens, concatenated; codes: code frequencies; "
            "counts: code counts",
        ),
    ):
        function = decorator(function)
    return function
