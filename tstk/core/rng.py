"""Random numbers that belong to a sample, not to a batch.

Each number is a hash of (seed, step, sample, draw, position), computed for the whole batch at once. So a mask
does not depend on batch companions, on the number of processes or on the device, and needs no state.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_LOW = (1 << 64) - 1


def _signed(x: int) -> int:
    x &= _LOW
    return x - (1 << 64) if x >> 63 else x


def _mix(z: Tensor) -> Tensor:
    """The finaliser of splitmix64 on int64 tensors (Steele, Lea, Flood 2014)."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = (z ^ ((z >> shift) & ((1 << (64 - shift)) - 1))) * _signed(factor)
    return z ^ ((z >> 31) & ((1 << 33) - 1))


class Draws:
    """A source of random numbers for one batch at one step.

    Args:
        seed: of the run
        step: of training; a fixed number in validation
        key: [B] long, which sample each row is
    """

    def __init__(self, seed: int, step: int, key: Tensor) -> None:
        self.seed, self.step, self.key = seed, step, key
        self._drawn = 0

    @classmethod
    def fresh(cls, key: Tensor) -> Draws:
        """Draws seeded from torch's global generator, for loops that do not count steps."""
        seed = int(torch.randint(1 << 62, ()))
        return cls(seed, 0, key)

    def uniform(self, *shape: int, shared: bool = False) -> Tensor:
        """[B, *shape] float32 in [0, 1); a new draw at each call, in the same order the same numbers.

        Args:
            shape: size of one sample's draw
            shared: every row gets the same numbers
        """
        self._drawn += 1
        base = _signed((self.seed * 0x9E3779B97F4A7C15) ^ (self.step * 0xD1B54A32D192ED03) ^ (self._drawn << 48))
        key = torch.zeros_like(self.key) if shared else self.key
        size = 1
        for s in shape:
            size *= s
        rows = _mix(_mix(key + base))
        slots = torch.arange(size, device=key.device) * _signed(0x9E3779B97F4A7C15)
        bits = _mix(rows[:, None] + slots)
        return ((bits >> 40) & 0xFFFFFF).to(torch.float32).div_(1 << 24).reshape(-1, *shape)

    def normal(self, *shape: int) -> Tensor:
        """[B, *shape] float32 from N(0, 1), by Box and Muller (1958); two calls of `uniform`."""
        radius = (-2 * (1 - self.uniform(*shape)).log()).sqrt()
        return radius * (2 * math.pi * self.uniform(*shape)).cos()
