"""`tstk embed`: a vector per series, as a file."""

from __future__ import annotations

import click
import rich_click

from tstk.cli.files import target, write_npz
from tstk.cli.output import examples
from tstk.cli.run_options import Features, Pool, applied, featured


@click.command(
    cls=rich_click.RichCommand,
    epilog=examples(
        "tstk embed runs/a --out embeddings.npz", "tstk embed runs/a --data new.npz --pool max --out new_embeddings.npz"
    ),
)
@applied
@featured
@rich_click.option("--out", required=True, metavar="FILE", help="what to write: .npz")
def command(
    run: str,
    data: str | None,
    data_root: str | None,
    label: str | None,
    batch_size: int,
    features: Features,
    pool: Pool,
    out: str,
) -> None:
    """Write one vector per series (or per window of a table) to a file.

    The arrays are embedding [series, width] and, if the series are labelled, y [series] and classes.
    """
    from tstk.inference.predict import embed

    path = target(out, (".npz",))
    arrays = embed(run, data, data_root=data_root, label=label, features=features, pool=pool, batch_size=batch_size)
    write_npz(path, arrays)
    rows, width = arrays["embedding"].shape
    click.echo(f"{path}: {rows:,} vectors of {width} numbers")
