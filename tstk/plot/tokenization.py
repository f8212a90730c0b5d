"""Figures of the tokens of a series: patches, codes, shapes, or coefficients of a transform."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tstk.core.prediction import eval_mode
from tstk.core.types import StepOutput
from tstk.errors import IncompatibleError
from tstk.plot.plot_data import DataLike, PlotData, RunLike, crop_window, find_end, get_samples, open_data
from tstk.plot.style import BLUE, DIM, INK, MAX_COLORS, PALE, SampleAxis, add_legend, get_colors, open_axes, set_title
from tstk.plot.units import to_data_units

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[Any]
MAX_NUMBERS = 40
"""Codes whose numbers are written, at most; more would cover each other."""
MAX_TICKS = 5
IMAGE_LIMIT = 2.5
"""Limit of the colours of an image, in standard deviations from its mean."""


@dataclass
class TokenizedSeries:
    """One channel of a series and its tokens.

    Args:
        samples: [T] in the units of the data, NaN where missing
        starts: [N] sample at which each token begins, in order of time; empty if tokens have no place in time
        ends: [N] sample at which each token ends (exclusive)
        valid: [N] bool, False where nothing was observed
        ids: [N] codes, if tokens are discrete and each has a place of its own
        curves: [N, T] samples that each token stands for, NaN elsewhere, if tokens are no patches
        image: [R, T] coefficients of which tokens are patches, if they are
        image_axis: what the rows of the image are
        rows: R names of them
    """

    samples: Array
    starts: Array
    ends: Array
    valid: Array
    ids: Array | None = None
    curves: Array | None = None
    image: Array | None = None
    image_axis: str = ""
    rows: list[str] = field(default_factory=list)


def tokenize_series(data: PlotData, row: int, channel: int) -> TokenizedSeries:
    """Tokenize a series and return one of its channels with the tokens that contain it.

    Args:
        data: with the series
        row: of the split
        channel: its number

    Raises:
        IncompatibleError: nothing says where the tokens of this tokenizer are
    """
    pipeline, series = data.pipeline, data.batch([row])
    spec, tokenizer = pipeline.tokenizer.out, pipeline.tokenizer
    with eval_mode(pipeline):
        step_output = pipeline.tokenize(series)
        tokens = step_output.tokens
        samples = get_samples(pipeline, series)[0, channel].numpy()
        folded = channel if pipeline.channel_independent else 0
        curves = tokenizer.token_curves(tokens, step_output.series.x.shape[-1])
        image = tokenizer.token_image(tokens)
    # a forecaster pads short contexts on the left, and may append the future
    padding = 0 if pipeline.spec.horizon is None else max(0, pipeline.spec.length - len(samples))
    visible = slice(padding, padding + len(samples))
    nowhere: Array = np.empty(0, int)
    result = TokenizedSeries(samples, nowhere, nowhere, np.empty(0, bool))
    if image is not None:
        values, result.image_axis, result.rows = image
        result.image = values[folded, 0 if pipeline.channel_independent else channel, :, visible].cpu().numpy()
    if curves is not None:
        result.ids = None if tokens.ids is None else tokens.ids[folded].cpu().numpy()
        result.curves = _convert_curves(data, curves, step_output, channel)[:, visible]
    elif spec.stride is not None:
        ends = tokens.end_positions(spec)[folded].cpu().numpy() - padding
        _set_spans(result, ends, spec.patch_len or 1, tokens.valid[folded].cpu().numpy(), tokens.ids, folded)
    elif image is None:
        raise IncompatibleError(f"{tokenizer.display_name()} does not say which samples its tokens stand for")
    return result


def _set_spans(
    result: TokenizedSeries, ends: Array, patch_len: float, valid: Array, ids: Tensor | None, folded: int
) -> None:
    """Set the places of the tokens; those of one place, such as of several scales, are one span."""
    unique, first, counts = np.unique(ends, return_index=True, return_counts=True)
    any_valid = np.array([valid[ends == end].any() for end in unique], dtype=bool)
    inside = (unique > 0) & (unique - patch_len < len(result.samples))
    result.starts, result.ends, result.valid = (unique - patch_len)[inside], unique[inside], any_valid[inside]
    if ids is not None and (counts == 1).all():
        result.ids = ids[folded].cpu().numpy()[first][inside]


def _convert_curves(data: PlotData, curves: Tensor, step_output: StepOutput, channel: int) -> Array:
    """Return curves [B', N, T] of one series as those of one channel, [N, T] in the units of the data."""
    pipeline = data.pipeline
    count = 1 if pipeline.channel_independent else pipeline.spec.channels
    converted = [
        to_data_units(pipeline, curves[:, n, None].expand(-1, count, -1), step_output)[0, channel]
        for n in range(curves.shape[1])
    ]
    return torch.stack(converted).numpy()


def draw_tokens(axes: Axes, series: TokenizedSeries, axis: SampleAxis, window: tuple[int, int], name: str) -> None:
    """Draw a series with its tokens.

    Args:
        axes: to draw on
        series: with its tokens
        axis: of its samples
        window: samples to draw, counted from 0
        name: of the channel, for the legend
    """
    start, stop = window
    coordinates, samples = axis.coordinates[start:stop], series.samples[start:stop]
    target = axes
    if series.image is not None:
        _draw_image(axes, series, axis, window)
        target = axes.twinx()
        target.set_axis_off()
    target.plot(coordinates, samples, color=INK, linewidth=1, label=name, zorder=4)
    axes.set_xlim(*axis.locate([start - 0.5, stop - 0.5]))
    if series.curves is not None:
        _draw_curves(axes, series, axis, window)
    elif len(series.starts):
        _draw_spans(axes, series, axis, window)
    if target is not axes:
        axes.plot([], [], color=INK, linewidth=1, label=name)
    axes.grid(False)
    axis.apply(axes)
    add_legend(axes)


def _draw_spans(axes: Axes, series: TokenizedSeries, axis: SampleAxis, window: tuple[int, int]) -> None:
    """Draw where each token is: bands of alternating grey, or of the colour of its code; overlapping ones as bars."""
    is_shown = (series.ends > window[0]) & (series.starts < window[1])
    numbers = np.flatnonzero(is_shown).tolist()
    left, right = axis.locate(series.starts[is_shown] - 0.5), axis.locate(series.ends[is_shown] - 0.5)
    length = float(np.median(series.ends - series.starts))
    if series.image is not None:
        for number, edge in enumerate(np.union1d(left, right) if length > 1 else ()):
            label = f"border of tokens, {length:g} samples each" if number == 0 else None
            axes.axvline(edge, color=INK, linewidth=0.6, label=label)
        return
    if length <= 1 and series.ids is None:
        samples = slice(*window)
        style: Any = {"color": BLUE, "markersize": 3, "zorder": 5, "label": "token of 1 sample"}
        axes.plot(axis.coordinates[samples], series.samples[samples], ".", **style)
        return
    overlaps = len(series.starts) > 1 and bool((series.starts[1:] < series.ends[:-1]).any())
    # bars of tokens that overlap are stacked in as many rows as there are tokens over a sample
    depth = int(np.ceil(length / np.median(np.diff(series.starts)))) if overlaps else 0
    kind = f"{'token' if series.ids is None else 'code'} of {length:g} samples"
    for place, (number, low, high) in enumerate(zip(numbers, left, right, strict=True)):
        _draw_span(axes, series, number, (low, high), depth, kind if place == 0 else None)
    if not overlaps and len(numbers) <= 4 * MAX_NUMBERS:
        for edge in [*left, *right[-1:]]:
            axes.axvline(edge, color=DIM, linewidth=0.5, zorder=1)
    if series.ids is not None and len(numbers) <= MAX_NUMBERS and not overlaps:
        place_text: Any = {"transform": axes.get_xaxis_transform(), "ha": "center", "va": "top"}
        for low, high, number in zip(left, right, numbers, strict=True):
            text = str(int(series.ids[number])) if series.valid[number] else "-"
            axes.text((low + high) / 2, 0.98, text, fontsize=7, color=INK, clip_on=True, **place_text)


def _draw_span(
    axes: Axes, series: TokenizedSeries, number: int, edges: tuple[float, float], depth: int, label: str | None
) -> None:
    """Draw where one token is, hatched if nothing was observed.

    Args:
        axes: to draw on
        series: with its tokens
        number: of the token
        edges: left and right edge
        depth: rows of bars of overlapping tokens; 0 for a band over the whole height
        label: for the legend
    """
    height = min(0.04, 0.4 / max(depth, 1))
    row = number % depth if depth else 0
    bottom, top = (row * height, (row + 0.8) * height) if depth else (0, 1)
    color: Any = ((BLUE, DIM) if depth else (PALE, "#f6f8fa"))[number % 2]
    if series.ids is not None:
        color = get_colors(MAX_COLORS)[int(series.ids[number]) % MAX_COLORS]
    is_valid = bool(series.valid[number])
    style: Any = {"color": color} if is_valid else {"facecolor": "none", "edgecolor": DIM, "hatch": "///"}
    alpha = None if series.ids is None else 0.35
    transform, zorder = axes.get_xaxis_transform(), 3 if depth else 0
    axes.fill_between(
        edges, bottom, top, alpha=alpha, linewidth=0, transform=transform, zorder=zorder, label=label, **style
    )


def _draw_curves(axes: Axes, series: TokenizedSeries, axis: SampleAxis, window: tuple[int, int]) -> None:
    """Draw the samples that each token stands for, in the colour of its code."""
    assert series.curves is not None
    start, stop = window
    palette, has_label = get_colors(MAX_COLORS), False
    for n, curve in enumerate(series.curves[:, start:stop]):
        if np.isnan(curve).all():
            continue
        color = BLUE if series.ids is None else palette[int(series.ids[n]) % MAX_COLORS]
        kind = "token" if series.ids is None else "shape of a code"
        axes.plot(
            axis.coordinates[start:stop],
            curve,
            color=color,
            linewidth=1.4,
            alpha=0.6,
            label=None if has_label else kind,
        )
        has_label = True


def _draw_image(axes: Axes, series: TokenizedSeries, axis: SampleAxis, window: tuple[int, int]) -> None:
    """Draw the coefficients as an image, the first row at the bottom, and the borders of patches in time."""
    assert series.image is not None
    start, stop = window
    image = series.image[:, start:stop]
    left, right = axis.locate([start - 0.5, stop - 0.5])
    axes.imshow(
        image,
        cmap="RdBu_r",
        vmin=-IMAGE_LIMIT,
        vmax=IMAGE_LIMIT,
        aspect="auto",
        origin="lower",
        extent=(left, right, -0.5, len(image) - 0.5),
        alpha=0.75,
        interpolation="nearest",
    )
    axes.set_ylabel(series.image_axis)
    if series.rows:
        ticks = np.unique(np.linspace(0, len(image) - 1, MAX_TICKS).round().astype(int)).tolist()
        axes.set_yticks(ticks, [series.rows[tick] for tick in ticks])


def tokens(
    run: RunLike,
    data: DataLike | None = None,
    *,
    split: str | None = None,
    sample: int | str = 0,
    channel: int | str | None = None,
    window: tuple[int, int] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a series with its tokens: borders of patches, codes, shapes, or coefficients that are cut into tokens.

    Tokens in which nothing was observed are hatched. Colours of codes repeat after 20.

    Args:
        run: run directory, hf://owner/name, pipeline, or what `open_data` returned
        data: other data, see `open_data`
        split: train, val or test; test if None
        sample: number of the series in the split, from 0, or its id
        channel: name or number; the first one if None
        window: samples to draw, from 0, such as (100, 200); None for all
        ax: to draw on; None makes a figure

    Raises:
        IncompatibleError: the tokenizer does not say which samples its tokens stand for
        OptionError: there is no such sample, channel or window
    """
    source = open_data(run, data, split=split)
    row, c = source.find_sample(sample), source.find_channel(channel)
    series = tokenize_series(source, row, c)
    shown = crop_window(window, find_end(series.samples))
    with open_axes(ax) as axes:
        draw_tokens(axes, series, source.get_axis(row, len(series.samples)), shown, source.channels[c])
        set_title(axes, f"{source.name}, {source.describe(row)}")
    return axes
