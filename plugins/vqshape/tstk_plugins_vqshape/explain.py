"""Why a series was taken for its class: its shapes where they are, and what each did to the decision.

What a token did is measured by leaving it out: by how much the winner's lead over the runner-up shrinks. For a linear
head over all tokens, or over how often codes occur, that is the token's own summand.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tstk.core.pipeline import Pipeline
from tstk.core.types import Tokens
from tstk.data.datasets import Part
from tstk.errors import DataError, NeedsError
from tstk.report.context import Known
from tstk.report.page import BLUE, DIM, INK, ORANGE, Section, framed, paragraph

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 8
"""Shapes that are drawn in colour and named."""
LANES = 4
"""Channels that are drawn at most."""


@dataclass
class Explained:
    """One series and its shapes.

    Args:
        index: of the series in its part
        x: [C, T] as the tokenizer sees it, NaN where missing
        curves: [C, N, T] each shape in its place, NaN elsewhere
        ids: [C, N] codes
        weight: [C, N] what each did to the decision; without a head, how much of the series it covers
        classes: the answer, the runner-up and the truth, where they are known
        channels: C names
    """

    index: int
    x: Tensor
    curves: Tensor
    ids: Tensor
    weight: Tensor
    classes: tuple[str | None, str | None, str | None]
    channels: tuple[str, ...]

    @property
    def decided(self) -> bool:
        """Whether there is a decision to explain."""
        return self.classes[0] is not None

    def strongest(self, most: int = MOST) -> list[tuple[int, int]]:
        """(channel, token) of those that did most, first the greatest."""
        order = self.weight.abs().flatten().argsort(descending=True, stable=True)[:most]
        return [divmod(int(i), self.weight.shape[1]) for i in order]


@torch.no_grad()
def explain(
    pipeline: Pipeline, part: Part, index: int, classes: tuple[str, ...] = (), channels: tuple[str, ...] = ()
) -> Explained:
    """What a pipeline makes of one series.

    Args:
        pipeline: of the tokenizer `vqshape`, with or without a head
        part: where the series is
        index: its place, from 0
        classes: names
        channels: names

    Raises:
        NeedsError: another tokenizer
        DataError: there is no such series
    """
    tokenizer = pipeline.tokenizer
    if not hasattr(tokenizer, "curves"):
        raise NeedsError(f"{tokenizer.called()} does not say where its tokens are; explain is for tokenizer 'vqshape'")
    if not 0 <= index < len(part):
        raise DataError(f"--index {index}: the part has {len(part)} series, from 0 to {len(part) - 1}")
    series = part.batch(torch.tensor([index])).to(pipeline.mean.device)
    flow = pipeline.tokenize(series)
    length = flow.series.x.shape[-1]
    curves, where = tokenizer.curves(flow.tokens.values, length)  # type: ignore[operator]
    ids = flow.tokens.ids
    assert ids is not None
    weight, told = where.float().mean(-1), (None, None, None)
    if pipeline.head is not None:
        weight, best, second = _done(pipeline, pipeline.encode(series), ids.shape)
        truth = None if series.y is None or not classes else classes[int(series.y[0])]
        told = (classes[best] if classes else str(best), classes[second] if classes else str(second), truth)  # type: ignore[assignment]
    seen = flow.series.x.masked_fill(~flow.series.mask, torch.nan)[:, 0]
    names = channels if len(channels) == len(seen) else tuple(map(str, range(len(seen))))
    return Explained(
        index, seen.cpu(), curves.masked_fill(~where, torch.nan).cpu(), ids.cpu(), weight.cpu(), told, names
    )


def _done(pipeline: Pipeline, tokens: Tokens, shape: torch.Size) -> tuple[Tensor, int, int]:
    """What each token [C, N] adds to the winner's lead over the runner-up; the winner; the runner-up."""
    head = pipeline.head
    assert head is not None
    logits = head(tokens)[0]
    best, second = logits.topk(2).indices.tolist()
    count = tokens.index.shape[1]
    lead = []
    for left_out in torch.arange(count, device=tokens.index.device).split(64):
        many = tokens.map(partial(_several, len(left_out)))
        without = many.but(valid=many.valid & (torch.arange(count, device=left_out.device) != left_out[:, None]))
        found = head(without)
        lead.append(found[:, best] - found[:, second])
    return ((logits[best] - logits[second]) - torch.cat(lead)).reshape(shape), best, second


def _several(times: int, t: Tensor) -> Tensor:
    return t.expand(times, *t.shape[1:])


# ------------------------------------------------------------------ pictures


def size(told: Explained) -> tuple[float, float]:
    """Inches."""
    return 9.0, 0.9 + 1.7 * len(_lanes(told))


def draw(figure: Figure, told: Explained) -> None:
    """Channels below each other with their shapes in place; beside them, what the strongest did."""
    lanes, strongest = _lanes(told), told.strongest()
    grid = figure.add_gridspec(len(lanes), 2, width_ratios=[2.6, 1])
    for row, c in enumerate(lanes):
        axes = figure.add_subplot(grid[row, 0])
        _lane(axes, told, c, [(rank, n) for rank, (at, n) in enumerate(strongest, 1) if at == c])
        axes.set_ylabel(_name(told, c), fontsize=8)
        if row == len(lanes) - 1:
            axes.set_xlabel("sample")
    _bars(figure.add_subplot(grid[:, 1]), told, strongest)
    figure.suptitle(heading(told), fontsize=10, x=0.01, ha="left", color=INK)


def heading(told: Explained) -> str:
    """The decision in a line."""
    if not told.decided:
        return f"series {told.index}: shapes that cover most"
    answer, second, truth = told.classes
    right = "" if truth is None else f", {'as it is' if truth == answer else f'but it is {truth}'}"
    return f"series {told.index} taken for {answer}{right}; runner-up {second}"


def _lanes(told: Explained) -> list[int]:
    """The channels to draw: where the strongest shapes are."""
    return sorted(dict.fromkeys(c for c, _ in told.strongest()).keys())[:LANES] if len(told.x) > 1 else [0]


def _name(told: Explained, channel: int) -> str:
    name = told.channels[channel]
    return f"channel {name}" if name.isdigit() else name


def _color(told: Explained, value: float) -> str:
    return BLUE if not told.decided or value >= 0 else ORANGE


def _lane(axes: Axes, told: Explained, channel: int, named: list[tuple[int, int]]) -> None:
    axes.plot(told.x[channel], color=INK, linewidth=1, zorder=3)
    shown = {n for _, n in named}
    for n, curve in enumerate(told.curves[channel]):
        if n not in shown:
            axes.plot(curve, color=DIM, alpha=0.25, linewidth=0.8, zorder=1)
    for rank, n in named:
        curve = told.curves[channel, n]
        color = _color(told, float(told.weight[channel, n]))
        axes.plot(curve, color=color, linewidth=2.4, alpha=0.85, zorder=4, marker="o" if _points(curve) < 2 else "")
        if at := np.flatnonzero(~curve.isnan().numpy()).tolist():
            middle = at[len(at) // 2]
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


def _points(curve: Tensor) -> int:
    return int((~curve.isnan()).sum())


def _bars(axes: Axes, told: Explained, strongest: list[tuple[int, int]]) -> None:
    values = [float(told.weight[c, n]) for c, n in strongest]
    axes.barh(range(len(values)), values, color=[_color(told, v) for v in values], height=0.6)
    names = []
    for rank, (c, n) in enumerate(strongest, 1):
        lane = f"{_name(told, c)}, " if len(told.x) > 1 else ""
        names.append(f"{rank}  {lane}code {int(told.ids[c, n])}")
    axes.set_yticks(range(len(values)), names, fontsize=8)
    axes.invert_yaxis()
    axes.axvline(0, color=DIM, linewidth=0.8)
    axes.grid(False)
    axes.set_xlabel(
        f"for {told.classes[0]}, against {told.classes[1]}" if told.decided else "share of the series", fontsize=8
    )


def section(known: Known) -> Section:
    """Some series of the part with their shapes."""
    figures = []
    for index in known.some(4).tolist():
        told = explain(known.pipeline, known.part, index, known.data.classes, known.data.channels)
        figures.append(framed(heading(told), heading(told), lambda figure, t=told: draw(figure, t), size(told)))  # type: ignore[misc]
    text = "Dark: the series as the tokenizer sees it; thin: all its shapes. "
    if known.pipeline.head is not None:
        text += (
            "Numbered: the shapes that did most to the decision, blue for it and orange against it: by how much the "
            "winner leads less without them."
        )
    else:
        text += "Numbered: the shapes that cover most."
    return Section(f"Shapes in their places, {known.part_name} part", paragraph(text) + "".join(figures))
