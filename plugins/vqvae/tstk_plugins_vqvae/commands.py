"""`tstk totem`: write the files that TOTEM's forecaster reads."""

from __future__ import annotations

import click
import rich_click

from tstk.cli.completion import complete_data_sets, complete_runs
from tstk.cli.output import echo, format_examples
from tstk.cli.run_options import RunCommand


@click.command(cls=RunCommand, epilog=format_examples("tstk totem runs/codes --out totem"))
@click.argument("run", metavar="RUN", shell_complete=complete_runs)
@rich_click.option(
    "--data", metavar="NAME|PATH", help="table to use (default: the run's own)", shell_complete=complete_data_sets
)
@rich_click.option("--data-root", metavar="DIR", help="folder in which data sets are looked up by name")
@rich_click.option(
    "--batch-size", type=click.IntRange(min=1), default=256, show_default=True, metavar="int", help="windows per batch"
)
@rich_click.option("--out", required=True, metavar="DIR", help="folder to create")
def command(run: str, data: str | None, data_root: str | None, batch_size: int, out: str) -> None:
    """Write the windows of a table and their codes as the .npy files that TOTEM's forecaster reads.

    For the splits train, val and test: x_original, y_original, x_codes and y_codes as [windows, time, channels]; and
    codebook.npy, [codes, width].
    """
    from tstk_plugins_vqvae.totem import write_totem_files

    sizes = write_totem_files(run, out, data, data_root=data_root, batch_size=batch_size)
    echo(f"{out}: windows of {', '.join(f'{name} {size:,}' for name, size in sizes.items())}")
