"""Cut an excerpt from a recording: the samples between two times, in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from tstk.errors import OptionError


def cut_excerpt(
    values: NDArray[Any], rate: float, start: float, stop: float | None, path: Path
) -> tuple[NDArray[Any], list[str]]:
    """Return the samples of an excerpt, and a note on it if it is not everything.

    Args:
        values: [T, C]
        rate: samples per second
        start: seconds from the first sample
        stop: seconds from the first sample; None for the end
        path: the file, for messages

    Raises:
        OptionError: the excerpt is empty, or ends after the recording
    """
    seconds = len(values) / rate
    end = seconds if stop is None else stop
    first, last = round(start * rate), round(end * rate)
    if not first < last <= len(values):
        given = f"--reader.start {start:g}" + ("" if stop is None else f" --reader.stop {stop:g}")
        raise OptionError(
            f"{given}: {path} has {len(values):,} samples, {seconds:g} s; give a start before a stop within it"
        )
    if last - first == len(values):
        return values, []
    return values[first:last], [f"{last - first:,} of {len(values):,} samples, from {start:g} s to {end:g} s"]
