"""Report section of the CoT head: attention maps of its reasoning tokens, next to the series."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tstk.builtin.heads.cot import CoT
from tstk.core.types import Tokens
from tstk.report.context import RunContext, get_samples
from tstk.report.page import INK, Section, render_panel, render_panels, render_paragraph

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_SERIES = 4


def render_reasoning_attention(context: RunContext) -> Section | None:
    """Render a few series of different classes, each with its attention map."""
    pipeline, split, head = context.pipeline, context.split, context.pipeline.head
    if not isinstance(head, CoT):
        return None
    classes = context.run_config.classes
    rows = _select_rows(context)
    series = split.batch(rows).to(pipeline.mean.device)
    with torch.no_grad():
        tokens = pipeline.encode(series)
        weights = head.attention_weights(tokens)
        predictions = head(tokens).argmax(1).cpu().tolist()
    samples = get_samples(pipeline, series)
    uniform = 1 / tokens.valid.sum(1).clamp(min=1)
    weights = weights / uniform[:, None, None]
    attention_maps = _scatter_to_grid(weights, tokens, head.spec.grid_size)
    stride, names = pipeline.tokenizer.out.stride, context.run_config.channels
    figures = []
    for i, row in enumerate(rows.tolist()):
        target_text = "" if split.y is None else f"class {classes[int(split.y[row])]}, "
        label = f"series {row + 1:,}: {target_text}predicted {classes[predictions[i]]}"
        figures += [_plot_series(label, samples[i], names), _plot_attention(label, attention_maps[i], stride)]
    text = (
        "Each series is followed by the attention weights of every reasoning token in the first cross-attention, one "
        "band per reasoning token, as multiples of uniform attention; the darkest cells have the largest weights. "
        "Horizontal axis: time; within a band, upwards: the other axes of the token grid, such as scale and channel. "
        "Values near 1 mean that a reasoning token attends to all tokens alike."
    )
    return Section(
        f"Attention of the reasoning tokens, {context.split_name} split",
        render_paragraph(text) + render_panels(figures),
    )


def _select_rows(context: RunContext) -> Tensor:
    """Return rows of the split, of different classes as far as possible."""
    rows = context.sample_rows()
    if context.split.y is None:
        return rows[:MAX_SERIES]
    y = context.split.y[rows].tolist()
    first_row = {label: i for i, label in reversed(list(enumerate(y)))}
    selected = sorted(first_row.values())
    selected += [i for i in range(len(y)) if i not in selected]
    return rows[torch.tensor(sorted(selected[:MAX_SERIES]))]


def _scatter_to_grid(attention: Tensor, tokens: Tokens, grid_size: tuple[int, ...]) -> NDArray[np.float32]:
    """Scatter attention weights onto the token grid.

    Args:
        attention: [B, reasoning tokens, N]
        tokens: the N tokens
        grid_size: time first

    Returns:
        [B, reasoning tokens, other axes flattened, time], NaN where there is no valid token
    """
    axes = (grid_size[0], prod(grid_size[1:]))
    grid = tokens.replace(values=attention.mT).to_grid(axes)
    return grid.masked_fill(~tokens.grid_mask(axes)[:, None], torch.nan).mT.cpu().numpy()


def _plot_series(label: str, x: Tensor, names: list[str]) -> str:
    def draw(axes: Axes) -> None:
        for channel, name in zip(x, names, strict=True):
            axes.plot(channel, linewidth=1, label=name, color=INK if len(x) == 1 else None)
        axes.set_xlabel("sample")
        axes.margins(x=0)

    return render_panel(label, f"The samples of {label}", draw)


def _plot_attention(label: str, attention_maps: NDArray[np.float32], stride: float | None) -> str:
    """Plot the attention maps as bands, the first reasoning token on top.

    Args:
        label: description of the series
        attention_maps: [reasoning tokens, other axes, time]
        stride: samples per column; None if tokens have no regular stride
    """
    num_reasoning, num_other, num_times = attention_maps.shape
    width = num_times * (stride or 1)

    def draw(axes: Axes) -> None:
        # imshow draws the first row at the bottom, so reverse the bands but not the rows within a band
        image = attention_maps[::-1].reshape(num_reasoning * num_other, num_times)
        extent = (0, width, 0, num_reasoning)
        axes.imshow(image, "Blues", aspect="auto", origin="lower", extent=extent, interpolation="nearest")
        for edge in range(1, num_reasoning):
            axes.axhline(edge, color=INK, linewidth=1)
        axes.set_yticks([i + 0.5 for i in range(num_reasoning)], [str(num_reasoning - i) for i in range(num_reasoning)])
        axes.set_ylabel("reasoning token")
        axes.set_xlabel("sample" if stride else "token")
        axes.grid(False)

    span = f"{np.nanmin(attention_maps):.2f} to {np.nanmax(attention_maps):.2f} x uniform"
    return render_panel(
        f"attention, {span}", f"Attention of {num_reasoning} reasoning tokens over {label}: {span}", draw, height=3.6
    )
