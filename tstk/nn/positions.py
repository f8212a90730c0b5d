"""Positional embeddings: sinusoids, rotary angles, and learned position tables that can be resized.

Coordinates are real-valued, on any number of axes A; axis 0 is time, in tokens.
"""

from __future__ import annotations

from math import inf, prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tstk.errors import CheckpointError, OptionError

POSITION_STD = 1.0
"""Initial standard deviation of learned position tables, so that they are as large as the tokens they are added to.

BERT's 0.02 suits word embeddings of standard deviation 0.05. Tokens of time series have a root mean square of 0.4 to 1;
beside them, a table of 0.02 hardly changes in some hundred steps, and the model cannot tell the order of the tokens.
"""


def init_pos_embed(table: Tensor, std: float | None) -> None:
    """Initialise a learned position table from a normal distribution of deviation `std`, or `POSITION_STD` if None."""
    nn.init.normal_(table, std=POSITION_STD if std is None else std)


def check_position_std(std: float | None, slot: str, missing_reason: str | None) -> None:
    """Check the option `position_std`.

    Args:
        std: value of the option; None is always valid
        slot: the slot that has the option, for the message
        missing_reason: why the option cannot take effect; None if there is a new position table

    Raises:
        OptionError: `std` is negative or not finite, or cannot take effect
    """
    if std is None:
        return
    if missing_reason is not None:
        raise OptionError(f"{slot}.position_std={std}: {missing_reason}")
    if not 0 <= std < inf:
        raise OptionError(f"{slot}.position_std={std}: expected a finite deviation of 0 or more")


def sinusoidal_embedding(pos: Tensor, dim: int, theta: float = 10000.0, interleaved: bool = False) -> Tensor:
    """Return sinusoidal embeddings [B, N, dim] of coordinates [B, N, A], in float32 (float64 for float64 coordinates).

    The width is divided equally among the axes, a remainder going to the first ones. Each axis has sines, then cosines,
    of geometrically decreasing frequencies; if `interleaved`, each sine is followed by its cosine (Vaswani et al. 2017,
    section 3.5).
    """
    pos = pos.to(torch.promote_types(pos.dtype, torch.float32))
    axes = pos.shape[-1]
    parts = []
    for a in range(axes):
        width = dim // axes + (a < dim % axes)
        num_sines = (width + 1) // 2
        angle = pos[..., a, None] * _frequencies(num_sines, theta, pos)
        if interleaved:
            parts.append(torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)[..., :width])
        else:
            parts += [angle.sin(), angle.cos()[..., : width - num_sines]]
    return torch.cat(parts, -1)


def rotary_angles(
    pos: Tensor, head_dim: int, theta: float = 10000.0, round_to_bf16: bool = False
) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of the rotary angles, each [B, 1, N, head_dim / 2] float32 (RoFormer, section 3.2).

    Args:
        pos: [B, N, A] coordinates; the channel pairs are divided equally among the axes
        head_dim: width of one attention head
        theta: base of the frequencies
        round_to_bf16: round cosine and sine to bfloat16, as the cache of CWT-MAE does

    Raises:
        OptionError: the channel pairs cannot be divided equally among the axes
    """
    axes = pos.shape[-1]
    check_rotary(head_dim, axes)
    pos = pos.float()
    angle = pos[..., None] * _frequencies(head_dim // (2 * axes), theta, pos)
    angle = angle.flatten(-2)[:, None]
    cos, sin = angle.cos(), angle.sin()
    return (cos.bfloat16().float(), sin.bfloat16().float()) if round_to_bf16 else (cos, sin)


def flatten_positions(pos: Tensor, grid_size: tuple[int, ...]) -> Tensor:
    """Return one coordinate instead of several: the index in the flattened grid, with time varying fastest.

    Args:
        pos: [B, N, A] coordinates
        grid_size: tokens along each axis

    Returns:
        [B, N, 1]; equal to `pos` for a single axis
    """
    flat_pos = pos[..., :1]
    for axis in range(1, len(grid_size)):
        flat_pos = flat_pos + pos[..., axis : axis + 1] * prod(grid_size[:axis])
    return flat_pos


def check_rotary(head_dim: int, axes: int) -> None:
    """Check that the channel pairs of a head can be divided equally among the position axes.

    Raises:
        OptionError: they cannot; the message names the nearest valid widths
    """
    unit = 2 * axes
    if axes < 1 or head_dim % unit == 0:
        return
    near = [w for w in (head_dim // unit * unit, (head_dim // unit + 1) * unit) if w]
    raise OptionError(
        f"rotary positions over {axes} axes need dim/heads to be a multiple of {unit}, and it is {head_dim}; "
        f"nearby: {', '.join(map(str, near))}"
    )


def resize_pos_embed(
    table: Tensor, old_grid_size: tuple[int, ...], new_grid_size: tuple[int, ...], num_prefix_tokens: int = 0
) -> Tensor:
    """Interpolate a learned position table from one grid to another.

    Linear on one axis, bicubic on two (sample points at cell centres). For an equal grid, the table itself is returned.

    Args:
        table: [num_prefix_tokens + prod(old_grid_size), D]
        old_grid_size: the grid of `table`
        new_grid_size: the grid of the result
        num_prefix_tokens: leading rows that belong to no grid cell and are copied

    Raises:
        CheckpointError: the number of rows does not fit `old_grid_size`, or the grids differ in their number of axes or
            have more than two
    """
    num_rows = num_prefix_tokens + prod(old_grid_size)
    if len(table) != num_rows:
        raise CheckpointError(f"a position table has {len(table)} rows, but the grid {old_grid_size} needs {num_rows}")
    if old_grid_size == new_grid_size:
        return table
    if len(old_grid_size) != len(new_grid_size) or len(old_grid_size) > 2:
        raise CheckpointError(
            f"a position table for the grid {old_grid_size} cannot be resized to {new_grid_size}: both grids must have "
            "one axis, or both two; train the encoder from scratch or keep the tokenizer's grid"
        )
    rows = table[num_prefix_tokens:].T.reshape(1, -1, *old_grid_size)
    mode = "linear" if len(old_grid_size) == 1 else "bicubic"
    rows = F.interpolate(rows, size=new_grid_size, mode=mode, align_corners=False)
    return torch.cat([table[:num_prefix_tokens], rows[0].flatten(1).T])


def _frequencies(count: int, theta: float, like: Tensor) -> Tensor:
    """Return `count` frequencies from 1 down towards 1 / theta, with the device and dtype of `like`."""
    index = torch.arange(count, device=like.device, dtype=like.dtype)
    return theta ** (-index / max(count, 1))
