"""Where a token sits, as numbers a network can use: sinusoids, rotary angles, tables that can be resized.

Coordinates are real-valued and have any number of axes A; axis 0 is time, in token units.
"""

from __future__ import annotations

from math import inf, prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tstk.errors import CheckpointError, OptionError

POSITION_STD = 1.0
"""Deviation with which learned position tables start: that of standardised samples, so that positions are as large as
the tokens beside them from the first step. A table of 0.02, as in BERT, suits words of 0.05; beside tokens of time
series (root mean square 0.4 to 1) some hundred steps never move it, and the model does not see the order."""


def start_positions(table: Tensor, std: float | None) -> None:
    """Draw the initial values of a learned position table: normal, with deviation `std` or `POSITION_STD`."""
    nn.init.normal_(table, std=POSITION_STD if std is None else std)


def check_position_std(std: float | None, slot: str, missing: str | None) -> None:
    """Refuse a deviation that is no size, or one for a table that does not exist.

    Args:
        std: what the user chose, None for nothing
        slot: whose option it is
        missing: why there is no table that starts with it, None if there is one

    Raises:
        OptionError: so it is
    """
    if std is None:
        return
    if missing is not None:
        raise OptionError(f"{slot}.position_std={std}: {missing}")
    if not 0 <= std < inf:
        raise OptionError(f"{slot}.position_std={std}: expected a finite deviation of 0 or more")


def sinusoid(pos: Tensor, dim: int, theta: float = 10000.0) -> Tensor:
    """Fixed sinusoids: [B, N, A] -> [B, N, dim] float32 (float64 for float64 coordinates).

    The width is shared among the axes, the first ones getting what does not divide; each axis has sines, then
    cosines, of geometrically falling frequencies.
    """
    pos = pos.to(torch.promote_types(pos.dtype, torch.float32))
    axes = pos.shape[-1]
    parts = []
    for a in range(axes):
        width = dim // axes + (a < dim % axes)
        sines = (width + 1) // 2
        angle = pos[..., a, None] * _frequencies(sines, theta, pos)
        parts += [angle.sin(), angle.cos()[..., : width - sines]]
    return torch.cat(parts, -1)


def angles(pos: Tensor, head_dim: int, theta: float = 10000.0) -> tuple[Tensor, Tensor]:
    """Cosine and sine of rotary angles, each [B, 1, N, head_dim / 2], always float32 (RoFormer, section 3.2).

    Args:
        pos: [B, N, A] coordinates; every axis turns an equal share of the channel pairs
        head_dim: width of one attention head
        theta: base of the frequencies

    Raises:
        OptionError: the channel pairs cannot be shared equally among the axes
    """
    axes = pos.shape[-1]
    check_rotary(head_dim, axes)
    pos = pos.float()
    angle = pos[..., None] * _frequencies(head_dim // (2 * axes), theta, pos)
    angle = angle.flatten(-2)[:, None]
    return angle.cos(), angle.sin()


def line(pos: Tensor, grid: tuple[int, ...]) -> Tensor:
    """One coordinate instead of several: the rows of a grid laid end to end, time running fastest.

    Args:
        pos: [B, N, A] coordinates
        grid: tokens along each axis

    Returns:
        [B, N, 1]; of a single axis, `pos` itself
    """
    place = pos[..., :1]
    for axis in range(1, len(grid)):
        place = place + pos[..., axis : axis + 1] * prod(grid[:axis])
    return place


def check_rotary(head_dim: int, axes: int) -> None:
    """Refuse a head width whose channel pairs cannot be shared equally among the position axes.

    Raises:
        OptionError: so it is; the message names the widths nearby that would do
    """
    unit = 2 * axes
    if axes < 1 or head_dim % unit == 0:
        return
    near = [w for w in (head_dim // unit * unit, (head_dim // unit + 1) * unit) if w]
    raise OptionError(
        f"rotary positions over {axes} axes need dim/heads to be a multiple of {unit}, and it is {head_dim}; "
        f"nearby: {', '.join(map(str, near))}"
    )


def resize_table(table: Tensor, old: tuple[int, ...], new: tuple[int, ...], prefix_rows: int = 0) -> Tensor:
    """A learned position table made for one grid, interpolated to another.

    Linear on one axis, bicubic on two (sample points at cell centres). An equal grid returns the table itself.

    Args:
        table: [prefix_rows + prod(old), D]
        old: the grid it was made for
        new: the grid wanted
        prefix_rows: rows in front that belong to no slot and are kept

    Raises:
        CheckpointError: the rows are not those of `old`, or the grids have different or more than two axes
    """
    if len(table) != prefix_rows + prod(old):
        raise CheckpointError(f"a position table has {len(table)} rows; the grid {old} has {prefix_rows + prod(old)}")
    if old == new:
        return table
    if len(old) != len(new) or len(old) > 2:
        raise CheckpointError(
            f"a position table for the grid {old} cannot be resized to {new}; only grids of one axis, or both of "
            "two, can; start the encoder anew or keep the tokenizer's grid"
        )
    rows = table[prefix_rows:].T.reshape(1, -1, *old)
    mode = "linear" if len(old) == 1 else "bicubic"
    rows = F.interpolate(rows, size=new, mode=mode, align_corners=False)
    return torch.cat([table[:prefix_rows], rows[0].flatten(1).T])


def _frequencies(count: int, theta: float, like: Tensor) -> Tensor:
    steps = torch.arange(count, device=like.device, dtype=like.dtype)
    return theta ** (-steps / max(count, 1))
