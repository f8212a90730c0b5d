"""Options of the commands that read a run: the data to apply it to, its features, and classes of its components."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal, get_args

import click
import rich_click

from tstk.cli.completion import complete_data_sets, complete_names, complete_runs
from tstk.cli.options import ReaderCommand
from tstk.cli.output import print_note
from tstk.config.records import RunConfig
from tstk.errors import DataChangedWarning, DataNoteWarning, OptionError, SourceChangedWarning
from tstk.plugins.hooks import SLOTS
from tstk.plugins.local import mark_import_path, provide_components, register_component

Features = Literal["pooled", "tokens", "codes", "counts"]
Pool = Literal["mean", "max", "cls", "statistics"]


class RunCommand(ReaderCommand):
    """Command that reads runs, with an option per slot for the class of a component that belongs to no plugin."""

    def __init__(self, *args: Any, **attrs: Any) -> None:
        super().__init__(*args, **attrs)
        self.params += [
            rich_click.RichOption(
                [f"--{slot}"],
                metavar="MODULE:CLASS",
                panel="components that belong to no plugin",
                help=f"your class of the {slot}, if the run uses one; also as FILE.py:CLASS",
            )
            for slot in SLOTS
        ]

    def invoke(self, ctx: click.Context) -> Any:
        """Register the classes, then call the function without these options; changed classes and data are noted."""
        components = {slot: path for slot in SLOTS if (path := ctx.params.pop(slot)) is not None}
        if "run" in ctx.params:
            run = ctx.params["run"]
            provide_components(run, RunConfig.read(run).local, components)
        else:
            for slot, path in components.items():
                register_component(slot, mark_import_path(path))
        with warnings.catch_warnings():
            show_other, notes = warnings.showwarning, set[str]()

            def show(*args: Any, **kwargs: Any) -> None:
                if isinstance(args[0], DataChangedWarning | DataNoteWarning | SourceChangedWarning):
                    if (note := str(args[0])) not in notes:
                        print_note(f"note: {note}")
                    notes.add(note)
                else:
                    show_other(*args, **kwargs)

            warnings.showwarning = show
            return super().invoke(ctx)


def add_reader_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add to a `ReaderCommand` the option --reader, for data other than those of a run."""
    return rich_click.option(
        "--reader",
        metavar="NAME",
        help="reader of the files of --data, if not that of the run or of their suffix; its options (tstk show reader "
        "csv) are --reader.OPTION",
        shell_complete=complete_names("reader"),
    )(function)


def add_run_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add to a command the argument RUN, --data, --data-root, --label-column, --reader and --batch-size."""
    for decorator in (
        rich_click.option(
            "--batch-size",
            type=click.IntRange(min=1),
            default=256,
            show_default=True,
            metavar="int",
            help="series per batch; fewer where they are long",
        ),
        rich_click.option(
            "--label-column", metavar="str", help="column or array that contains the labels, if not found by its name"
        ),
        add_reader_option,
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


def parse_window(text: str) -> tuple[int, int]:
    """Parse a range of samples such as 100:200.

    Raises:
        OptionError: it is none
    """
    start, colon, stop = text.partition(":")
    if not (colon and start.strip().isdecimal() and stop.strip().isdecimal() and int(start) < int(stop)):
        raise OptionError(f"--window {text}: expected the first sample and the one after the last, such as 100:200")
    return int(start), int(stop)


def parse_numbers(text: str) -> tuple[int, ...]:
    """Parse the numbers of series such as 0,100,500.

    Raises:
        OptionError: they are none
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise OptionError(f"--sample {text}: expected numbers of series, from 0, such as 0,100,500")
    return tuple(map(int, parts))
