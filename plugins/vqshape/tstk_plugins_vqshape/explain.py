"""Explain a classification by shapes: where each shape is, and its attribution.

The attribution of a token is the decrease of the margin between the two best classes when the token is left out. For a
linear head over all tokens, or over the counts of codes, it is the token's own term in the margin.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tstk.core.pipeline import Pipeline
from tstk.core.types import Split, Tokens
from tstk.errors import DataError, IncompatibleError
from tstk.plot.style import BLUE, DIM, INK, ORANGE
from tstk.report.context import RunContext
from tstk.report.page import Section, render_figure, render_paragraph
from tstk_plugins_vqshape.tokenizer import VQShape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_SHAPES = 8
"""Number of shapes to highlight."""
MAX_CHANNELS = 4
"""Maximal number of channels to draw."""


@dataclass
class Explanation:
    """One series, its shapes, and their attributions.

    Args:
        index: index of the series in its split
        x: [C, T] series as the tokenizer gets it, NaN where missing
        curves: [C, N, T] shapes, NaN outside the samples they cover
        ids: [C, N] codes
        attribution: [C, N] attribution of each token; without a head, the share of the series that it covers
        classes: predicted, second best and true class; None where unknown
        channels: C names of channels
    """

    index: int
    x: Tensor
    curves: Tensor
    ids: Tensor
    attribution: Tensor
    classes: tuple[str | None, str | None, str | None]
    channels: tuple[str, ...]

    @property
    def has_decision(self) -> bool:
        """Whether the pipeline has a head, and so a decision to explain."""
        return self.classes[0] is not None

    def select_strongest(self, count: int = MAX_SHAPES) -> list[tuple[int, int]]:
        """Return (channel, token) of the `count` largest absolute attributions, in decreasing order."""
        order = self.attribution.abs().flatten().argsort(descending=True, stable=True)[:count]
        return [divmod(int(i), self.attribution.shape[1]) for i in order]


@torch.no_grad()
def explain(
    pipeline: Pipeline, part: Split, index: int, classes: tuple[str, ...] = (), channels: tuple[str, ...] = ()
) -> Explanation:
    """Explain how a pipeline classifies one series.

    Args:
        pipeline: a pipeline with the tokenizer `vqshape`, with or without a head
        part: the split of the series
        index: index of the series, from 0
        classes: names of classes
        channels: names of channels

    Raises:
        IncompatibleError: the pipeline has another tokenizer
        DataError: there is no such series
    """
    tokenizer = pipeline.tokenizer
    if not isinstance(tokenizer, VQShape):
        raise IncompatibleError(
            f"tstk explain needs a run with tokenizer 'vqshape', and this one has {tokenizer.display_name()}"
        )
    if not 0 <= index < len(part):
        raise DataError(f"--index {index}: the part has {len(part)} series, from 0 to {len(part) - 1}")
    series = part.batch(torch.tensor([index])).to(pipeline.mean.device)
    step_output = pipeline.tokenize(series)
    x, ids = step_output.series.x, step_output.tokens.ids
    assert ids is not None
    curves, covered = tokenizer.decode_curves(step_output.tokens.values, x.shape[-1])
    attribution = covered.float().mean(-1)
    decision: tuple[str | None, str | None, str | None] = (None, None, None)
    if pipeline.head is not None:
        attribution, best, second = _compute_attribution(pipeline, pipeline.encode(series), ids.shape)
        truth = None if series.y is None or not classes else classes[int(series.y[0])]
        decision = (classes[best] if classes else str(best), classes[second] if classes else str(second), truth)
    x = x.masked_fill(~step_output.series.observed_mask, torch.nan)[:, 0].cpu()
    curves = curves.masked_fill(~covered, torch.nan).cpu()
    names = channels if len(channels) == len(x) else tuple(map(str, range(len(x))))
    return Explanation(index, x, curves, ids.cpu(), attribution.cpu(), decision, names)


def _compute_attribution(pipeline: Pipeline, tokens: Tokens, shape: torch.Size) -> tuple[Tensor, int, int]:
    """Return the attribution of each token, of the given shape [C, N], and the best and second best class."""
    head = pipeline.head
    assert head is not None
    logits = head(tokens)[0]
    best, second = logits.topk(2).indices.tolist()
    count = tokens.grid_index.shape[1]
    margins = []
    for left_out in torch.arange(count, device=tokens.grid_index.device).split(64):
        batch = tokens.map(partial(_expand_batch, len(left_out)))
        batch = batch.replace(valid=batch.valid & (torch.arange(count, device=left_out.device) != left_out[:, None]))
        batch_logits = head(batch)
        margins.append(batch_logits[:, best] - batch_logits[:, second])
    return ((logits[best] - logits[second]) - torch.cat(margins)).reshape(shape), best, second


def _expand_batch(times: int, t: Tensor) -> Tensor:
    return t.expand(times, *t.shape[1:])


# ------------------------------------------------------------------ figures


def compute_figure_size(explanation: Explanation) -> tuple[float, float]:
    """Return width and height in inches."""
    return 9.0, 0.9 + 1.7 * len(_select_channels(explanation))


def draw_explanation(figure: Figure, explanation: Explanation) -> None:
    """Draw the channels with their shapes below each other, and beside them the strongest attributions."""
    channels, strongest = _select_channels(explanation), explanation.select_strongest()
    grid = figure.add_gridspec(len(channels), 2, width_ratios=[2.6, 1])
    for row, c in enumerate(channels):
        axes = figure.add_subplot(grid[row, 0])
        ranked_tokens = [(rank, n) for rank, (channel, n) in enumerate(strongest, 1) if channel == c]
        _draw_channel(axes, explanation, c, ranked_tokens)
        axes.set_ylabel(_format_channel(explanation, c), fontsize=8)
        if row == len(channels) - 1:
            axes.set_xlabel("sample")
    _draw_bars(figure.add_subplot(grid[:, 1]), explanation, strongest)
    figure.suptitle(format_heading(explanation), fontsize=10, x=0.01, ha="left", color=INK)


def format_heading(explanation: Explanation) -> str:
    """Return the decision in a line."""
    if not explanation.has_decision:
        return f"series {explanation.index}: shapes that cover most samples"
    prediction, second, truth = explanation.classes
    verdict = "" if truth is None else f" ({'correct' if truth == prediction else f'true class {truth}'})"
    return f"series {explanation.index} classified as {prediction}{verdict}; second best {second}"


def _select_channels(explanation: Explanation) -> list[int]:
    """Return the channels to draw: those of the strongest shapes."""
    if len(explanation.x) == 1:
        return [0]
    return sorted({c for c, _ in explanation.select_strongest()})[:MAX_CHANNELS]


def _format_channel(explanation: Explanation, channel: int) -> str:
    name = explanation.channels[channel]
    return f"channel {name}" if name.isdigit() else name


def _select_color(explanation: Explanation, value: float) -> str:
    return BLUE if not explanation.has_decision or value >= 0 else ORANGE


def _draw_channel(axes: Axes, explanation: Explanation, channel: int, ranked_tokens: list[tuple[int, int]]) -> None:
    axes.plot(explanation.x[channel], color=INK, linewidth=1, zorder=3)
    highlighted = {n for _, n in ranked_tokens}
    for n, curve in enumerate(explanation.curves[channel]):
        if n not in highlighted:
            axes.plot(curve, color=DIM, alpha=0.25, linewidth=0.8, zorder=1)
    for rank, n in ranked_tokens:
        curve = explanation.curves[channel, n]
        color = _select_color(explanation, float(explanation.attribution[channel, n]))
        axes.plot(
            curve, color=color, linewidth=2.4, alpha=0.85, zorder=4, marker="o" if _count_points(curve) < 2 else ""
        )
        if samples := np.flatnonzero(~curve.isnan().numpy()).tolist():
            middle = samples[len(samples) // 2]
            axes.annotate(
                str(rank),
                (middle, float(curve[middle])),
                textcoords="offset points",
                xytext=(0, 5),
                fontsize=8,
                fontweight="bold",
                color=color,
                zorder=5,
            )
    axes.margins(y=0.18)
    axes.grid(False)


def _count_points(curve: Tensor) -> int:
    return int((~curve.isnan()).sum())


def _draw_bars(axes: Axes, explanation: Explanation, strongest: list[tuple[int, int]]) -> None:
    values = [float(explanation.attribution[c, n]) for c, n in strongest]
    axes.barh(range(len(values)), values, color=[_select_color(explanation, v) for v in values], height=0.6)
    names = []
    for rank, (c, n) in enumerate(strongest, 1):
        channel = f"{_format_channel(explanation, c)}, " if len(explanation.x) > 1 else ""
        names.append(f"{rank}  {channel}code {int(explanation.ids[c, n])}")
    axes.set_yticks(range(len(values)), names, fontsize=8)
    axes.invert_yaxis()
    axes.axvline(0, color=DIM, linewidth=0.8)
    axes.grid(False)
    axes.set_xlabel(
        f"for {explanation.classes[0]}, against {explanation.classes[1]}"
        if explanation.has_decision
        else "share of the series",
        fontsize=8,
    )


def render_shapes(context: RunContext) -> Section | None:
    """Render some series of the split with their shapes and the attribution of each."""
    if not isinstance(context.pipeline.tokenizer, VQShape):
        return None
    figures = []
    for index in context.select_rows(4).tolist():
        explanation = explain(context.pipeline, context.split, index, context.data.classes, context.data.channels)
        heading = format_heading(explanation)
        figures.append(
            render_figure(
                heading,
                heading,
                lambda figure, e=explanation: draw_explanation(figure, e),  # type: ignore[misc]
                compute_figure_size(explanation),
            )
        )
    text = "Dark: the series as the tokenizer gets it; thin: all its shapes. "
    if context.pipeline.head is not None:
        text += (
            "Numbered: the shapes with the largest attribution, the decrease of the margin between the two best "
            "classes without the shape; blue: for the predicted class, orange: against it."
        )
    else:
        text += "Numbered: the shapes that cover most samples."
    return Section(f"Shapes in the series, {context.split_name} split", render_paragraph(text) + "".join(figures))
