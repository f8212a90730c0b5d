"""`tstk report`: write an HTML report of a run."""

from __future__ import annotations

import click
import rich_click

from tstk.cli.completion import complete_runs
from tstk.cli.files import add_force_option, validate_output_path
from tstk.cli.output import echo, format_examples
from tstk.cli.run_options import RunCommand, parse_numbers, parse_window


@click.command(
    cls=RunCommand,
    epilog=format_examples(
        "tstk report runs/a",
        "tstk report runs/a --out report.html",
        "tstk report runs/forecaster --channel OT --sample 0,100,500 --window 48:120",
    ),
)
@click.argument("run", metavar="RUN", shell_complete=complete_runs)
@rich_click.option("--data-root", metavar="DIR", help="folder in which data sets are looked up by name")
@rich_click.option(
    "--channel",
    "channels",
    multiple=True,
    metavar="NAME",
    help="channel to show predictions of, by name or number from 0; may be given several times",
)
@rich_click.option(
    "--sample",
    "samples",
    metavar="int,...",
    help="series or windows to show predictions of, by their numbers in the split, from 0; a few of it if not given",
)
@rich_click.option(
    "--window", metavar="A:B", help="samples to show of each series, from A to the one before B, counted from 0"
)
@rich_click.option("--out", metavar="FILE", help="output file: .html; report.html in the run directory if not given")
@add_force_option
def command(
    run: str,
    data_root: str | None,
    channels: tuple[str, ...],
    samples: str | None,
    window: str | None,
    out: str | None,
    force: bool,
) -> None:
    """Write an HTML report of a run.

    It shows scores and baselines, training curves, predictions on the test split, embeddings, and every option with its
    source. --channel, --sample and --window choose what predictions are shown of; scores are of the whole split. The
    page needs no other file and no network. Requires matplotlib: pip install 'tstk-core[plot]'.
    """
    path = None if out is None else validate_output_path(out, (".html", ".htm"), force)
    numbers = () if samples is None else parse_numbers(samples)
    shown = None if window is None else parse_window(window)
    from tstk.report import write_report
    from tstk.report.context import Selection

    selection = Selection(channels, numbers, shown)
    echo(str(write_report(run, path, data_root=data_root, selection=selection, force=force)))
