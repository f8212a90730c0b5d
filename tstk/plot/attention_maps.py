"""Figures of attention: the tokens that each reasoning token of the head CoT attends to."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tstk.builtin.heads.cot import CoT
from tstk.core.prediction import eval_mode
from tstk.core.types import Tokens
from tstk.errors import IncompatibleError
from tstk.plot.plot_data import DataLike, PlotData, RunLike, open_data
from tstk.plot.style import INK, SampleAxis, open_axes, set_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[Any]


def compute_attention(data: PlotData, rows: Tensor) -> tuple[Array, list[int]]:
    """Compute the attention maps of some series, and the numbers of their predicted classes.

    Args:
        data: with a pipeline whose head is CoT
        rows: of the split

    Returns:
        [B, reasoning tokens, other axes of the grid flattened, time] as multiples of uniform attention, NaN where there
        is no valid token; and the classes

    Raises:
        IncompatibleError: the head is another one
    """
    pipeline, head = data.pipeline, data.pipeline.head
    if not isinstance(head, CoT):
        name = "no head" if head is None else head.display_name()
        raise IncompatibleError(f"this run has {name}; attention is drawn of the reasoning tokens of --head cot")
    with eval_mode(pipeline):
        tokens = pipeline.encode(data.batch(rows))
        weights = head.attention_weights(tokens)
        predictions = head(tokens).argmax(1).cpu().tolist()
    uniform = 1 / tokens.valid.sum(1).clamp(min=1)
    return _scatter_to_grid(weights / uniform[:, None, None], tokens, head.spec.grid_size), predictions


def _scatter_to_grid(attention: Tensor, tokens: Tokens, grid_size: tuple[int, ...]) -> Array:
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


def describe_range(attention_map: Array) -> str:
    """Return the smallest and the largest attention of a map, as text."""
    return f"{np.nanmin(attention_map):.2f} to {np.nanmax(attention_map):.2f} x uniform"


def draw_attention(axes: Axes, attention_map: Array, axis: SampleAxis, stride: float | None) -> None:
    """Draw the attention of reasoning tokens as bands, the first one on top.

    Args:
        axes: to draw on
        attention_map: [reasoning tokens, other axes, time]
        axis: of the samples
        stride: samples per column; None if tokens have no regular stride
    """
    num_reasoning, num_other, num_times = attention_map.shape
    # imshow draws the first row at the bottom, so reverse the bands but not the rows within a band
    image = attention_map[::-1].reshape(num_reasoning * num_other, num_times)
    left, right = (0.0, float(num_times)) if stride is None else axis.locate([-0.5, num_times * stride - 0.5])
    extent = (left, right, 0, num_reasoning)
    drawn = axes.imshow(image, "Blues", aspect="auto", origin="lower", extent=extent, interpolation="nearest")
    for edge in range(1, num_reasoning):
        axes.axhline(edge, color=INK, linewidth=1)
    axes.set_yticks([i + 0.5 for i in range(num_reasoning)], [str(num_reasoning - i) for i in range(num_reasoning)])
    axes.set_ylabel("reasoning token")
    if stride is None:
        axes.set_xlabel("token")
    else:
        axis.apply(axes)
    axes.grid(False)
    bar = axes.figure.colorbar(drawn, ax=axes, fraction=0.05, pad=0.02)
    bar.set_label("attention / uniform", fontsize=8)
    bar.outline.set_visible(False)


def attention(
    run: RunLike,
    data: DataLike | None = None,
    *,
    split: str | None = None,
    sample: int | str = 0,
    ax: Axes | None = None,
) -> Axes:
    """Draw which tokens of a series the reasoning tokens of head CoT attend to, as multiples of uniform attention.

    Args:
        run: run directory, hf://owner/name, pipeline, or what `open_data` returned
        data: other data, see `open_data`
        split: train, val or test; test if None
        sample: number of the series in the split, from 0, or its id
        ax: to draw on; None makes a figure

    Raises:
        IncompatibleError: the run has another head
        OptionError: there is no such sample
    """
    source = open_data(run, data, split=split)
    row = source.find_sample(sample)
    attention_map = compute_attention(source, torch.tensor([row]))[0][0]
    axis = source.get_axis(row, int(source.split.lengths[row]))
    with open_axes(ax, (7.0, 3.6)) as axes:
        draw_attention(axes, attention_map, axis, source.pipeline.tokenizer.out.stride)
        set_title(axes, f"{source.name}, {source.describe(row)}")
    return axes
