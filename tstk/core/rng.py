"""Counter-based random numbers, keyed by sample like `jax.random.fold_in`.

Each number is a hash of (seed, step, sample, draw, position), computed for the whole batch at once. So the mask of a
series does not depend on the rest of the batch, on the number of processes or on the device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_UINT64_MAX = (1 << 64) - 1


def _to_int64(x: int) -> int:
    x &= _UINT64_MAX
    return x - (1 << 64) if x >> 63 else x


def _hash_splitmix64(z: Tensor) -> Tensor:
    """Apply the finalizer of splitmix64 to an int64 tensor, in place (Steele, Lea, Flood 2014)."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z.bitwise_xor_((z >> shift).bitwise_and_((1 << (64 - shift)) - 1)).mul_(_to_int64(factor))
    return z.bitwise_xor_((z >> 31).bitwise_and_((1 << 33) - 1))


class SampleRNG:
    """A random number generator for one batch at one step.

    Args:
        seed: of the run
        step: of training; a fixed number in validation
        sample_id: [B] long, index of each row in the data set
    """

    def __init__(self, seed: int, step: int, sample_id: Tensor) -> None:
        self.seed, self.step, self.sample_id = seed, step, sample_id
        self._num_draws = 0

    @classmethod
    def from_global_seed(cls, sample_id: Tensor) -> SampleRNG:
        """Return a generator seeded from torch's global generator, for loops that do not count steps."""
        seed = int(torch.randint(1 << 62, ()))
        return cls(seed, 0, sample_id)

    def uniform(self, *shape: int, shared: bool = False) -> Tensor:
        """Draw [B, *shape] float32 from [0, 1). Each call draws anew; equal keys give equal sequences.

        Args:
            shape: of the draw of one sample
            shared: whether all rows get the same numbers
        """
        self._num_draws += 1
        base = _to_int64((self.seed * 0x9E3779B97F4A7C15) ^ (self.step * 0xD1B54A32D192ED03) ^ (self._num_draws << 48))
        key = torch.zeros_like(self.sample_id) if shared else self.sample_id
        size = 1
        for s in shape:
            size *= s
        rows = _hash_splitmix64(_hash_splitmix64(key + base))
        slots = torch.arange(size, device=key.device) * _to_int64(0x9E3779B97F4A7C15)
        bits = _hash_splitmix64(rows[:, None] + slots)
        return (bits >> 40).bitwise_and_(0xFFFFFF).to(torch.float32).div_(1 << 24).reshape(-1, *shape)

    def normal(self, *shape: int) -> Tensor:
        """Draw [B, *shape] float32 from N(0, 1) by Box and Muller (1958), with two calls of `uniform`."""
        radius = (-2 * (1 - self.uniform(*shape)).log()).sqrt()
        return radius * (2 * math.pi * self.uniform(*shape)).cos()
