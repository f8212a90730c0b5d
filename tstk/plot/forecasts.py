"""Figures of forecasts: the context, the true future, the forecast and the intervals of its sample paths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tstk.core.pipeline import Pipeline
from tstk.core.prediction import eval_mode
from tstk.core.types import Series
from tstk.errors import IncompatibleError
from tstk.plot.plot_data import DataLike, PlotData, RunLike, crop_window, get_samples, open_data
from tstk.plot.style import DIM, INK, ORANGE, SampleAxis, add_legend, open_axes, set_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NUM_SAMPLE_PATHS = 50
"""Sample paths drawn for prediction intervals."""
CONTEXT_HORIZONS = 3
"""Horizons of the context that are drawn, if no window is named: more would leave little room for the forecast."""


@dataclass
class ForecastSeries:
    """One channel of a window and its forecast, in the units of the data.

    Args:
        context: [T], NaN where missing
        forecast: [H]
        target: [H], NaN where missing; None if unknown
        sample_paths: [S, H], if the loss samples
    """

    context: Tensor
    forecast: Tensor
    target: Tensor | None = None
    sample_paths: Tensor | None = None


def can_forecast(pipeline: Pipeline) -> bool:
    """Return whether a pipeline forecasts."""
    return pipeline.spec.horizon is not None and (pipeline.head is not None or pipeline.can_forecast)


def compute_forecasts(data: PlotData, rows: Tensor) -> list[list[ForecastSeries]]:
    """Compute the forecasts of some windows; return a list of channels for each.

    Args:
        data: with a pipeline that forecasts
        rows: of the split
    """
    pipeline, series = data.pipeline, data.batch(rows)
    count = pipeline.loss.default_num_samples
    with eval_mode(pipeline):
        output = pipeline.predict_step(series, num_samples=None if count is None else max(count, NUM_SAMPLE_PATHS))
    forecasts, paths = (
        None if t is None else t.cpu() * pipeline.std.cpu() + pipeline.raw_mean.cpu()
        for t in (output.head_output, output.forecast_samples)
    )
    assert forecasts is not None
    contexts = get_samples(pipeline, series)
    targets = None if series.y is None else get_samples(pipeline, Series(series.y))
    return [
        [
            ForecastSeries(
                contexts[i, c],
                forecasts[i, c],
                None if targets is None else targets[i, c],
                None if paths is None else paths[:, i, c],
            )
            for c in range(contexts.shape[1])
        ]
        for i in range(len(rows))
    ]


def get_forecast_axis(data: PlotData, row: int, series: ForecastSeries) -> SampleAxis:
    """Return the axis of a context and its forecast: times, or steps ahead of the end of the context."""
    length = len(series.context)
    return data.get_axis(row, length + len(series.forecast), first=1 - length, label="steps ahead")


def draw_forecast(
    axes: Axes, series: ForecastSeries, axis: SampleAxis, window: tuple[int, int] | None = None, name: str = "observed"
) -> None:
    """Draw a context, the true future, the forecast and its central 50 and 80 % intervals.

    Args:
        axes: to draw on
        series: with its forecast
        axis: of all samples of context and forecast
        window: samples to draw, counted from the first of the context; if None the end of the context and the forecast
        name: of the series, for the legend
    """
    length, horizon = len(series.context), len(series.forecast)
    if window is None:
        window = max(0, length - CONTEXT_HORIZONS * horizon), length + horizon
    start, stop = crop_window(window, length + horizon)
    past, ahead = slice(start, min(stop, length)), slice(max(start - length, 0), max(stop - length, 0))
    coordinates = axis.coordinates
    before, after = coordinates[:length][past], coordinates[length:][ahead]
    target = series.forecast.new_full((horizon,), torch.nan) if series.target is None else series.target
    values = torch.cat([series.context[past].to(target.dtype), target[ahead]])
    axes.plot([*before, *after], values, color=INK, linewidth=1, label=name)
    if len(after):
        if series.sample_paths is not None:
            for low, high, label in ((0.1, 0.9, "80 % interval"), (0.25, 0.75, "50 % interval")):
                levels = torch.tensor([low, high], dtype=series.sample_paths.dtype)
                band = series.sample_paths.quantile(levels, 0)[:, ahead]
                alpha = 0.18 if low == 0.1 else 0.3
                axes.fill_between(after, *band, color=ORANGE, alpha=alpha, linewidth=0, label=label)
        marker = "o" if len(after) < 3 else ""
        axes.plot(after, series.forecast[ahead], color=ORANGE, marker=marker, markersize=4, label="forecast")
        axes.axvline(float(axis.locate(length - 0.5)), color=DIM, linestyle=":", zorder=0)
    axes.margins(x=0.01)
    axis.apply(axes)
    add_legend(axes)


def forecast(
    run: RunLike,
    data: DataLike | None = None,
    *,
    split: str | None = None,
    sample: int | str = 0,
    channel: int | str | None = None,
    window: tuple[int, int] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a window of a table, its forecast and, where they are known, the values that followed.

    Dates are on the axis if the table has any. Where the loss draws sample paths, their central 50 and 80 % intervals
    are shaded, and the forecast is their mean.

    Args:
        run: run directory, hf://owner/name, pipeline, or what `open_data` returned
        data: other data, see `open_data`
        split: train, val or test; test if None
        sample: number of the window in the split, from 0, or its id: the time at which it begins
        channel: name or number; the last one if None, where tables have their target
        window: samples to draw, from the first of the context; None for the forecast and the end of the context
        ax: to draw on; None makes a figure

    Raises:
        IncompatibleError: the pipeline does not forecast
        OptionError: there is no such sample, channel or window
    """
    source = open_data(run, data, split=split)
    if not can_forecast(source.pipeline):
        raise IncompatibleError(
            "this run does not forecast; draw one that was trained with a horizon, such as --horizon 24"
        )
    row, c = source.find_sample(sample), source.find_channel(channel, default=-1)
    series = compute_forecasts(source, torch.tensor([row]))[0][c]
    with open_axes(ax) as axes:
        draw_forecast(axes, series, get_forecast_axis(source, row, series), window, source.channels[c])
        set_title(axes, f"{source.name}, {source.describe(row)}")
    return axes
