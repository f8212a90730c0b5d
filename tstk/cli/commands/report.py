"""`tstk report`: write an HTML report of a run."""

from __future__ import annotations

import click
import rich_click

from tstk.cli.files import add_force_option, validate_output_path
from tstk.cli.output import echo, format_examples
from tstk.cli.run_options import RunCommand


@click.command(
    cls=RunCommand,
    epilog=format_examples("tstk report runs/a", "tstk report runs/a --out report.html"),
)
@click.argument("run", metavar="RUN")
@rich_click.option("--data-root", metavar="DIR", help="folder in which data sets are looked up by name")
@rich_click.option("--out", metavar="FILE", help="output file: .html; report.html in the run directory if not given")
@add_force_option
def command(run: str, data_root: str | None, out: str | None, force: bool) -> None:
    """Write an HTML report of a run.

    It shows scores and baselines, training curves, predictions on the test split, embeddings, and every option with its
    source. The page needs no other file and no network. Requires matplotlib: pip install 'tstk-core[plot]'.
    """
    from tstk.report import write_report

    path = None if out is None else validate_output_path(out, (".html", ".htm"), force)
    echo(str(write_report(run, path, data_root=data_root, force=force)))
