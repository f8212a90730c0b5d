"""`tstk export`: write a run as a graph that runs without tstk."""

from __future__ import annotations

import click
import rich_click

from tstk.cli.files import add_force_option, validate_output_path
from tstk.cli.output import echo, format_examples
from tstk.cli.run_options import RunCommand


@click.command(
    cls=RunCommand,
    epilog=format_examples("tstk export runs/a --out model.pt2", "tstk export runs/a --length 100 --out model.onnx"),
)
@click.argument("run", metavar="RUN")
@rich_click.option(
    "--length", type=click.IntRange(min=1), metavar="int", help="export for this series length only, in samples"
)
@rich_click.option("--out", required=True, metavar="FILE", help="output file: .pt2 (torch.export) or .onnx")
@add_force_option
def command(run: str, length: int | None, out: str, force: bool) -> None:
    """Export a classifier or forecaster as one graph, from raw samples [batch, channels, length] to its prediction.

    The graph takes any batch size; that of a classifier also takes any series length up to the longest of the run, if
    its components allow that. The outputs of the graph are compared with the run's before the file is written.
    """
    path = validate_output_path(out, (".pt2", ".onnx"), force)

    from tstk.inference.export import export_run

    graph = export_run(run, path, length, force=force)
    echo(
        f"{path}: {path.stat().st_size / 1e6:.1f} MB; any batch size, {graph}; "
        f"predictions differ from the run's by at most {graph.max_relative_error:.1e}"
    )
