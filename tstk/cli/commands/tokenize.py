"""`tstk tokenize`: the codes of series, as files."""

from __future__ import annotations

from typing import Literal

import click
import rich_click

from tstk.cli.files import target, write_npz
from tstk.cli.output import examples
from tstk.cli.run_options import applied
from tstk.errors import OptionError


@click.command(
    cls=rich_click.RichCommand,
    epilog=examples(
        "tstk tokenize runs/tokenizer --out codes.npz", "tstk tokenize runs/tokenizer --layout totem --out totem"
    ),
)
@applied
@rich_click.option(
    "--layout",
    type=click.Choice(["npz", "totem"]),
    default="npz",
    show_default=True,
    help="one .npz file, or a folder of the .npy files that TOTEM's forecaster reads",
)
@rich_click.option("--out", required=True, metavar="PATH", help="what to write")
def command(
    run: str,
    data: str | None,
    data_root: str | None,
    label: str | None,
    batch_size: int,
    layout: Literal["npz", "totem"],
    out: str,
) -> None:
    """Write the codes of every series (or of every window of a table), and the codebook.

    npz: the arrays codes [series, channels, codes], -1 where nothing was observed, codebook [codes, width] and, if the
    series are labelled, y [series] and classes.

    totem: for the parts train, val and test of a table, x_original, y_original, x_codes and y_codes as
    [windows, time, channels], and codebook.npy.
    """
    from tstk.inference.tokenize import tokenize, tokenize_totem

    if layout == "totem":
        if label is not None:
            raise OptionError(f"--label {label} has no meaning here: --layout totem is for tables")
        sizes = tokenize_totem(run, out, data, data_root=data_root, batch_size=batch_size)
        click.echo(f"{out}: windows of {', '.join(f'{name} {size:,}' for name, size in sizes.items())}")
        return
    path = target(out, (".npz",))
    arrays = tokenize(run, data, data_root=data_root, label=label, batch_size=batch_size)
    write_npz(path, arrays)
    rows, channels, count = arrays["codes"].shape
    click.echo(f"{path}: {rows:,} series, {channels} channels, {count} codes of {len(arrays['codebook'])} each")
