"""`tstk predict`: a run's answers as a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import rich_click

from tstk.cli.files import target, write_csv, write_npz
from tstk.cli.output import examples
from tstk.cli.run_options import applied
from tstk.errors import OptionError

if TYPE_CHECKING:
    from tstk.inference.predict import Arrays, Future


@click.command(
    cls=rich_click.RichCommand,
    epilog=examples(
        "tstk predict runs/a --out predictions.csv", "tstk predict runs/forecaster --data latest.csv --out next.csv"
    ),
)
@applied
@rich_click.option("--out", required=True, metavar="FILE", help="what to write: .csv or .npz")
def command(run: str, data: str | None, data_root: str | None, label: str | None, batch_size: int, out: str) -> None:
    """Write a run's predictions to a file.

    Classification, a row per series: row, predicted class, probability of each class, true class if known; in .npz the
    arrays predicted, probability, classes and truth.

    Forecasting, .npz: every window of the test part, or of the table given with --data, as arrays forecast and truth
    [windows, channels, horizon]. Forecasting, .csv: what follows the last row of that table (or of the run's own), with
    the columns step, date if the dates are regular, channel and forecast.
    """
    from tstk.config.run_directory import read_config
    from tstk.inference.predict import forecast, predict

    path = target(out, (".csv", ".npz"))
    if path.suffix.lower() == ".csv" and read_config(run)["spec"]["horizon"] is not None:
        if label is not None:
            raise OptionError(f"--label {label} has no meaning here: {run} forecasts a table")
        _future(path, forecast(run, data, data_root=data_root))
        return
    answer = predict(run, data, data_root=data_root, label=label, batch_size=batch_size)
    if path.suffix.lower() == ".npz":
        write_npz(path, answer)
    else:
        _classes(path, answer)
    click.echo(f"{path}: {len(next(iter(answer.values()))):,} predictions")


def _classes(path: Path, answer: Arrays) -> None:
    head = ["row", "predicted", *(f"probability {name}" for name in answer["classes"])]
    rows = [[i, name, *(f"{p:.6g}" for p in answer["probability"][i])] for i, name in enumerate(answer["predicted"])]
    if "truth" in answer:
        head.append("truth")
        rows = [[*row, truth] for row, truth in zip(rows, answer["truth"], strict=True)]
    write_csv(path, head, rows)


def _future(path: Path, future: Future) -> None:
    dated = future.dates is not None
    rows = [
        [step + 1, *([str(future.dates[step])] if future.dates is not None else []), name, f"{value[step]:.6g}"]
        for step in range(future.values.shape[1])
        for name, value in zip(future.channels, future.values, strict=True)
    ]
    write_csv(path, ["step", *(["date"] if dated else []), "channel", "forecast"], rows)
    click.echo(f"{path}: {future.values.shape[1]} steps of {len(future.channels)} channels")
