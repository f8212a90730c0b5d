"""What the reasoning tokens of a head look at, beside the series they look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tstk.core.types import Tokens
from tstk.report.context import Known
from tstk.report.page import INK, Section, panel, panels, paragraph

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tstk.builtin.heads.cot import CoT

SHOWN = 4


def reasoning(known: Known, head: CoT) -> Section | None:
    """A few series of different classes, and a map of attention over each.

    Args:
        known: the run
        head: its head
    """
    pipeline, part = known.pipeline, known.part
    classes = known.found["data"]["classes"]
    rows = _varied(known)
    series = part.batch(rows).to(pipeline.mean.device)
    with torch.no_grad():
        tokens = pipeline.encode(series)
        looks = head.looks(tokens).cpu()
        said = head(tokens).argmax(1).cpu().tolist()
    equal = 1 / tokens.valid.sum(1).clamp(min=1)
    looks = looks / equal.cpu()[:, None, None]
    maps = _maps(looks, tokens, pipeline.head.spec.grid if pipeline.head else ())
    step, names = pipeline.tokenizer.out.step, known.found["data"]["channels"]
    figures = []
    for i, row in enumerate(rows.tolist()):
        truth = "" if part.y is None else f"class {classes[int(part.y[row])]}, "
        what = f"series {row + 1:,}: {truth}taken for {classes[said[i]]}"
        x = series.x[i].masked_fill(~series.mask[i], torch.nan).cpu()
        figures += [_line(what, x, names), _map(what, maps[i], step)]
    text = (
        "Each series, and after it how every reasoning token (a band each) divides its attention when it first asks, "
        "as multiples of an equal share: from the least, white, to the most, dark. Across: time; within a band, "
        "upwards: the grid's other axes, such as scale and channel. What hardly differs from 1 chooses nothing."
    )
    return Section(f"What the reasoning tokens look at, {known.part_name} part", paragraph(text) + panels(figures))


def _varied(known: Known) -> Tensor:
    """Rows of the part, of different classes as far as there are any."""
    rows = known.some()
    if known.part.y is None:
        return rows[:SHOWN]
    y = known.part.y[rows].tolist()
    first = {label: i for i, label in reversed(list(enumerate(y)))}
    chosen = sorted(first.values())
    chosen += [i for i in range(len(y)) if i not in chosen]
    return rows[torch.tensor(sorted(chosen[:SHOWN]))]


def _maps(looks: Tensor, tokens: Tokens, grid: tuple[int, ...]) -> NDArray[np.float32]:
    """[B, reasoning tokens, rest, time] shares laid on the grid, axes after time in one; NaN where no token is."""
    b, count, _ = looks.shape
    slots = int(np.prod(grid))
    laid = torch.full((b, count, slots), torch.nan)
    for i, (index, valid) in enumerate(zip(tokens.index.cpu(), tokens.valid.cpu(), strict=True)):
        laid[i][:, index[valid]] = looks[i][:, valid]
    return laid.unflatten(2, (grid[0], -1)).transpose(2, 3).numpy()


def _line(what: str, x: Tensor, names: list[str]) -> str:
    def draw(axes: Axes) -> None:
        for channel, name in zip(x, names, strict=True):
            axes.plot(channel, linewidth=1, label=name, color=INK if len(x) == 1 else None)
        axes.set_xlabel("sample")
        axes.margins(x=0)

    return panel(what, f"The samples of {what}", draw)


def _map(what: str, bands: NDArray[np.float32], step: float | None) -> str:
    """Bands of one map each, the first reasoning token on top.

    Args:
        what: title
        bands: [reasoning tokens, rest, time]
        step: samples from one column to the next
    """
    count, rest, columns = bands.shape
    width = columns * (step or 1)

    def draw(axes: Axes) -> None:
        # the first band on top and, inside a band, the first row at the bottom
        image = bands[::-1].reshape(count * rest, columns)
        axes.imshow(image, "Blues", aspect="auto", origin="lower", extent=(0, width, 0, count), interpolation="nearest")
        for edge in range(1, count):
            axes.axhline(edge, color=INK, linewidth=1)
        axes.set_yticks([i + 0.5 for i in range(count)], [str(count - i) for i in range(count)])
        axes.set_ylabel("reasoning token")
        axes.set_xlabel("sample" if step else "token")
        axes.grid(False)

    span = f"{np.nanmin(bands):.2f} to {np.nanmax(bands):.2f} equal shares"
    return panel(f"attention, {span}", f"Attention of {count} reasoning tokens over {what}: {span}", draw, height=3.6)
