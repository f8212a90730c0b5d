"""Report sections on predictions: forecasts, reconstructions and embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tstk.core.batches import split_rows
from tstk.core.linear_map import get_last_value
from tstk.core.types import Series
from tstk.errors import DataError
from tstk.evaluation.evaluate import iter_predictions
from tstk.evaluation.formatting import format_number
from tstk.evaluation.metrics import ForecastMetrics, multilabel_metrics, regression_metrics
from tstk.plot.embeddings import Embeddings, compute_embeddings, draw_embeddings, project
from tstk.plot.forecasts import ForecastSeries, can_forecast, compute_forecasts, draw_forecast, get_forecast_axis
from tstk.plot.plot_data import MAX_ROWS
from tstk.plot.reconstructions import (
    ReconstructedSeries,
    compute_reconstructions,
    draw_reconstruction,
    predicts_masked_targets,
)
from tstk.plot.style import BLUE, DIM, ORANGE, add_legend
from tstk.report.context import RunContext
from tstk.report.page import Section, render_panel, render_panels, render_paragraph, render_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[Any]
MAX_PANELS = 6
MAX_TSNE_SERIES = 500


def render_numbers(context: RunContext) -> Section | None:
    """Render predicted over true numbers, a panel per target, and the metrics of each target."""
    pipeline, y = context.pipeline, context.split.y
    if pipeline.head is None or pipeline.target_mean is None or y is None:
        return None
    predictions = torch.cat(list(iter_predictions(pipeline, context.split, f"{context.split_name} split")))
    rows: list[list[str]] = []
    figures: list[str] = []
    for k, name in enumerate(pipeline.target_names):
        known = y[:, k].isfinite()
        metrics = regression_metrics(predictions[:, k : k + 1], y[:, k : k + 1], [name])
        if metrics:
            scores = [format_number(metrics[m]) for m in ("r2", "rmse", "mae")]
            rows.append([name, *scores, f"{int(known.sum()):,}"])
            if len(figures) < MAX_PANELS:
                figures.append(_plot_predicted_over_true(name, y[known, k], predictions[known, k]))
    columns = ["target", "R2", "RMSE", "MAE", "series"]
    html = render_table(columns, rows, right_aligned=columns[1:]) + render_panels(figures)
    return Section(f"Targets, {context.split_name} split", html)


def _plot_predicted_over_true(name: str, targets: Tensor, predictions: Tensor) -> str:
    rows = torch.linspace(0, len(targets) - 1, min(len(targets), MAX_ROWS)).long()
    ends = [float(targets.min()), float(targets.max())]

    def draw(axes: Axes) -> None:
        axes.plot(ends, ends, color=DIM, linestyle=":", zorder=0)
        axes.scatter(targets[rows], predictions[rows], s=10, color=BLUE, linewidths=0, alpha=0.6)
        axes.set_xlabel("true")
        axes.set_ylabel("predicted")

    alt = f"Predicted over true {name}, true values from {format_number(ends[0])} to {format_number(ends[1])}"
    return render_panel(name, alt, draw, height=3.2)


def render_labels(context: RunContext) -> Section | None:
    """Render the metrics of each of several labels."""
    pipeline, y = context.pipeline, context.split.y
    if pipeline.head is None or y is None or pipeline.task is None or pipeline.task.target_type != "labels":
        return None
    logits = torch.cat(list(iter_predictions(pipeline, context.split, f"{context.split_name} split")))
    columns = ["label", "F1", "AUROC", "AUPRC", "series with it", "predicted"]
    rows = []
    for k, name in enumerate(context.run_config.classes):
        metrics = multilabel_metrics(logits[:, k : k + 1], y[:, k : k + 1], [name])
        scores = [None if m not in metrics else f"{metrics[m]:.3f}" for m in ("f1_macro", "auroc", "auprc")]
        rows.append([name, *scores, f"{int((y[:, k] == 1).sum()):,}", f"{int((logits[:, k] >= 0).sum()):,}"])
    return Section(f"Labels, {context.split_name} split", render_table(columns, rows, right_aligned=columns[1:]))


def render_forecasts(context: RunContext) -> Section | None:
    """Render forecasts over the targets, and the error by forecast step."""
    if not can_forecast(context.pipeline):
        return None
    channels = context.select_channels()
    rows = context.select_rows(max(1, MAX_PANELS // len(channels)))
    forecasts = compute_forecasts(context, rows)
    figures = [
        _plot_forecast(context, row, channel, channels_of_row[channel])
        for channel in channels
        for row, channels_of_row in zip(rows.tolist(), forecasts, strict=True)
    ]
    text = "Each panel is a window: the end of its context, and the forecast over the values that followed."
    text += context.describe_channels(channels)
    sample_paths = forecasts[0][0].sample_paths
    if sample_paths is not None:
        text += f" Intervals are central ones of {len(sample_paths)} sample paths; the forecast is their mean."
    error_panel, error_note = _plot_error_by_step(context)
    return Section(
        f"Forecasts, {context.split_name} split",
        render_paragraph(text) + render_panels([*figures, error_panel]) + render_paragraph(error_note),
    )


def _plot_forecast(context: RunContext, row: int, channel: int, series: ForecastSeries) -> str:
    name = context.channels[channel]
    axis, label = get_forecast_axis(context, row, series), f"{name}, {context.describe(row)}"
    return render_panel(
        label,
        f"Context, target and forecast of {label}",
        lambda axes: draw_forecast(axes, series, axis, context.window, name),
    )


def _plot_error_by_step(context: RunContext) -> tuple[str, str]:
    """Plot the MSE at each forecast step, standardized by the training data, next to that of the last value.

    Returns:
        the panel and a note on how errors were computed
    """
    mean, std = context.pipeline.mean.cpu(), context.pipeline.std.cpu()
    metrics = ForecastMetrics(context.pipeline.raw_mean, std)
    rows = context.sample_rows(MAX_ROWS // max(1, context.pipeline.loss.default_num_samples or 0))
    model_errors, naive = [], []
    for series in _iter_batches(context, rows):
        forecasts, cpu_series = context.pipeline.predict_batch(series).cpu(), series.to("cpu")
        assert cpu_series.y is not None
        model_errors.append(((forecasts - cpu_series.y) / std).square())
        naive.append(((get_last_value(cpu_series) - cpu_series.y) / std).square())
        known = cpu_series.x.where(cpu_series.observed_mask, torch.nan)
        metrics.update(*((samples - mean) / std for samples in (forecasts, cpu_series.y, known)))
    errors = [torch.cat(squared_errors).nanmean((0, 1)) for squared_errors in (model_errors, naive)]
    ahead = np.arange(1, len(errors[0]) + 1)

    def draw(axes: Axes) -> None:
        mark = "o" if len(ahead) < 3 else ""
        for error, color, name in zip(errors, (ORANGE, DIM), ("forecast", "last value"), strict=True):
            axes.plot(ahead, error, color=color, label=name, marker=mark)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("steps ahead")
        add_legend(axes)

    alt = f"Mean square error from {errors[0][0]:.3f} one step ahead to {errors[0][-1]:.3f} {len(ahead)} steps ahead"
    note = f"Errors are means over {len(rows):,} windows, in units of the training standard deviation."
    note = f"{note} {metrics.describe_mase(context.channels)}".rstrip()
    return render_panel("mean square error by step ahead", alt, draw), note


def render_masked_reconstructions(context: RunContext) -> Section | None:
    """Render masked samples and their reconstruction by the decoder."""
    if not predicts_masked_targets(context.pipeline):
        return None
    text = "The encoder did not see the shaded samples; the decoder predicts them from the others."
    return _render_series(context, "Masked samples", text)


def render_reconstructions(context: RunContext) -> Section | None:
    """Render series with their reconstructions by an autoencoder."""
    if context.pipeline.decoder is None or not context.pipeline.decoder.predicts_series:
        return None
    text = "The input of the tokenizer, and its reconstruction from the codes."
    return _render_series(context, "Reconstructions", text)


def _render_series(context: RunContext, title: str, text: str) -> Section:
    """Render a panel with its reconstruction for some channels of some series."""
    channels = context.select_channels()
    text += context.describe_channels(channels)
    rows = context.select_rows(max(1, MAX_PANELS // len(channels)))
    series = compute_reconstructions(context, rows)
    figures = [
        _plot_reconstruction(context, row, channel, channels_of_row[channel])
        for channel in channels
        for row, channels_of_row in zip(rows.tolist(), series, strict=True)
    ]
    return Section(f"{title}, {context.split_name} split", render_paragraph(text) + render_panels(figures))


def _plot_reconstruction(context: RunContext, row: int, channel: int, series: ReconstructedSeries) -> str:
    name, axis = context.channels[channel], context.get_axis(row, len(series.samples))
    label = f"channel {name} of {context.describe(row)}, {series.describe()}"
    return render_panel(
        label,
        f"The series and its reconstruction: {label}",
        lambda axes: draw_reconstruction(axes, series, axis, context.window, name),
    )


def render_embeddings(context: RunContext) -> Section | None:
    """Render two-dimensional projections of the embeddings, coloured by class."""
    if context.pipeline.spec.horizon is not None or len(context.split) < 3:
        return None
    embeddings = compute_embeddings(context)
    count, title = len(embeddings.values), f"Embeddings, {context.split_name} split"
    figures = []
    try:
        for method in ("pca", "tsne") if 10 <= count <= MAX_TSNE_SERIES else ("pca",):
            points, label = project(embeddings.values, method)
            figures.append(_plot_embeddings(label, points, embeddings))
    except DataError:
        return Section(title, render_paragraph("Not drawn: embeddings are not finite, or have a single dimension."))
    text = f"{count:,} of {len(context.split):,} series, mean-pooled tokens."
    if embeddings.target:
        text += f" Colour: {embeddings.target}."
    return Section(title, render_paragraph(text) + render_panels(figures))


def _plot_embeddings(label: str, points: Array, embeddings: Embeddings) -> str:
    alt = f"{len(points)} embeddings, {label}" + (", coloured by class" if embeddings.classes else "")
    return render_panel(label, alt, lambda axes: draw_embeddings(axes, points, embeddings), height=4.0)


def _iter_batches(context: RunContext, rows: Tensor) -> Iterator[Series]:
    """Iterate over rows of the split in batches on the pipeline's device."""
    for index in split_rows(context.split, 256, rows):
        yield context.split.batch(index).to(context.pipeline.mean.device)
