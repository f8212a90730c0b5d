"""Figure of anomaly scores: the series, their scores, the threshold, and the events above it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tstk.evaluation.anomalies import find_ranges
from tstk.plot.style import BLUE, DIM, INK, ORANGE, render_image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_CHANNELS = 4
"""Channels drawn at most, the first ones."""


def draw_detection(
    figure: Figure,
    x: NDArray[Any],
    channels: Sequence[str],
    scores: NDArray[np.float64],
    threshold: float,
    labels: NDArray[np.bool_] | None = None,
    first_row: int | None = None,
) -> None:
    """Draw the channels of one series, and below them the scores of its samples.

    Args:
        figure: to draw on
        x: [C, T] samples, NaN where missing
        channels: C names
        scores: [T]
        threshold: above it, samples are shaded
        labels: [T] bool, True at samples known to be anomalous, marked at the bottom
        first_row: row of the table at which the series begins; None if it is one of a set
    """
    shown = x[:MAX_CHANNELS]
    panels = figure.subplots(len(shown) + 1, sharex=True, squeeze=False)[:, 0]
    time, above = (first_row or 0) + np.arange(x.shape[1]), scores > threshold
    for axes, values, name in zip(panels, shown, channels, strict=False):
        axes.plot(time, values, color=INK, linewidth=0.7)
        axes.set_ylabel(name)
    panels[-1].plot(time, scores, color=BLUE, linewidth=0.8)
    peaks = [start + int(scores[start:stop].argmax()) for start, stop in zip(*find_ranges(above), strict=True)]
    panels[-1].axhline(threshold, color=DIM, linestyle="--")
    panels[-1].set_ylabel("score")
    panels[-1].set_xlabel("sample" if first_row is None else "row")
    panels[-1].plot(time[peaks], scores[peaks], ".", color=ORANGE)
    for axes in panels:
        transform = axes.get_xaxis_transform()
        axes.fill_between(
            time, 0, 1, where=above, step="mid", color=ORANGE, alpha=0.3, linewidth=0, transform=transform
        )
        if labels is not None:
            axes.fill_between(time, 0, 0.04, where=labels, step="mid", color=INK, linewidth=0, transform=transform)
            starts = find_ranges(labels)[0]  # too short to see, if the series is long
            axes.plot(time[starts], np.full(len(starts), 0.02), "|", color=INK, markersize=4, transform=transform)


def render_detection(*args: Any) -> bytes:
    """Return the figure as .png; arguments as of `draw_detection`, without the figure.

    Raises:
        TstkError: matplotlib is not installed
    """
    height = 1.3 * (min(len(args[0]), MAX_CHANNELS) + 1) + 0.6
    return render_image(lambda figure: draw_detection(figure, *args), (9, height))
