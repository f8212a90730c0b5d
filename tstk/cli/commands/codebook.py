"""`tstk codebook`: the codes of a run as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import rich_click

from tstk.cli.files import target
from tstk.cli.output import as_json, examples, table


@click.command(
    cls=rich_click.RichCommand,
    epilog=examples("tstk codebook runs/shapes", "tstk codebook runs/shapes --merge 0.2 --out codes.png"),
)
@click.argument("run", metavar="RUN")
@rich_click.option(
    "--merge",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    help="show codes as one whose pictures differ by less than this, in deviations",
)
@rich_click.option("--data-root", metavar="DIR", help="folder with data sets to be found by name")
@rich_click.option("--out", metavar="FILE", help="what to write: .png; codebook.png in the run directory if not given")
@rich_click.option("--json", "json_", is_flag=True, help="print JSON")
def command(run: str, merge: float, data_root: str | None, out: str | None, json_: bool) -> None:
    """Draw the codes of a run as its tokenizer decodes them, the most frequent first.

    How often each is chosen is counted on the run's test part. Drawing takes matplotlib: pip install 'tstk-core[plot]'.
    """
    from tstk.nn.codebook import spread
    from tstk.report.codes import codes_size, counted, draw_codes, merged, shapes_of
    from tstk.report.context import know
    from tstk.report.page import picture

    path = Path(run, "codebook.png") if out is None else target(out, (".png",))
    known = know(run, data_root)
    shapes, counts = shapes_of(known.pipeline), counted(known)
    codes = merged(shapes, counts, merge)
    path.write_bytes(picture(lambda figure: draw_codes(figure, codes), codes_size(len(codes))))
    told: dict[str, Any] = {name: float(value) for name, value in spread(counts).items()}
    if json_:
        rows = [{"ids": code.ids, "share": code.share, "shape": code.shape.tolist()} for code in codes]
        as_json({"file": str(path), **told, "codes": rows})
        return
    table(
        ["code", "share", "with it"],
        [[c.ids[0], f"{c.share:.1%}", ", ".join(map(str, c.ids[1:])) or None] for c in codes[:16]],
        right=["code", "share"],
    )
    more = f", of which {len(codes)} look different" if merge else ""
    click.echo(
        f"\n{path}: {told['usage']:.0%} of {len(counts)} codes in use{more}, perplexity {told['perplexity']:.1f}, "
        f"{known.part_name} part"
    )
