"""What tells series apart in outputs: the row of the file, id and group of each."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tstk.data.datasets import WindowDataset

Arrays = dict[str, NDArray[Any]]


class Identified(Protocol):
    """Series with rows, ids and groups, such as a `Split` or `Recordings`."""

    @property
    def rows(self) -> Any:
        """The place [N] of each series in its file, or None if they are in order."""

    @property
    def ids(self) -> list[str] | None:
        """N names, or None."""

    @property
    def groups(self) -> list[str] | None:
        """N names, or None."""

    def __len__(self) -> int:
        """Return the number of series."""


def identify_series(series: Identified) -> Arrays:
    """Return what tells series apart, for outputs that are joined with other tables.

    Returns:
        "row" [N] place of each series in its file, from 0, or the row of a table at which it begins, -1 if it begins
        with a row that --regularize inserted; "id" [N] its name in the file, or the time at which it begins, and
        "group" [N], if there are any; of windows of several series "id" is the name of the series, "row" that of the
        series, and "time" [N] the time at which the window begins
    """
    identity: Arrays = {"row": np.arange(len(series)) if series.rows is None else np.asarray(series.rows)}
    names = {"id": series.ids, "group": series.groups}
    if isinstance(series, WindowDataset) and series.recordings is not None:
        names["time"] = series.start_times
    return identity | {name: np.array(values) for name, values in names.items() if values is not None}
