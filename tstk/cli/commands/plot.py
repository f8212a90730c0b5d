"""`tstk plot`: write a figure of a run."""

from __future__ import annotations

from typing import Any

import click
import rich_click
from click.core import ParameterSource

from tstk.cli.completion import complete_data_sets, complete_runs
from tstk.cli.files import add_force_option, validate_output_path
from tstk.cli.output import echo, format_examples
from tstk.cli.run_options import RunCommand, add_reader_option, parse_window
from tstk.data.columns import Reader
from tstk.errors import OptionError
from tstk.files import write_bytes

SUFFIXES = (".png", ".svg", ".pdf")
OPTIONS = {
    "forecast": ("sample", "id", "channel", "window"),
    "tokens": ("sample", "id", "channel", "window"),
    "reconstruction": ("sample", "id", "channel", "window"),
    "attention": ("sample", "id"),
    "codebook": ("show", "merge"),
    "embedding": ("method",),
    "confusion": (),
}
"""Kind of a figure -> the options that have an effect on it."""


@click.command(
    cls=RunCommand,
    epilog=format_examples(
        "tstk plot tokens runs/a --out tokens.png",
        "tstk plot forecast runs/forecaster --sample 100 --channel OT --out forecast.svg",
        "tstk plot reconstruction runs/masked --data new.csv --id patient7 --window 0:500 --out masked.png",
        "tstk plot embedding hf://owner/name --data new.npz --method tsne --out map.pdf",
    ),
)
@click.argument("kind", metavar="KIND", type=click.Choice(list(OPTIONS)))
@click.argument("run", metavar="RUN", shell_complete=complete_runs)
@rich_click.option(
    "--data", metavar="NAME|PATH", help="data to draw (default: the run's own)", shell_complete=complete_data_sets
)
@rich_click.option("--data-root", metavar="DIR", help="folder in which data sets are looked up by name")
@add_reader_option
@rich_click.option(
    "--split",
    type=click.Choice(["train", "val", "test"]),
    help="split of the run's own data; test, or val without one, if not given",
)
@rich_click.option(
    "--sample", type=int, metavar="int", help="number of the series in the split, from 0; 0 if not given"
)
@rich_click.option("--id", "id_", metavar="str", help="id of the series, instead of its number")
@rich_click.option("--channel", metavar="NAME", help="channel, by its name or its number from 0")
@rich_click.option(
    "--window", metavar="A:B", help="samples to draw, from A to the one before B, counted from 0; all if not given"
)
@rich_click.option("--method", type=click.Choice(["pca", "tsne"]), help="projection of embeddings; pca if not given")
@rich_click.option(
    "--show", type=click.Choice(["shapes", "usage"]), help="what to draw of the codes; shapes if not given"
)
@rich_click.option(
    "--merge",
    type=click.FloatRange(0),
    help="draw codes as one if their shapes differ by less than this, in standard deviations",
)
@rich_click.option("--out", required=True, metavar="FILE", help="output file: .png, .svg or .pdf")
@add_force_option
def command(
    kind: str,
    run: str,
    data: str | None,
    data_root: str | None,
    reader: Reader | None,
    split: str | None,
    out: str,
    force: bool,
    **_: Any,
) -> None:
    """Write a figure of a run: what `tstk.plot` draws in Python, and `tstk report` on its page.

    KIND is one of:

    forecast: the context, the forecast, its intervals and what followed; tokens: a series with the borders of its
    patches, its codes, shapes or wavelet coefficients; reconstruction: masked samples beside their predictions;
    attention: what the reasoning tokens of head cot attend to; codebook: the codes, or how often each is chosen;
    embedding: series in two dimensions, coloured by class; confusion: true classes against predicted ones.

    Requires matplotlib: pip install 'tstk-core[plot]'.
    """
    path = validate_output_path(out, SUFFIXES, force)
    options = _get_typed_options(kind)
    import tstk.plot
    from tstk.plot.style import require_matplotlib, save_figure

    require_matplotlib()
    import matplotlib

    matplotlib.use("agg")  # no window, whatever the user has set
    source = tstk.plot.open_data(run, data, split=split, data_root=data_root, reader=reader)
    axes = getattr(tstk.plot, kind)(source, **options)
    write_bytes(path, save_figure(axes.figure, path.suffix.lower()[1:]), replace=force)
    echo(str(path))


def _get_typed_options(kind: str) -> dict[str, Any]:
    """Return the options of a kind of figure that were typed, as its function takes them.

    Raises:
        OptionError: an option has no effect on this kind of figure
    """
    ctx = click.get_current_context()
    every = {name for names in OPTIONS.values() for name in names}
    typed = {
        str(p.name).rstrip("_"): ctx.params[str(p.name)]
        for p in ctx.command.params
        if str(p.name).rstrip("_") in every and ctx.get_parameter_source(str(p.name)) == ParameterSource.COMMANDLINE
    }
    for name in typed:
        if name not in OPTIONS[kind]:
            kinds = ", ".join(k for k, names in OPTIONS.items() if name in names)
            raise OptionError(f"--{name} has no effect on a figure of kind {kind}, only on: {kinds}; remove it")
    if "id" in typed and "sample" in typed:
        raise OptionError("--sample and --id both name the series; remove one of them")
    if "id" in typed:
        typed["sample"] = typed.pop("id")
    if "window" in typed:
        typed["window"] = parse_window(typed["window"])
    return typed
