"""`tstk import`: turn the weights of a published program into a run."""

from __future__ import annotations

from shlex import quote
from typing import Any

import click
import rich_click

from tstk.cli.completion import complete_names
from tstk.cli.options import COMMAND_LINE_KEY, ImporterCommand
from tstk.cli.output import echo, format_examples, print_note


@click.command(
    cls=ImporterCommand,
    epilog=format_examples(
        "tstk import timemae pretrain_model.pkl --out runs/published", "tstk import vqshape uea_dim256.ckpt --heads 8"
    ),
)
@click.argument("kind", metavar="IMPORTER", shell_complete=complete_names("importer"))
@click.argument("file", metavar="FILE", type=click.Path())
@rich_click.option("--out", metavar="DIR", help="run directory to create (default: a new one under runs/)")
def command(kind: str, file: str, out: str | None, options: dict[str, Any]) -> None:
    """Turn a checkpoint of a published program into a run, which computes the same.

    IMPORTER names the program: tstk list importers. Its options are what the checkpoint does not tell:
    tstk show importer timemae. FILE was written by torch.save (.pt, .pth, .pkl, .ckpt) or is a .safetensors file. Only
    tensors are loaded, never code. All tensors are used, or named with the reason.
    """
    from tstk.runs.importing import import_run

    command_line = click.get_current_context().meta[COMMAND_LINE_KEY]
    result = import_run(kind, file, out, command=command_line, print_fn=print_note, **options)
    run = quote(str(result.run_dir))
    echo(f"{run}: {result.parameters:,} parameters of {result.data}. Next:")
    echo(f"  {result.get_use_command(run)}")
    echo(f"  tstk train --init-from {run} --data FILE_WITH_LABELS --head linear")
