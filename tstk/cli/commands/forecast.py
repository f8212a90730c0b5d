"""`tstk forecast`: forecast a table, with quantiles if sample paths are drawn."""

from __future__ import annotations

import click
import rich_click

from tstk.cli.files import add_force_option, validate_output_path, write_csv
from tstk.cli.output import echo, format_examples, print_baseline_notes, print_note
from tstk.cli.run_options import RunCommand, add_reader_option
from tstk.config.records import RunResult
from tstk.config.run_directory import RESULT_FILE, resolve_run_dir
from tstk.data.columns import Reader
from tstk.errors import OptionError


@click.command(
    cls=RunCommand,
    epilog=format_examples(
        "tstk forecast runs/forecaster --out next.csv",
        "tstk forecast runs/rollout --data latest.csv --horizon 192 --samples 100 --out next.csv",
    ),
)
@click.argument("run", metavar="RUN")
@rich_click.option("--data", metavar="NAME|PATH", help="table to forecast; the run's own if not given")
@add_reader_option
@rich_click.option("--data-root", metavar="DIR", help="folder in which data sets are looked up by name")
@rich_click.option(
    "--horizon", type=click.IntRange(min=1), metavar="int", help="rows to forecast; the run's if not given"
)
@rich_click.option(
    "--samples",
    type=click.IntRange(min=2),
    metavar="int",
    help="sample paths to draw, if the run supports that; the run's setting if not given",
)
@rich_click.option(
    "--quantiles", default="0.1,0.5,0.9", show_default=True, metavar="float,...", help="quantiles of the sample paths"
)
@rich_click.option("--out", required=True, metavar="FILE", help="output file: .csv")
@add_force_option
def command(
    run: str,
    data: str | None,
    data_root: str | None,
    reader: Reader | None,
    horizon: int | None,
    samples: int | None,
    quantiles: str,
    out: str,
    force: bool,
) -> None:
    """Forecast the rows after the last row of a table.

    The file has one row per step and channel: step, date (as the table writes its times) if they are evenly spaced,
    channel, mean and, if sample paths are drawn, a column for each quantile.
    """
    path = validate_output_path(out, (".csv",), force)
    levels = _parse_quantiles(quantiles)

    import numpy as np

    from tstk.inference.predict import forecast

    prediction = forecast(run, data, data_root=data_root, reader=reader, horizon=horizon, samples=samples)
    head, columns = ["step", "channel", "mean"], [prediction.values]
    if prediction.forecast_samples is None:
        print_note(f"{run} makes point forecasts, so there are no quantiles")
    else:
        head += [f"q{level:g}" for level in levels]
        columns += list(np.quantile(prediction.forecast_samples, levels, axis=0))
    rows: list[list[object]] = [
        [step + 1, name, *(str(values[c, step]) for values in columns)]
        for step in range(prediction.values.shape[1])
        for c, name in enumerate(prediction.channels)
    ]
    if prediction.dates is not None:
        head.insert(1, "date")
        for row in rows:
            row.insert(1, prediction.dates[int(str(row[0])) - 1])
    write_csv(path, head, rows, replace=force)
    echo(f"{path}: {prediction.values.shape[1]} steps of {len(prediction.channels)} channels")
    if (resolve_run_dir(run) / RESULT_FILE).is_file():
        result = RunResult.read(run)
        print_baseline_notes(result.test, result.baselines, {}, {}, "On its test split: ")


def _parse_quantiles(text: str) -> list[float]:
    try:
        levels = [float(number) for number in text.split(",")]
    except ValueError:
        levels = [-1.0]
    if not all(0 <= level <= 1 for level in levels):
        raise OptionError(f"--quantiles {text}: expected numbers from 0 to 1, such as 0.1,0.5,0.9")
    return levels
