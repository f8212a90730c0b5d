"""`tstk report`: a page about a run."""

from __future__ import annotations

import click
import rich_click

from tstk.cli.files import target
from tstk.cli.output import examples


@click.command(
    cls=rich_click.RichCommand,
    epilog=examples("tstk report runs/a", "tstk report runs/a --out report.html"),
)
@click.argument("run", metavar="RUN")
@rich_click.option("--data-root", metavar="DIR", help="folder with data sets to be found by name")
@rich_click.option("--out", metavar="FILE", help="what to write: .html; report.html in the run directory if not given")
def command(run: str, data_root: str | None, out: str | None) -> None:
    """Write one page with all that is known of a run.

    Scores beside the baselines, curves, answers on the test part, embeddings, and every option with its source. The
    page needs no other file and no network. Drawing takes matplotlib: pip install 'tstk-core[plot]'.
    """
    from tstk.report import report

    path = None if out is None else target(out, (".html", ".htm"))
    click.echo(report(run, path, data_root=data_root))
