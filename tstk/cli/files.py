"""Options and writers of commands that write a file: `--out`, `--force`, tables and archives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click

from tstk.cli.output import echo
from tstk.config.run_directory import resolve_run_dir
from tstk.errors import OptionError
from tstk.files import atomic_write, check_new_file, format_csv, write_text

if TYPE_CHECKING:
    from tstk.inference.predict import Forecast

QUANTILE_LEVELS = (0.1, 0.5, 0.9)
"""Quantiles of the sample paths of a forecast that are written."""

add_force_option = rich_click.option("--force", is_flag=True, help="replace the output file if it exists")
"""Decorator: add to a command the option --force."""


def validate_output_path(out: str, suffixes: Sequence[str], force: bool) -> Path:
    """Return `out` as a path, validated before any work is done.

    Args:
        out: value of --out
        suffixes: accepted file suffixes
        force: value of --force

    Raises:
        OptionError: wrong suffix
        FileError: the file exists and `force` is not set, or it cannot be written there
    """
    path = Path(out)
    if path.suffix.lower() not in suffixes:
        raise OptionError(f"--out {out}: the file name must end in {' or '.join(suffixes)}")
    check_new_file(path, force)
    return path


def resolve_output_path(run: str, name: str, out: str | None, force: bool) -> Path:
    """Return the path of a picture: `out`, or `name` in the run directory, where the last one is replaced.

    Args:
        run: value of RUN
        name: of the file, if `out` is None
        out: value of --out
        force: value of --force

    Raises:
        OptionError: wrong suffix, or the run is in the package or on the hub, and `out` is None
        FileError: the file exists and `force` is not set, or it cannot be written there
    """
    if out is not None:
        return validate_output_path(out, (Path(name).suffix,), force)
    if resolve_run_dir(run) != Path(run):
        raise OptionError(f"{run} is not in a folder of yours; name the file with --out FILE")
    check_new_file(Path(run, name), force=True)
    return Path(run, name)


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]], *, replace: bool) -> None:
    """Write a table with a header line, see `tstk.files.atomic_write`."""
    write_text(path, format_csv([header, *rows]), replace=replace)


def write_npz(path: Path, arrays: Mapping[str, Any], *, replace: bool) -> None:
    """Write named arrays, readable without pickle, see `tstk.files.atomic_write`."""
    import numpy as np

    with atomic_write(path, sum(np.asarray(array).nbytes for array in arrays.values()), replace=replace) as file:
        np.savez(file, **arrays)


def write_forecasts(
    path: Path,
    forecasts: Sequence[Forecast],
    levels: Sequence[float] = QUANTILE_LEVELS,
    *,
    replace: bool,
    note: str = "",
) -> None:
    """Write forecasts as a row per series, step and channel, and print what is written.

    There is a column `id` if the series have names, `date` if the times of one continue, and one for each quantile if
    sample paths were drawn.

    Args:
        path: of the file to write
        forecasts: of a table, or of several series
        levels: of the quantiles
        replace: replace an existing file
        note: to print after what is written
    """
    import numpy as np

    has_ids = any(forecast.id is not None for forecast in forecasts)
    has_dates = any(forecast.dates is not None for forecast in forecasts)
    num_steps, channels = forecasts[0].values.shape[1], forecasts[0].channels
    levels = levels if forecasts[0].forecast_samples is not None else ()
    rows: list[list[object]] = []
    for forecast in forecasts:
        values, dates = [forecast.values], forecast.dates or [""] * num_steps
        if forecast.forecast_samples is not None:
            values += list(np.quantile(forecast.forecast_samples, levels, axis=0))
        for step in range(num_steps):
            place = [*[forecast.id] * has_ids, step + 1, *[dates[step]] * has_dates]
            rows += [[*place, name, *(str(v[c, step]) for v in values)] for c, name in enumerate(channels)]
    quantiles = [f"q{level:g}" for level in levels]
    header = [*["id"] * has_ids, "step", *["date"] * has_dates, "channel", "forecast", *quantiles]
    write_csv(path, header, rows, replace=replace)
    of_series = f" of each of {len(forecasts):,} series" * has_ids
    echo(f"{path}: {num_steps} steps of {len(channels)} channels after the last row{of_series}{note}")
