"""`tstk impute`: fill missing samples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import rich_click

from tstk.cli.completion import complete_data_sets, complete_runs
from tstk.cli.files import add_force_option, validate_output_path
from tstk.cli.output import echo, format_examples, print_json, print_note, print_table
from tstk.cli.run_options import RunCommand, add_reader_option
from tstk.data.columns import Reader
from tstk.errors import OptionError
from tstk.evaluation.formatting import format_number
from tstk.files import write_bytes

if TYPE_CHECKING:
    from tstk.inference.impute import Imputation

SUFFIXES = (".csv", ".npz", ".parquet")


@click.command(
    cls=RunCommand,
    epilog=format_examples(
        "tstk impute runs/masked --data gaps.csv --out filled.csv", "tstk impute runs/masked --data ETTh1 --score"
    ),
)
@click.argument("run", metavar="RUN", shell_complete=complete_runs)
@rich_click.option(
    "--data", metavar="NAME|PATH", help="data to fill (default: the run's own)", shell_complete=complete_data_sets
)
@rich_click.option("--data-root", metavar="DIR", help="folder in which data sets are looked up by name")
@add_reader_option
@rich_click.option("--out", metavar="FILE", help="output file: .csv, .npz or .parquet")
@rich_click.option(
    "--score", is_flag=True, help="hide 10, 25 and 50 % of the observed samples and print the errors at them"
)
@rich_click.option("--plot", metavar="FILE", help="draw the longest stretch that was filled: .png")
@rich_click.option("--seed", type=int, metavar="int", help="random seed: which samples --score hides; 0 if not given")
@rich_click.option(
    "--stride",
    type=click.IntRange(min=1),
    metavar="int",
    help="samples from one window to the next; half a window if not given",
)
@rich_click.option(
    "--batch-size", type=click.IntRange(min=1), default=256, show_default=True, metavar="int", help="windows per batch"
)
@add_force_option
@rich_click.option("--json", "json_", is_flag=True, help="print JSON")
def command(
    run: str,
    data: str | None,
    data_root: str | None,
    reader: Reader | None,
    out: str | None,
    score: bool,
    plot: str | None,
    seed: int | None,
    stride: int | None,
    batch_size: int,
    force: bool,
    json_: bool,
) -> None:
    """Fill what is missing, and only that, with a masked or reconstructing run.

    Cells or samples that are empty or NaN are predicted; all others are written as they were. Long series are cut into
    overlapping windows, whose predictions are averaged. A table keeps its header, dates and columns, an .npz archive
    its other arrays; other sets of series are written with row, id, group and labels, if there are any, and where
    --regularize inserted samples. Samples that cannot be predicted stay missing: those of a channel that a window never
    observed, and those after the end of a series in a set.

    --score hides observed samples instead, at random and in blocks, and prints MAE and RMSE at them, in units of the
    training standard deviation, beside the mean, the last value and linear interpolation. Without --data, the run's
    test split is used.
    """
    if score == (out is not None):
        raise OptionError("give either --out FILE, to write filled data, or --score, to measure how well a run fills")
    if score and force:
        raise OptionError("--force has no effect with --score, which writes nothing; remove it")
    if score and plot is not None:
        raise OptionError(f"--plot {plot} has no effect with --score, which fills nothing that is missing; remove it")
    if seed is not None and not score:
        raise OptionError(f"--seed {seed} has no effect without --score; remove it")
    from tstk.inference.impute import impute, score_run, write_imputation

    if out is None:
        options: dict[str, Any] = {"data_root": data_root, "reader": reader, "stride": stride, "batch_size": batch_size}
        result = score_run(run, data, **options, seed=seed or 0)
        _print_scores(result, json_)
        return
    path = validate_output_path(out, SUFFIXES, force)
    plot_path = None if plot is None else validate_output_path(plot, (".png",), force)
    imputation = impute(run, data, data_root=data_root, reader=reader, stride=stride, batch_size=batch_size)
    notes = write_imputation(path, imputation, replace=force) + imputation.describe_missing()
    if plot_path is not None:
        _write_plot(plot_path, imputation, force)
    if json_:
        count = int(imputation.filled.sum())
        print_json({"file": str(path), "method": imputation.method, "filled": count, "notes": notes})
        return
    for line in notes:
        print_note(f"note: {line}")
    echo(f"{path}: {imputation.filled.sum():,} of {imputation.filled.size:,} samples filled")


def _write_plot(path: Path, imputation: Imputation, force: bool) -> None:
    import numpy as np

    from tstk.evaluation.anomalies import find_ranges
    from tstk.plot.imputation import render_imputation

    if not imputation.filled.any():
        print_note(f"note: {path} was not written: nothing was filled, so there is nothing to draw")
        return
    recordings = imputation.recordings
    ranges = [find_ranges(np.asarray(filled.any(0))) for filled in imputation.filled]
    row = int(np.argmax([(stops - starts).max(initial=0) for starts, stops in ranges]))
    end = int(recordings.ends[row])
    first_row = recordings.first_row if recordings.is_table else None
    image = render_imputation(
        imputation.values[row, :, :end], imputation.filled[row, :, :end], recordings.channels, first_row
    )
    write_bytes(path, image, replace=force)


def _print_scores(result: dict[str, Any], json_: bool) -> None:
    if json_:
        print_json(result)
        return
    rows, unfilled = result["scores"], max(row["unfilled"] for row in result["scores"])
    methods = list(dict.fromkeys(row["method"] for row in rows))
    cells = {(row["pattern"], row["ratio"], row["method"]): row for row in rows}
    for metric in ("mae", "rmse"):
        header = [metric, "hidden", *methods]
        lines = [
            [
                "at random" if pattern == "random" else f"blocks of {result['block']}",
                f"{ratio:.0%}",
                *(format_number(cells[pattern, ratio, method].get(metric, float("nan"))) for method in methods),
            ]
            for pattern, ratio in dict.fromkeys((row["pattern"], row["ratio"]) for row in rows)
        ]
        print_table(header, lines, right_aligned=["hidden", *methods])
        echo()
    if unfilled:
        print_note(f"note: up to {unfilled:,} hidden samples could not be filled and are not counted")
    echo(f"{result['data']}: errors in units of the training standard deviation, seed {result['seed']}")
