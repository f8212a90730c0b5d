"""A key-value cache for incremental decoding that grows without copying at each step."""

from __future__ import annotations

import torch
from torch import Tensor


class KVCache:
    """Keys or values [B, H, N, d] in a buffer with spare capacity along N.

    `append` returns a new cache and leaves the old one unchanged: both share the buffer, each with its own length. The
    buffer is copied if another cache has already used the spare capacity, if there is too little, or if gradients are
    recorded.

    Args:
        buffer: [B, H, capacity, d], capacity at least N
        length: number of tokens N in this cache
        shared_length: one-element list, shared by all caches of the buffer: number of tokens written to the buffer
    """

    def __init__(self, buffer: Tensor, length: int, shared_length: list[int]) -> None:
        self.buffer, self.length, self.shared_length = buffer, length, shared_length

    @classmethod
    def from_tensor(cls, values: Tensor) -> KVCache:
        """Return a cache of these values [B, H, N, d], without spare capacity."""
        return cls(values, values.shape[2], [values.shape[2]])

    @property
    def values(self) -> Tensor:
        """The cached keys or values, [B, H, N, d]."""
        return self.buffer[:, :, : self.length]

    def append(self, new_values: Tensor) -> KVCache:
        """Return a cache with `new_values` [B, H, M, d] appended."""
        total = self.length + new_values.shape[2]
        if torch.is_grad_enabled() and (new_values.requires_grad or self.buffer.requires_grad):
            return KVCache.from_tensor(torch.cat([self.values, new_values], 2))
        buffer, shared_length = self.buffer, self.shared_length
        if shared_length[0] != self.length or total > buffer.shape[2]:
            batch, heads, _, width = new_values.shape
            buffer = new_values.new_empty(batch, heads, total + max(32, total // 4), width)
            buffer[:, :, : self.length] = self.values
            shared_length = [0]
        buffer[:, :, self.length : total] = new_values
        shared_length[0] = total
        return KVCache(buffer, total, shared_length)

    def repeat(self, times: int) -> KVCache:
        """Return a cache with the batch repeated `times` times."""
        return KVCache.from_tensor(self.values.repeat(times, 1, 1, 1))
