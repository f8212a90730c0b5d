"""`tstk predict`: write the predictions of a run."""

from __future__ import annotations

from math import isnan
from typing import TYPE_CHECKING, Any

import click
import rich_click

from tstk.cli.files import add_force_option, validate_output_path, write_csv, write_forecasts, write_npz
from tstk.cli.output import echo, format_examples
from tstk.cli.run_options import RunCommand, add_run_options
from tstk.data.columns import Reader
from tstk.errors import OptionError

if TYPE_CHECKING:
    from tstk.inference.identity import Arrays


@click.command(
    cls=RunCommand,
    epilog=format_examples(
        "tstk predict runs/a --out predictions.csv", "tstk predict runs/forecaster --data latest.csv --out next.csv"
    ),
)
@add_run_options
@rich_click.option("--out", required=True, metavar="FILE", help="output file: .csv or .npz")
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
    """Write a run's predictions to a file.

    Classification: one row per series with its row in the file (from 0), its id and group if the file has them, the
    predicted class, the probability of each class, and the true class if known; in .npz the arrays row, id, group,
    predicted, probability, classes and truth. Several labels: likewise, with the labels of a series joined by ; and
    the probability of each; NAME? in the true labels is one that is unknown.

    Regression: likewise with the predicted and, if known, true value of each target; in .npz the arrays row, id, group,
    predicted, targets and truth.

    A class per sample, .csv: one row per segment, which is a run of samples of one predicted class, with the id and
    group of its recording, its start and end (samples from 0, the end exclusive), its class, and the mean of its
    probability. In .npz the classes of all samples, as arrays predicted and truth [series, samples] and probability
    [series, classes, samples], with row, id, group, recording, start and classes.

    Forecasting, .csv: what tstk forecast writes. In .npz every window of the test split, or of the table given with
    --data, as arrays forecast and truth [windows, channels, horizon], with the row of the table at which each begins
    (-1 if --regularize inserted it), and its time as id; of several series id is the series, row that of the series,
    and time the time.
    """
    from tstk.config.records import RunConfig
    from tstk.inference.predict import forecast, predict
    from tstk.inference.segments import list_segments

    path = validate_output_path(out, (".csv", ".npz"), force)
    if path.suffix.lower() == ".csv" and RunConfig.read(run).horizon is not None:
        if label_column is not None:
            raise OptionError(f"--label-column {label_column} has no effect: {run} forecasts; remove it")
        forecasts = forecast(run, data, data_root=data_root, reader=reader)
        note = "; --out FILE.npz has the forecast of every window"
        write_forecasts(path, forecasts, replace=force, note=note)
        return
    arrays = predict(run, data, data_root=data_root, reader=reader, label_column=label_column, batch_size=batch_size)
    if path.suffix.lower() == ".npz":
        write_npz(path, arrays, replace=force)
    elif "recording" in arrays:
        header, rows = list_segments(arrays)
        write_csv(path, header, rows, replace=force)
        echo(f"{path}: {len(rows):,} segments of {arrays['recording'].max() + 1:,} series")
        return
    else:
        write_csv(path, *_tabulate(arrays), replace=force)
    echo(f"{path}: {len(next(iter(arrays.values()))):,} predictions")


def _tabulate(predictions: Arrays) -> tuple[list[str], list[list[Any]]]:
    """Return header and rows: a column per target, or the predicted class and a column per probability."""
    predicted, truth = predictions["predicted"], predictions.get("truth")
    identity = [name for name in ("row", "id", "group") if name in predictions]
    rows: list[list[Any]] = [list(cells) for cells in zip(*(predictions[name] for name in identity), strict=True)]
    if "targets" in predictions:
        names = predictions["targets"]
        head = [*identity, *(f"predicted {name}" for name in names)]
        rows = [row + list(map(repr, values)) for row, values in zip(rows, predicted.tolist(), strict=True)]
        if truth is not None:
            head += [f"truth {name}" for name in names]
            cells = [["" if isnan(v) else repr(v) for v in values] for values in truth.tolist()]
            rows = [row + more for row, more in zip(rows, cells, strict=True)]
        return head, rows
    head = [*identity, "predicted", *(f"probability {name}" for name in predictions["classes"])]
    probabilities = ([f"{p:.6g}" for p in row] for row in predictions["probability"])
    rows = [[*row, name, *more] for row, name, more in zip(rows, predicted, probabilities, strict=True)]
    if truth is not None:
        head.append("truth")
        rows = [[*row, name] for row, name in zip(rows, truth, strict=True)]
    return head, rows
