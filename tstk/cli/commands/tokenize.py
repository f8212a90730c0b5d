"""`tstk tokenize`: write the codes of series."""

from __future__ import annotations

import click
import rich_click

from tstk.cli.files import add_force_option, validate_output_path, write_npz
from tstk.cli.output import echo, format_examples
from tstk.cli.run_options import RunCommand, add_run_options
from tstk.data.columns import Reader


@click.command(cls=RunCommand, epilog=format_examples("tstk tokenize runs/tokenizer --out codes.npz"))
@add_run_options
@rich_click.option("--out", required=True, metavar="FILE", help="output file: .npz")
@add_force_option
def command(
    run: str,
    data: str | None,
    data_root: str | None,
    reader: Reader | None,
    label_column: str | None,
    batch_size: int,
    out: str,
    force: bool,
) -> None:
    """Write the codes of every series (or every window of a table), and the codebook.

    The arrays are codes [series, channels, codes], -1 for unobserved tokens, codebook [codes, width], row
    (the place of each series in its file, from 0), id and group if the file has them and, if the series are labelled, y
    [series] and classes.
    """
    from tstk.inference.tokenize import tokenize

    path = validate_output_path(out, (".npz",), force)
    arrays = tokenize(run, data, data_root=data_root, reader=reader, label_column=label_column, batch_size=batch_size)
    write_npz(path, arrays, replace=force)
    rows, channels, count = arrays["codes"].shape
    echo(f"{path}: {rows:,} series, {channels} channels, {count} codes of {len(arrays['codebook'])} each")
