"""Report sections on predictions: forecasts, masked reconstructions and embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tstk.core.batches import split_rows
from tstk.core.linear_map import get_last_value
from tstk.core.rng import SampleRNG
from tstk.core.types import Series, StepOutput
from tstk.evaluation.formatting import format_number
from tstk.evaluation.metrics import multilabel_metrics, regression_metrics
from tstk.report.context import MAX_ROWS, RunContext, get_samples, to_data_units
from tstk.report.page import (
    BLUE,
    DIM,
    INK,
    ORANGE,
    Section,
    render_panel,
    render_panels,
    render_paragraph,
    render_table,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[Any]
MAX_PANELS = 6
NUM_FORECAST_SAMPLES = 50
"""Sample paths drawn for prediction intervals."""


def render_numbers(context: RunContext) -> Section | None:
    """Render predicted over true numbers, a panel per target, and the metrics of each target."""
    pipeline, y = context.pipeline, context.split.y
    if pipeline.head is None or pipeline.target_mean is None or y is None:
        return None
    predictions = torch.cat([pipeline.predict_batch(series).cpu() for series in _iter_batches(context, None)])
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
    logits = torch.cat([pipeline.predict_batch(series).cpu() for series in _iter_batches(context, None)])
    columns = ["label", "F1", "AUROC", "AUPRC", "series with it", "predicted"]
    rows = []
    for k, name in enumerate(context.run_config.classes):
        metrics = multilabel_metrics(logits[:, k : k + 1], y[:, k : k + 1], [name])
        scores = [None if m not in metrics else f"{metrics[m]:.3f}" for m in ("f1_macro", "auroc", "auprc")]
        rows.append([name, *scores, f"{int((y[:, k] == 1).sum()):,}", f"{int((logits[:, k] >= 0).sum()):,}"])
    return Section(f"Labels, {context.split_name} split", render_table(columns, rows, right_aligned=columns[1:]))


def render_forecasts(context: RunContext) -> Section | None:
    """Render forecasts over the targets, and the error by forecast step."""
    pipeline = context.pipeline
    if pipeline.spec.horizon is None or (pipeline.head is None and not pipeline.can_forecast):
        return None
    names = context.run_config.channels
    channels = range(len(names))[-2:]
    figures = []
    rows = context.sample_rows(MAX_PANELS // len(channels))
    series = context.split.batch(rows)
    assert series.y is not None
    forecasts, sample_paths = _compute_forecasts(context, series)
    contexts = get_samples(pipeline, series)
    targets = get_samples(pipeline, Series(series.y))
    for channel in channels:
        for i, window in enumerate(rows.tolist()):
            label = f"{names[channel]}, window {window + 1:,} of {len(context.split):,}"
            paths = None if sample_paths is None else sample_paths[:, i, channel]
            figures.append(
                _plot_forecast(label, contexts[i, channel], targets[i, channel], forecasts[i, channel], paths)
            )
    text = "Dark: context and target; orange: forecast."
    if sample_paths is not None:
        text += (
            f" Shaded: central 50 and 80 % intervals of {len(sample_paths)} sample paths; the forecast is their mean."
        )
    error_panel, error_note = _plot_error_by_step(context)
    return Section(
        f"Forecasts, {context.split_name} split",
        render_paragraph(text) + render_panels([*figures, error_panel]) + render_paragraph(error_note),
    )


@torch.no_grad()
def _compute_forecasts(context: RunContext, series: Series) -> tuple[Tensor, Tensor | None]:
    """Compute forecasts [B, C, H] and, if the loss samples, sample paths [S, B, C, H], in the units of the data."""
    pipeline = context.pipeline
    num_samples = (
        None
        if pipeline.loss.default_num_samples is None
        else max(pipeline.loss.default_num_samples, NUM_FORECAST_SAMPLES)
    )
    output = pipeline.predict_step(series.to(pipeline.mean.device), num_samples=num_samples)
    unscaled = [
        None if t is None else t.cpu() * pipeline.std.cpu() + pipeline.raw_mean.cpu()
        for t in (output.head_output, output.forecast_samples)
    ]
    assert unscaled[0] is not None
    return unscaled[0], unscaled[1]


def _plot_forecast(
    label: str, context_values: Tensor, future: Tensor, forecast: Tensor, forecast_samples: Tensor | None
) -> str:
    horizon = len(future)
    context_values = context_values[-3 * horizon :]  # a long context would leave little room for the forecast

    def draw(axes: Axes) -> None:
        ahead = np.arange(1, horizon + 1)
        axes.plot(np.arange(1 - len(context_values), 1), context_values, color=INK, linewidth=1)
        axes.plot(ahead, future, color=INK, linewidth=1)
        if forecast_samples is not None:
            for low, high in ((0.1, 0.9), (0.25, 0.75)):
                band = forecast_samples.quantile(torch.tensor([low, high], dtype=forecast_samples.dtype), 0)
                axes.fill_between(ahead, *band, color=ORANGE, alpha=0.18, linewidth=0)
        axes.plot(ahead, forecast, color=ORANGE)
        axes.axvline(0.5, color=DIM, linestyle=":", zorder=0)
        axes.set_xlabel("steps ahead")

    return render_panel(label, f"Context, target and forecast of {label}", draw)


def _plot_error_by_step(context: RunContext) -> tuple[str, str]:
    """Plot the MSE at each forecast step, standardized by the training data, next to that of the last value.

    Returns:
        the panel and a note on how errors were computed
    """
    std = context.pipeline.std.cpu()
    rows = context.sample_rows(MAX_ROWS // max(1, context.pipeline.loss.default_num_samples or 0))
    model_errors, naive = [], []
    for series in _iter_batches(context, rows):
        forecasts, cpu_series = context.pipeline.predict_batch(series).cpu(), series.to("cpu")
        assert cpu_series.y is not None
        model_errors.append(((forecasts - cpu_series.y) / std).square())
        naive.append(((get_last_value(cpu_series) - cpu_series.y) / std).square())
    errors = [torch.cat(squared_errors).nanmean((0, 1)) for squared_errors in (model_errors, naive)]
    ahead = np.arange(1, len(errors[0]) + 1)

    def draw(axes: Axes) -> None:
        mark = "o" if len(ahead) < 3 else ""
        for error, color, name in zip(errors, (ORANGE, DIM), ("forecast", "last value"), strict=True):
            axes.plot(ahead, error, color=color, label=name, marker=mark)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("steps ahead")
        axes.legend()

    alt = f"Mean square error from {errors[0][0]:.3f} one step ahead to {errors[0][-1]:.3f} {len(ahead)} steps ahead"
    title = "mean square error by step ahead"
    return render_panel(
        title, alt, draw
    ), f"Errors are means over {len(rows):,} windows, in units of the training standard deviation."


def render_masked_reconstructions(context: RunContext) -> Section | None:
    """Render masked samples and their reconstruction by the decoder."""
    pipeline = context.pipeline
    decoder, tokenizer, loss_spec = pipeline.decoder, pipeline.tokenizer, pipeline.loss.out
    targets_are_samples = tokenizer.invertible and loss_spec.target_dim is not None and not loss_spec.predicts_in_place
    if decoder is None or decoder.predicts_series or pipeline.loss.masks_future or not targets_are_samples:
        return None
    names = context.run_config.channels
    channels = range(len(names))[:2]
    rows = context.sample_rows(MAX_PANELS // len(channels))
    series = context.split.batch(rows).to(pipeline.mean.device)
    assert series.sample_id is not None
    with torch.no_grad():
        output = pipeline(series, SampleRNG(context.run_config.options("train")["seed"], 0, series.sample_id))
        reconstruction = _reconstruct_series(context, output)
    inputs = output.series.x.masked_fill(~output.series.observed_mask, torch.nan)
    targets, reconstruction = (to_data_units(pipeline, values, output) for values in (inputs, reconstruction))
    masked = _find_masked_samples(context, output).cpu()
    figures = []
    for channel in channels:
        for i, row in enumerate(rows.tolist()):
            # independent channels are folded into the batch
            folded = i * len(names) + channel if pipeline.channel_independent else i
            label = f"channel {names[channel]} of series {row + 1:,}"
            panel = _plot_masked_reconstruction(label, targets[i, channel], reconstruction[i, channel], masked[folded])
            figures.append(panel)
    text = "Dark: the series; shaded: masked; orange: the reconstruction."
    return Section(f"Masked samples, {context.split_name} split", render_paragraph(text) + render_panels(figures))


def _reconstruct_series(context: RunContext, step_output: StepOutput) -> Tensor:
    """Return the series [B*, C*, T] with the targets of the queries replaced by predictions."""
    target, count = step_output.tokens.target, len(step_output.series.x)
    assert step_output.predictions is not None
    assert target is not None
    grid = target.new_zeros(count, context.pipeline.tokenizer.out.num_tokens, target.shape[-1])
    for tokens, values in ((step_output.tokens, target), (step_output.queries, step_output.predictions)):
        # a loss with several masks repeats the batch; the first mask is shown
        for row, slots, valid, value in zip(range(count), tokens.grid_index, tokens.valid, values, strict=False):
            grid[row, slots[valid]] = value[valid].to(grid.dtype)
    return context.pipeline.tokenizer.targets_to_series(grid, step_output.series.x.shape[-1])


def _find_masked_samples(context: RunContext, step_output: StepOutput) -> Tensor:
    """Return [B*, T] bool: samples covered by a masked token and by no visible one."""
    spec, (count, _, length) = context.pipeline.tokenizer.out, step_output.series.x.shape
    time = torch.arange(length, device=step_output.series.x.device)

    def is_covered(tokens: Any, mask: Tensor) -> Tensor:
        ends = tokens.end_positions(spec)[:count, :, None]
        return ((time < ends) & (time >= ends - (spec.patch_len or 1)) & mask[:count, :, None]).any(1)

    return is_covered(step_output.queries, step_output.masked) & ~is_covered(
        step_output.visible, step_output.visible.valid
    )


def _plot_masked_reconstruction(label: str, targets: Tensor, reconstruction: Tensor, masked: Tensor) -> str:
    # a token may reach beyond the end of a series, where predictions have no target
    end = max(int((~targets.isnan() * torch.arange(1, len(targets) + 1)).max()), 1)
    targets, reconstruction, masked = targets[:end], reconstruction[:end], masked[:end]
    edges = np.flatnonzero(np.diff(np.pad(masked.numpy().astype(int), 1))).reshape(-1, 2)

    def draw(axes: Axes) -> None:
        for begin, end in edges:
            axes.axvspan(begin - 0.5, end - 0.5, color="#eef1f5", linewidth=0)
        axes.plot(targets, color=INK, linewidth=1)
        # connect each reconstructed segment to the samples on both sides
        is_drawn = np.convolve(masked, [1, 1, 1], "same") > 0
        line = torch.where(masked, reconstruction, targets).masked_fill(~torch.from_numpy(is_drawn), torch.nan)
        axes.plot(line, color=ORANGE)
        axes.set_xlabel("sample")
        axes.grid(False)

    masked_text = f"{masked.float().mean():.0%} masked"
    return render_panel(f"{label}, {masked_text}", f"The series and its reconstruction: {label}, {masked_text}", draw)


def render_embeddings(context: RunContext) -> Section | None:
    """Render two-dimensional projections of the embeddings, coloured by class."""
    rows = context.sample_rows()
    if context.pipeline.spec.horizon is not None or len(rows) < 3:
        return None
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    vectors = torch.cat(
        [context.pipeline.embed_batch(series.replace(y=None)).cpu() for series in _iter_batches(context, rows)]
    ).numpy()
    y = None if context.split.y is None else context.split.y[rows].numpy()
    if y is not None and context.pipeline.task is not None and context.pipeline.task.target_type == "sample-class":
        y = np.array([np.bincount(row[row >= 0]).argmax() if (row >= 0).any() else -1 for row in y])
    y = y[:, 0] if y is not None and y.ndim == 2 else y
    title = f"Embeddings, {context.split_name} split"
    if not np.isfinite(vectors).all() or vectors.shape[1] < 2:
        return Section(title, render_paragraph("Not drawn: embeddings are not finite, or have a single dimension."))
    pca = PCA(2, random_state=0).fit(vectors)
    explained = pca.explained_variance_ratio_
    has_classes = y is not None and context.split.y is not None and y.dtype.kind == "i" and bool(context.data.classes)
    has_classes &= context.pipeline.task is not None and "class" in context.pipeline.task.target_type
    names = context.data.classes if has_classes else ()
    figures = [
        _plot_scatter(f"principal components ({explained.sum():.0%} of the variance)", pca.transform(vectors), y, names)
    ]
    if 10 <= len(rows) <= 500:
        tsne_points = TSNE(2, perplexity=min(30.0, (len(rows) - 1) / 3), random_state=0, init="pca").fit_transform(
            vectors
        )
        figures.append(_plot_scatter("t-SNE", tsne_points, y, names))
    text = f"{len(rows):,} of {len(context.split):,} series, mean-pooled tokens."
    if y is not None and context.split.y is not None and has_classes and context.split.y.ndim == 2:
        text += " Colour: the most frequent class of the samples of a series."
    if y is not None and not has_classes:
        text += f" Colour: {(context.data.classes or context.data.target_names)[0]}, from blue (low) to red (high)."
    return Section(title, render_paragraph(text) + render_panels(figures))


def _plot_scatter(label: str, points: Array, y: Array | None, names: tuple[str, ...]) -> str:
    x_values, y_values = points.T

    def draw(axes: Axes) -> None:
        if 0 < len(names) <= 20:
            from matplotlib import colormaps

            colors = colormaps["tab10" if len(names) <= 10 else "tab20"]
            for c, name in enumerate(names):
                is_class = y == c
                axes.scatter(
                    x_values[is_class], y_values[is_class], s=12, color=colors(c), linewidths=0, alpha=0.8, label=name
                )
            if len(unknown := points[y == -1]):
                axes.scatter(unknown[:, 0], unknown[:, 1], s=12, color="lightgrey", linewidths=0, label="unknown")
            axes.figure.legend(loc="outside lower center", ncols=3, handletextpad=0.1, columnspacing=1)
        elif y is not None:
            axes.scatter(x_values, y_values, s=12, c=y, cmap="turbo", linewidths=0, alpha=0.8)
        else:
            axes.scatter(x_values, y_values, s=12, color=BLUE, linewidths=0, alpha=0.8)
        axes.set_xticks([])
        axes.set_yticks([])

    return render_panel(
        label, f"{len(points)} embeddings, {label}" + (", coloured by class" if names else ""), draw, height=4.0
    )


def _iter_batches(context: RunContext, rows: Tensor | None) -> Iterator[Series]:
    """Iterate over rows of the split (all if None) in batches on the pipeline's device."""
    for index in split_rows(context.split, 256, rows):
        yield context.split.batch(index).to(context.pipeline.mean.device)
