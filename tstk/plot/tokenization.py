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
from tstk.plot.style import BLUE, DIM, INK, PALE, SampleAxis, add_legend, get_colors, open_axes, set_title
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
    numbers = np.flatnonzero(is_shown)
    left, right = axis.locate(series.starts[is_shown] - 0.5), axis.locate(series.ends[is_shown] - 0.5)
    length = float(np.median(series.ends - series.starts))
    if length <= 1 and series.ids is None:
        axes.plot(
            axis.coordinates[window[0] : window[1]],
            series.samples[window[0] : window[1]],
            ".",
            color=BLUE,
            markersize=3,
            zorder=5,
            label="token of 1 sample",
        )
        return
    overlaps = len(series.starts) > 1 and bool((series.starts[1:] < series.ends[:-1]).any())
    codes = None if series.ids is None else series.ids[is_shown]
    palette = get_colors(20)
    # bars of tokens that overlap are stacked in as many rows as there are tokens over a sample
    depth = int(np.ceil(length / np.median(np.diff(series.starts)))) if overlaps else 1
    height = min(0.04, 0.4 / depth)
    transform = axes.get_xaxis_transform()
    kind = f"{'code' if codes is not None else 'token'} of {length:g} samples"
    if series.image is not None:
        for number, edge in enumerate(np.union1d(left, right)):
            label = f"border of tokens, {length:g} samples each" if number == 0 else None
            axes.axvline(edge, color=INK, linewidth=0.6, label=label)
        return
    for place, (number, low, high) in enumerate(zip(numbers.tolist(), left, right, strict=True)):
        is_valid = bool(series.valid[number])
        color: Any = (PALE, "#f6f8fa")[number % 2] if codes is None else palette[int(codes[place]) % 20]
        color = color if not overlaps or codes is not None else (BLUE, DIM)[number % 2]
        bottom, top = (number % depth * height, (number % depth + 0.8) * height) if overlaps else (0, 1)
        axes.fill_between(
            [low, high],
            bottom,
            top,
            color=color if is_valid else "none",
            alpha=None if codes is None else 0.35,
            hatch=None if is_valid else "///",
            edgecolor="none" if is_valid else DIM,
            linewidth=0,
            transform=transform,
            zorder=0 if not overlaps else 3,
            label=kind if place == 0 else None,
        )
    if not overlaps and len(numbers) <= 4 * MAX_NUMBERS:
        for edge in [*left, *right[-1:]]:
            axes.axvline(edge, color=DIM, linewidth=0.5, zorder=1)
    if codes is not None and len(numbers) <= MAX_NUMBERS and not overlaps:
        for low, high, code, number in zip(left, right, codes, numbers.tolist(), strict=True):
            text = str(int(code)) if series.valid[number] else "-"
            middle = (low + high) / 2
            axes.text(
                middle, 0.98, text, transform=transform, ha="center", va="top", fontsize=7, color=INK, clip_on=True
            )


def _draw_curves(axes: Axes, series: TokenizedSeries, axis: SampleAxis, window: tuple[int, int]) -> None:
    """Draw the samples that each token stands for, in the colour of its code."""
    assert series.curves is not None
    start, stop = window
    palette, has_label = get_colors(20), False
    for n, curve in enumerate(series.curves[:, start:stop]):
        if np.isnan(curve).all():
            continue
        color = BLUE if series.ids is None else palette[int(series.ids[n]) % 20]
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
