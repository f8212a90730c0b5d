"""Report section on a class per sample: true and predicted classes as bands over series, and a table by class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from tstk.core.batches import split_rows
from tstk.evaluation.classification import per_class_metrics
from tstk.evaluation.segments import find_segments, join_windows
from tstk.report.context import RunContext, get_samples
from tstk.report.page import INK, Section, render_panel, render_panels, render_paragraph, render_table

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
    predictions = torch.cat(
        [
            pipeline.predict_batch(split.batch(rows).to(pipeline.mean.device)).argmax(1).cpu()
            for rows in split_rows(split, 256)
        ]
    )[:, : split.y.shape[1]]
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
    chosen = np.unique(np.linspace(0, len(series) - 1, min(MAX_PANELS, len(series))).astype(int))
    figures = [_plot_series(context, series[i], predictions, names) for i in chosen]
    text = "Upper band: true classes, white where unknown; lower band: predicted classes; line: the first channel."
    html = render_table(columns, table, right_aligned=columns[1:]) + render_paragraph(text) + render_panels(figures)
    return Section(f"Classes of samples, {context.split_name} split", html)


def _plot_series(context: RunContext, rows: list[int], predictions: torch.Tensor, names: tuple[str, ...]) -> str:
    """Plot the first channel of a series, or of its windows, over bands of its classes."""
    split, y = context.split, context.split.y
    assert y is not None
    rows = rows[: max(1, MAX_SAMPLES // y.shape[1])]
    end = sum(int(split.lengths[row]) for row in rows)
    samples = torch.cat([get_samples(context.pipeline, split.batch(torch.tensor([row])))[0, 0] for row in rows])[:end]
    bands = [part[rows].flatten().numpy()[:end] for part in (y, predictions)]
    agreement = float((bands[0] == bands[1])[bands[0] >= 0].mean()) if (bands[0] >= 0).any() else float("nan")
    name = f"series {rows[0] + 1:,}" if split.ids is None else split.ids[rows[0]]

    def draw(axes: Axes) -> None:
        from matplotlib import colormaps

        colors = colormaps["tab10" if len(names) <= 10 else "tab20"]
        axes.plot(samples, color=INK, linewidth=0.8)
        low, high = axes.get_ylim()
        height = 0.12 * (high - low)
        shown = set()
        for band, bottom in zip(bands, (high + 1.4 * height, high + 0.2 * height), strict=True):
            for k, start, stop in find_segments(band).tolist():
                label = None if k in shown else names[k]
                axes.barh(bottom, stop - start, height, start, align="edge", color=colors(k % 20), label=label)
                shown.add(k)
        if len(names) <= 20:
            axes.figure.legend(loc="outside lower center", ncols=3, handletextpad=0.4, columnspacing=1)
        axes.set_xlabel("sample")
        axes.grid(False)

    label = f"{name}, {end:,} samples, {agreement:.0%} correct"
    return render_panel(label, f"True and predicted classes of {label}", draw, height=3.0)
