"""`tstk codebook`: plot the codes of a run."""

from __future__ import annotations

from typing import Any

import click
import rich_click

from tstk.cli.files import add_force_option, resolve_output_path
from tstk.cli.output import echo, format_examples, print_json, print_table
from tstk.cli.run_options import RunCommand
from tstk.files import write_bytes


@click.command(
    cls=RunCommand,
    epilog=format_examples("tstk codebook runs/shapes", "tstk codebook runs/shapes --merge 0.2 --out codes.png"),
)
@click.argument("run", metavar="RUN")
@rich_click.option(
    "--merge",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    help="show codes as one if their shapes differ by less than this, in standard deviations",
)
@rich_click.option("--data-root", metavar="DIR", help="folder in which data sets are looked up by name")
@rich_click.option("--out", metavar="FILE", help="output file: .png; codebook.png in the run directory if not given")
@add_force_option
@rich_click.option("--json", "json_", is_flag=True, help="print JSON")
def command(run: str, merge: float, data_root: str | None, out: str | None, force: bool, json_: bool) -> None:
    """Plot the codes of a run as its tokenizer decodes them, most frequent first.

    Code frequencies are counted on the run's test split. Requires matplotlib: pip install 'tstk-core[plot]'.
    """
    from tstk.nn.codebook import code_usage
    from tstk.plot.codes import codes_figure_size, count_codes, decode_codebook, draw_codes, merge_similar_codes
    from tstk.report.context import load_context
    from tstk.report.page import render_image

    path = resolve_output_path(run, "codebook.png", out, force)
    context = load_context(run, data_root)
    shapes, counts = decode_codebook(context.pipeline), count_codes(context)
    codes = merge_similar_codes(shapes, counts, merge)
    image = render_image(lambda figure: draw_codes(figure.subplots(), codes), codes_figure_size(len(codes)))
    write_bytes(path, image, replace=force or out is None)
    usage: dict[str, Any] = {name: float(value) for name, value in code_usage(counts).items()}
    if json_:
        rows = [{"ids": code.ids, "share": code.frequency, "shape": code.shape.tolist()} for code in codes]
        print_json({"file": str(path), **usage, "codes": rows})
        return
    print_table(
        ["code", "share", "merged codes"],
        [[c.ids[0], f"{c.frequency:.1%}", ", ".join(map(str, c.ids[1:])) or None] for c in codes[:16]],
        right_aligned=["code", "share"],
    )
    distinct = f", of which {len(codes)} look different" if merge else ""
    echo(
        f"\n{path}: {usage['usage']:.0%} of {len(counts)} codes in use{distinct}, "
        f"perplexity {usage['perplexity']:.1f}, {context.split_name} split"
    )
