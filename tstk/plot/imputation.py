"""Figure of an imputation: the channels of a series, with the samples that were filled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tstk.evaluation.anomalies import find_ranges
from tstk.plot.anomalies import MAX_CHANNELS
from tstk.plot.style import INK, ORANGE, render_image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_SAMPLES = 1000
"""Samples drawn at most, around the longest stretch that was filled; more if that is longer."""


def choose_range(filled: NDArray[np.bool_]) -> tuple[int, int]:
    """Return the first sample to draw and the one after the last: all, or those around the longest filled stretch.

    Args:
        filled: [C, T] bool, True somewhere
    """
    length = filled.shape[1]
    starts, stops = find_ranges(np.asarray(filled.any(0)))
    longest = int((stops - starts).argmax())
    start, stop = int(starts[longest]), int(stops[longest])
    margin = max(0, MAX_SAMPLES - (stop - start)) // 2
    first = max(0, min(start - margin, length - MAX_SAMPLES))
    return first, min(length, max(stop + margin, first + MAX_SAMPLES))


def draw_imputation(
    figure: Figure, x: NDArray[Any], filled: NDArray[np.bool_], channels: Sequence[str], first_row: int | None = None
) -> None:
    """Draw the channels of one series; those with the most filled samples if there are many.

    Args:
        figure: to draw on
        x: [C, T] samples, those that were missing filled
        filled: [C, T] bool, True at samples that were filled
        channels: C names
        first_row: row of the table at which the series begins; None if it is one of a set
    """
    first, stop = choose_range(filled)
    shown = np.sort(np.argsort(-filled[:, first:stop].sum(1), kind="stable")[:MAX_CHANNELS])
    time = (first_row or 0) + np.arange(first, stop)
    panels = figure.subplots(len(shown), sharex=True, squeeze=False)[:, 0]
    for axes, channel in zip(panels, shown.tolist(), strict=True):
        values, is_filled = x[channel, first:stop], filled[channel, first:stop]
        axes.plot(time, values, color=INK, linewidth=0.7)
        axes.plot(time, np.where(is_filled, values, np.nan), ".-", color=ORANGE, markersize=3)
        axes.set_ylabel(channels[channel])
    panels[0].set_title("filled samples are orange", fontsize=9, loc="right")
    panels[-1].set_xlabel("sample" if first_row is None else "row")


def render_imputation(*args: Any) -> bytes:
    """Return the figure as .png; arguments as of `draw_imputation`, without the figure.

    Raises:
        TstkError: matplotlib is not installed
    """
    height = 1.3 * min(len(args[0]), MAX_CHANNELS) + 0.9
    return render_image(lambda figure: draw_imputation(figure, *args), (9, height))
