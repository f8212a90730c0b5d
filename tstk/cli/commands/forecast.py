"""`tstk forecast`: what follows a table, with quantiles where futures are drawn."""

from __future__ import annotations

import json
from pathlib import Path

import click
import rich_click

from tstk.cli.files import target, write_csv
from tstk.cli.output import baseline_notes, examples, note
from tstk.config.run_directory import RESULT
from tstk.errors import OptionError


@click.command(
    cls=rich_click.RichCommand,
    epilog=examples(
        "tstk forecast runs/forecaster --out next.csv",
        "tstk forecast runs/rollout --data latest.csv --horizon 192 --samples 100 --out next.csv",
    ),
)
@click.argument("run", metavar="RUN")
@rich_click.option("--data", metavar="NAME|PATH", help="table to continue; the run's own if not given")
@rich_click.option("--data-root", metavar="DIR", help="folder with data sets to be found by name")
@rich_click.option(
    "--horizon", type=click.IntRange(min=1), metavar="int", help="rows to forecast; the run's if not given"
)
@rich_click.option(
    "--samples",
    type=click.IntRange(min=2),
    metavar="int",
    help="futures to draw, for a run that can; as trained if not given",
)
@rich_click.option(
    "--quantiles", default="0.1,0.5,0.9", show_default=True, metavar="float,...", help="of the drawn futures"
)
@rich_click.option("--out", required=True, metavar="FILE", help="what to write: .csv")
def command(
    run: str,
    data: str | None,
    data_root: str | None,
    horizon: int | None,
    samples: int | None,
    quantiles: str,
    out: str,
) -> None:
    """Write what follows the last row of a table.

    A row per step and channel: step, date if the dates are regular, channel, mean and, if futures are drawn, a column
    for each quantile.
    """
    path = target(out, (".csv",))
    shares = _shares(quantiles)

    import numpy as np

    from tstk.inference.predict import forecast

    future = forecast(run, data, data_root=data_root, horizon=horizon, samples=samples)
    head, columns = ["step", "channel", "mean"], [future.values]
    if future.paths is None:
        note(f"{run} answers with one future, so there are no quantiles")
    else:
        head += [f"q{share:g}" for share in shares]
        columns += list(np.quantile(future.paths, shares, axis=0))
    rows: list[list[object]] = [
        [step + 1, name, *(f"{values[c, step]:.6g}" for values in columns)]
        for step in range(future.values.shape[1])
        for c, name in enumerate(future.channels)
    ]
    if future.dates is not None:
        head.insert(1, "date")
        for row in rows:
            row.insert(1, str(future.dates[int(str(row[0])) - 1]))
    write_csv(path, head, rows)
    click.echo(f"{path}: {future.values.shape[1]} steps of {len(future.channels)} channels")
    if (result := Path(run, RESULT)).is_file():
        scored = json.loads(result.read_text(encoding="utf-8"))
        baseline_notes(scored["test"], {"baselines": scored["baselines"]}, of="On its test part: ")


def _shares(text: str) -> list[float]:
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        shares = [-1.0]
    if not all(0 <= share <= 1 for share in shares):
        raise OptionError(f"--quantiles {text}: expected numbers from 0 to 1, such as 0.1,0.5,0.9")
    return shares
