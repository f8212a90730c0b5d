"""Keys and values of earlier tokens, kept with room for more."""

from __future__ import annotations

import torch
from torch import Tensor


class Kept:
    """[B, H, N, d] that grows along N without being copied each time.

    Growing gives a new one and changes none: they share memory, of which each sees its own length. Where somebody else
    has grown into the room already, or a gradient is wanted, the new one is a copy.

    Args:
        buffer: [B, H, N or more, d]
        count: N
        filled: how far the buffer is taken, shared by all who see it
    """

    def __init__(self, buffer: Tensor, count: int, filled: list[int]) -> None:
        self.buffer, self.count, self.filled = buffer, count, filled

    @classmethod
    def of(cls, values: Tensor) -> Kept:
        """These values, without room."""
        return cls(values, values.shape[2], [values.shape[2]])

    @property
    def values(self) -> Tensor:
        """[B, H, N, d]."""
        return self.buffer[:, :, : self.count]

    def grown(self, more: Tensor) -> Kept:
        """With [B, H, M, d] after them."""
        total = self.count + more.shape[2]
        if torch.is_grad_enabled() and (more.requires_grad or self.buffer.requires_grad):
            return Kept.of(torch.cat([self.values, more], 2))
        buffer, filled = self.buffer, self.filled
        if filled[0] != self.count or total > buffer.shape[2]:
            batch, heads, _, width = more.shape
            buffer = more.new_empty(batch, heads, total + max(32, total // 4), width)
            buffer[:, :, : self.count] = self.values
            filled = [0]
        buffer[:, :, self.count : total] = more
        filled[0] = total
        return Kept(buffer, total, filled)

    def repeat(self, times: int) -> Kept:
        """The batch stacked `times` times."""
        return Kept.of(self.values.repeat(times, 1, 1, 1))
