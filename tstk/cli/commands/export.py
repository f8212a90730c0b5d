"""`tstk export`: a run as one file for programs that have no tstk."""

from __future__ import annotations

import click
import rich_click

from tstk.cli.files import target
from tstk.cli.output import examples


@click.command(
    cls=rich_click.RichCommand,
    epilog=examples("tstk export runs/a --out model.pt2", "tstk export runs/a --length 100 --out model.onnx"),
)
@click.argument("run", metavar="RUN")
@rich_click.option(
    "--length", type=click.IntRange(min=1), metavar="int", help="samples of a series, for one length alone"
)
@rich_click.option("--out", required=True, metavar="FILE", help="what to write: .pt2 (torch.export) or .onnx")
def command(run: str, length: int | None, out: str) -> None:
    """Write a classifier or forecaster as one graph, from raw samples [batch, channels, length] to its answer.

    It takes any batch, and of a classifier series of any length up to the longest that the run takes, where its parts
    allow that. The written graph is run and compared with the run before the file appears.
    """
    path = target(out, (".pt2", ".onnx"))

    from tstk.inference.export import save

    found = save(run, path, length)
    click.echo(
        f"{path}: {path.stat().st_size / 1e6:.1f} MB; any batch, {found}; answers differ from the run's by at most "
        f"{found.apart:.1e}"
    )
