"""`tstk forecast`: forecast a table, with quantiles if sample paths are drawn."""

from __future__ import annotations

import click
import rich_click

from tstk.cli.files import QUANTILE_LEVELS, add_force_option, validate_output_path, write_forecasts
from tstk.cli.output import format_examples, print_baseline_notes, print_note
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
@rich_click.option("--data", metavar="NAME|PATH", help="table or series to forecast; the run's own if not given")
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
    "--quantiles",
    default=",".join(map(str, QUANTILE_LEVELS)),
    show_default=True,
    metavar="float,...",
    help="quantiles of the sample paths",
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
    """Forecast the rows after the last row of a table, or of each series of a set.

    The file has one row per step and channel: id of several series, step, date (as the table writes its times) if they
    are evenly spaced, channel, forecast and, if sample paths are drawn, a column for each quantile.
    """
    path = validate_output_path(out, (".csv",), force)
    levels = _parse_quantiles(quantiles)

    from tstk.inference.predict import forecast

    forecasts = forecast(run, data, data_root=data_root, reader=reader, horizon=horizon, samples=samples)
    if forecasts[0].forecast_samples is None:
        print_note(f"{run} makes point forecasts, so there are no quantiles")
    write_forecasts(path, forecasts, levels, replace=force)
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
