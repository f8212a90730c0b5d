"""`tstk tokenize`: write the codes of series."""

from __future__ import annotations

from typing import Literal

import click
import rich_click

from tstk.cli.files import validate_output_path, write_npz
from tstk.cli.output import format_examples
from tstk.cli.run_options import RunCommand, add_run_options
from tstk.errors import OptionError


@click.command(
    cls=RunCommand,
    epilog=format_examples(
        "tstk tokenize runs/tokenizer --out codes.npz", "tstk tokenize runs/tokenizer --layout totem --out totem"
    ),
)
@add_run_options
@rich_click.option(
    "--layout",
    type=click.Choice(["npz", "totem"]),
    default="npz",
    show_default=True,
    help="one .npz file, or a folder of the .npy files that TOTEM's forecaster reads",
)
@rich_click.option("--out", required=True, metavar="PATH", help="output file, or folder for --layout totem")
def command(
    run: str,
    data: str | None,
    data_root: str | None,
    label_column: str | None,
    batch_size: int,
    layout: Literal["npz", "totem"],
    out: str,
) -> None:
    """Write the codes of every series (or every window of a table), and the codebook.

    npz: the arrays codes [series, channels, codes], -1 for unobserved tokens, codebook [codes, width] and, if the
    series are labelled, y [series] and classes.

    totem: for the splits train, val and test of a table, x_original, y_original, x_codes and y_codes as
    [windows, time, channels], and codebook.npy.
    """
    from tstk.inference.tokenize import tokenize, write_totem_files

    if layout == "totem":
        if label_column is not None:
            raise OptionError(f"--label-column {label_column} has no effect: --layout totem is for tables; remove it")
        sizes = write_totem_files(run, out, data, data_root=data_root, batch_size=batch_size)
        click.echo(f"{out}: windows of {', '.join(f'{name} {size:,}' for name, size in sizes.items())}")
        return
    path = validate_output_path(out, (".npz",))
    arrays = tokenize(run, data, data_root=data_root, label_column=label_column, batch_size=batch_size)
    write_npz(path, arrays)
    rows, channels, count = arrays["codes"].shape
    click.echo(f"{path}: {rows:,} series, {channels} channels, {count} codes of {len(arrays['codebook'])} each")
