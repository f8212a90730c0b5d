"""Data frames of pandas or polars as series: their rows are times and their columns are channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tstk.errors import DataError


class DataFrame(Protocol):
    """A data frame of pandas or polars, or a pyarrow table."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Return its columns as a stream of Arrow."""


class DataFrames(Protocol):
    """Reads data frames of pandas for a pipeline, as its training data were read, and returns its results as some."""

    def predict(self, pipeline: Any, frame: Any, *, batch_size: int, horizon: int | None) -> Any:
        """Return the predictions of a frame, see `Pipeline.predict`."""

    def embed(self, pipeline: Any, frame: Any, pooling: Any, *, batch_size: int) -> Any:
        """Return the feature vectors of a frame, see `Pipeline.embed`."""


def has_columns(data: Any) -> bool:
    """Return whether an object is a data frame of any library, or a pyarrow table."""
    return hasattr(data, "__arrow_c_stream__") or is_frame(data)


def is_pandas(data: Any) -> bool:
    """Return whether an object is a data frame of pandas, which is not imported for it."""
    return type(data).__module__.partition(".")[0] == "pandas" and getattr(data, "ndim", 0) == 2


def is_frame(x: Any) -> bool:
    """Return whether an object is a data frame, without importing the library that it comes from."""
    return hasattr(x, "columns") and hasattr(x, "to_numpy") and getattr(x, "ndim", 2) == 2


def frames_to_array(frames: Sequence[Any], channels: Sequence[str] = ()) -> NDArray[np.float64]:
    """Return data frames, one per series with a row per time, as [N, C, T], padded with NaN at the end.

    Args:
        frames: N data frames [T_i, C]
        channels: names of the C channels that a model was trained on, if it knows them

    Raises:
        DataError: their columns differ from the channels or from one another, or are not numbers; a frame holds several
            series, as its index has several levels
    """
    for i, frame in enumerate(frames):
        if getattr(getattr(frame, "index", None), "nlevels", 1) > 1:
            raise DataError(
                f"data frame {i + 1} has {frame.index.nlevels} levels in its index, and one series is expected in a "
                "frame: give a list, [rows.droplevel(0) for _, rows in frame.groupby(level=0)]"
            )
    names = [list(map(str, frame.columns)) for frame in frames]
    has_names = list(channels) != [str(i) for i in range(len(channels))]
    expected = list(channels) if channels and has_names else names[0]
    for i, columns in enumerate(names):
        if columns != expected:
            raise DataError(
                f"data frame {i + 1} has columns {', '.join(columns)}; expected {', '.join(expected)}, in this order: "
                "select them with frame[[...]]"
            )
    arrays = [frame.to_numpy() for frame in frames]
    for i, (frame, array) in enumerate(zip(frames, arrays, strict=True)):
        for name, column in zip(frame.columns, array.T, strict=True):
            try:
                column.astype(np.float64)
            except (TypeError, ValueError):
                raise DataError(f"data frame {i + 1}: column {name!r} is not numbers; leave it out") from None
    x = np.full((len(arrays), len(expected), max(map(len, arrays))), np.nan)
    for row, array in zip(x, arrays, strict=True):
        row[:, : len(array)] = array.astype(np.float64).T
    return x
