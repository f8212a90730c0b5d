"""Report section of the CoT head: attention maps of its reasoning tokens, next to the series."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tstk.builtin.heads.cot import CoT
from tstk.plot.attention_maps import compute_attention, describe_range, draw_attention
from tstk.plot.plot_data import find_end, get_samples
from tstk.plot.style import INK, SampleAxis, add_legend
from tstk.report.context import RunContext
from tstk.report.page import Section, render_panel, render_panels, render_paragraph

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_SERIES = 4


def render_reasoning_attention(context: RunContext) -> Section | None:
    """Render a few series of different classes, each with its attention map."""
    pipeline, split = context.pipeline, context.split
    if not isinstance(pipeline.head, CoT):
        return None
    rows = _select_rows(context)
    attention_maps, predictions = compute_attention(context, rows)
    samples = get_samples(pipeline, split.batch(rows))
    stride = pipeline.tokenizer.out.stride
    channels = context.select_channels(range(len(context.channels)))
    names = [context.channels[channel] for channel in channels]
    figures = []
    for i, row in enumerate(rows.tolist()):
        label = f"{context.describe(row)}, predicted {context.run_config.classes[predictions[i]]}"
        x = samples[i, channels]
        x = x[:, : max(find_end(channel) for channel in x)]
        axis = context.get_axis(row, x.shape[1])
        figures.append(_plot_series(label, x, names, axis))
        span = describe_range(attention_maps[i])
        alt = f"Attention of {len(attention_maps[i])} reasoning tokens over {label}: {span}"
        figures.append(
            render_panel(
                f"attention, {span}",
                alt,
                lambda axes, i=i, axis=axis: draw_attention(axes, attention_maps[i], axis, stride),  # type: ignore[misc]
                height=3.6,
            )
        )
    text = (
        "Each series is followed by the attention weights of every reasoning token in the first cross-attention, one "
        "band per reasoning token, as multiples of uniform attention; the darkest cells have the largest weights. "
        "Horizontal axis: time; within a band, upwards: the other axes of the token grid, such as scale and channel. "
        "Values near 1 mean that a reasoning token attends to all tokens alike."
    )
    return Section(
        f"Attention of the reasoning tokens, {context.split_name} split",
        render_paragraph(text) + render_panels(figures, pairs=True),
    )


def _select_rows(context: RunContext) -> Tensor:
    """Return rows of the split, of different classes as far as possible."""
    if context.selection.samples:
        return context.select_rows(MAX_SERIES)
    rows = context.sample_rows()
    if context.split.y is None:
        return rows[:MAX_SERIES]
    y = context.split.y[rows].tolist()
    first_row = {label: i for i, label in reversed(list(enumerate(y)))}
    selected = sorted(first_row.values())
    selected += [i for i in range(len(y)) if i not in selected]
    return rows[torch.tensor(sorted(selected[:MAX_SERIES]))]


def _plot_series(label: str, x: Tensor, names: list[str], axis: SampleAxis) -> str:
    def draw(axes: Axes) -> None:
        for channel, name in zip(x, names, strict=True):
            axes.plot(axis.coordinates, channel, linewidth=1, label=name, color=INK if len(x) == 1 else None)
        axes.margins(x=0)
        axis.apply(axes)
        if len(names) <= 10:
            add_legend(axes)

    return render_panel(label, f"The samples of {label}", draw)
