"""`tstk embed`: write one feature vector per series."""

from __future__ import annotations

import click
import rich_click

from tstk.cli.files import add_force_option, validate_output_path, write_npz
from tstk.cli.output import echo, format_examples
from tstk.cli.run_options import Features, Pool, RunCommand, add_feature_options, add_run_options
from tstk.data.columns import Reader


@click.command(
    cls=RunCommand,
    epilog=format_examples(
        "tstk embed runs/a --out embeddings.npz", "tstk embed runs/a --data new.npz --pool max --out new_embeddings.npz"
    ),
)
@add_run_options
@add_feature_options
@rich_click.option("--out", required=True, metavar="FILE", help="output file: .npz")
@add_force_option
def command(
    run: str,
    data: str | None,
    data_root: str | None,
    reader: Reader | None,
    label_column: str | None,
    batch_size: int,
    features: Features,
    pool: Pool,
    out: str,
    force: bool,
) -> None:
    """Write one feature vector per series (or per window of a table) to a file.

    The arrays are embedding [series, width], row (the place of each series in its file, from 0), id and group if the
    file has them and, if the series are labelled, y [series] and classes.
    """
    from tstk.inference.predict import embed

    path = validate_output_path(out, (".npz",), force)
    arrays = embed(
        run,
        data,
        data_root=data_root,
        reader=reader,
        label_column=label_column,
        features=features,
        pool=pool,
        batch_size=batch_size,
    )
    write_npz(path, arrays, replace=force)
    rows, width = arrays["embedding"].shape
    echo(f"{path}: {rows:,} vectors of {width} numbers")
