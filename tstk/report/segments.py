"""Report section on a class per sample: true and predicted classes as bands over series, and a table by class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from tstk.evaluation.classification import per_class_metrics
from tstk.evaluation.evaluate import iter_predictions
from tstk.evaluation.segments import find_segments, join_windows
from tstk.plot.plot_data import crop_window, get_samples
from tstk.plot.style import INK, MAX_COLORS, add_legend, get_colors
from tstk.report.context import RunContext
from tstk.report.page import Section, render_panel, render_panels, render_paragraph, render_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[Any]
MAX_PANELS = 4
MAX_SAMPLES = 4000
"""Samples of a recording that are drawn, from its beginning."""


def render_segments(context: RunContext) -> Section | None:
    """Render the scores of each class, and bands of true and predicted classes over some series."""
    pipeline, split = context.pipeline, context.split
    is_segmentation = pipeline.task is not None and pipeline.task.target_type == "sample-class"
    if pipeline.head is None or split.y is None or not is_segmentation:
        return None
    length, names = pipeline.spec.length, tuple(context.run_config.classes)
    outputs = iter_predictions(pipeline, split, f"{context.split_name} split")
    predictions = torch.cat([logits.argmax(1) for logits in outputs])[:, : split.y.shape[1]]
    known = split.y >= 0
    scores = per_class_metrics(split.y[known], predictions[known], len(names))
    series = join_windows(split, len(split), length)
    true_segments = [find_segments(split.y[rows].flatten().numpy()) for rows in series]
    predicted_segments = [find_segments(predictions[rows].where(known[rows], -1).flatten().numpy()) for rows in series]
    columns = ["class", "precision", "recall", "F1", "samples", "true segments", "predicted segments"]
    table = [
        [
            name,
            *(f"{scores[score][k]:.3f}" for score in ("precision", "recall", "f1")),
            f"{int((split.y == k).sum()):,}",
            *(
                f"{sum(int((part[:, 0] == k).sum()) for part in parts):,}"
                for parts in (true_segments, predicted_segments)
            ),
        ]
        for k, name in enumerate(names)
    ]
    chosen = np.unique(np.linspace(0, len(series) - 1, min(MAX_PANELS, len(series))).astype(int)).tolist()
    if context.selection.samples:
        wanted = set(context.select_rows(MAX_PANELS).tolist())
        chosen = [i for i, rows in enumerate(series) if wanted.intersection(rows)]
    channels = context.select_channels([0])
    figures = [_plot_series(context, series[i], predictions, channel) for i in chosen for channel in channels]
    text = "A band is white where the true class is unknown."
    html = render_table(columns, table, right_aligned=columns[1:]) + render_paragraph(text) + render_panels(figures)
    return Section(f"Classes of samples, {context.split_name} split", html)


def _plot_series(context: RunContext, rows: list[int], predictions: torch.Tensor, channel: int) -> str:
    """Plot a channel of a series, or of its windows, below bands of its classes."""
    split, y, names = context.split, context.split.y, context.run_config.classes
    assert y is not None
    if context.window is None:
        rows = rows[: max(1, MAX_SAMPLES // y.shape[1])]
    length = sum(int(split.lengths[row]) for row in rows)
    first, end = crop_window(context.window, length)
    batches = [get_samples(context.pipeline, split.batch(torch.tensor([row])))[0, channel] for row in rows]
    samples = torch.cat(batches)[first:end]
    bands = [part[rows].flatten().numpy()[first:end] for part in (y, predictions)]
    agreement = float((bands[0] == bands[1])[bands[0] >= 0].mean()) if (bands[0] >= 0).any() else float("nan")
    name = f"series {rows[0]:,}" if split.ids is None else split.ids[rows[0]]

    def draw(axes: Axes) -> None:
        colors = get_colors(len(names))
        axes.plot(np.arange(first, end), samples, color=INK, linewidth=0.8)
        low, high = axes.get_ylim()
        height = 0.12 * (high - low)
        shown = set()
        bottoms = (high + 1.4 * height, high + 0.2 * height)
        for title, band, bottom in zip(("true", "predicted"), bands, bottoms, strict=True):
            for k, start, stop in find_segments(band).tolist():
                label = None if k in shown or len(names) > MAX_COLORS else names[k]
                left = first + start - 0.5
                axes.barh(bottom, stop - start, height, left, align="edge", color=colors[k], label=label, linewidth=0)
                shown.add(k)
            place: Any = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": 8}
            axes.text(1.01, bottom + height / 2, title, **place)
        axes.margins(x=0)
        axes.set_xlabel("sample")
        axes.set_ylabel(context.channels[channel])
        axes.grid(False)
        add_legend(axes)

    label = f"{name}, {end - first:,} samples, {agreement:.0%} correct"
    return render_panel(label, f"True and predicted classes of {label}", draw, height=3.0)
