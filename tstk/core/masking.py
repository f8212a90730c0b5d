"""Masking policies: pure functions `(tokens, ratio, rng, round_up=False) -> mask [B, N] bool`, True for masked tokens.

They are entries of the kind `masking`; losses take the name of one as an option of the type `MaskingName`. Every policy
masks floor(ratio * number of valid tokens) tokens per series (`mask_column`: columns), or with `round_up` the next
larger number, as MAE does, which keeps floor((1 - ratio) * number). Invalid tokens are never masked, and a mask depends
on (seed, step, sample) alone.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from tstk.core.rng import SampleRNG
from tstk.core.types import Tokens
from tstk.plugins.registry import get_registry


class MaskingPolicy(Protocol):
    """A function that chooses the tokens to mask."""

    def __call__(self, tokens: Tokens, ratio: float, rng: SampleRNG, round_up: bool = False) -> Tensor:
        """Return [B, N] bool, True for masked tokens."""
        ...


def get_masking_policy(name: str) -> MaskingPolicy:
    """Return the masking policy of this name.

    Raises:
        UnknownNameError: there is none
    """
    policy: MaskingPolicy = get_registry().load(get_registry().find("masking", name))
    return policy


def _select_lowest(scores: Tensor, count: Tensor) -> Tensor:
    """Return [B, N] bool, True at the `count` [B] lowest scores of each row."""
    rank = scores.argsort(dim=1, stable=True).argsort(1)
    return rank < count[:, None]


def _count_masked(tokens: Tokens, ratio: float, round_up: bool) -> Tensor:
    return round_fraction(tokens.valid.sum(1), ratio, round_up)


def round_fraction(counts: Tensor, ratio: float, round_up: bool = False) -> Tensor:
    """Return floor(ratio * counts) as long, or ceil with `round_up`; a product that is nearly whole counts as whole."""
    # 0.84 * 1175 is 987 exactly, slightly less in float64, and less by more than 1e-6 in float32
    product = counts.double() * ratio
    return ((product - 1e-6).ceil() if round_up else (product + 1e-6).floor()).long()


def _exclude_invalid(tokens: Tokens, scores: Tensor) -> Tensor:
    return scores.masked_fill(~tokens.valid, torch.inf)


def mask_random(tokens: Tokens, ratio: float, rng: SampleRNG, round_up: bool = False) -> Tensor:
    """Mask tokens uniformly without replacement, independently per series (MAE, Ti-MAE)."""
    return _select_lowest(
        _exclude_invalid(tokens, rng.uniform(tokens.grid_index.shape[1])), _count_masked(tokens, ratio, round_up)
    )


def mask_per_batch(tokens: Tokens, ratio: float, rng: SampleRNG, round_up: bool = False) -> Tensor:
    """Mask tokens uniformly, at the same places of the grid for the whole batch (published code of TimeMAE)."""
    noise = rng.uniform(int(tokens.grid_index.max()) + 1, shared=True).gather(1, tokens.grid_index)
    return _select_lowest(_exclude_invalid(tokens, noise), _count_masked(tokens, ratio, round_up))


def mask_block(tokens: Tokens, ratio: float, rng: SampleRNG, round_up: bool = False) -> Tensor:
    """Mask one contiguous stretch of time at a random place."""
    count = _count_masked(tokens, ratio, round_up)
    last_start = (tokens.valid.sum(1) - count).clamp(min=0)
    start = (rng.uniform() * (last_start + 1)).floor().long()
    rank = _exclude_invalid(tokens, tokens.pos[..., 0]).argsort(dim=1, stable=True).argsort(1)
    return (rank >= start[:, None]) & (rank < (start + count)[:, None])


def mask_tail(tokens: Tokens, ratio: float, rng: SampleRNG, round_up: bool = False) -> Tensor:
    """Mask the latest tokens, as in forecasting."""
    return _select_lowest(_exclude_invalid(tokens, -tokens.pos[..., 0]), _count_masked(tokens, ratio, round_up))


def mask_column(tokens: Tokens, ratio: float, rng: SampleRNG, round_up: bool = False) -> Tensor:
    """Mask all tokens of a time step together (tube masking of VideoMAE), so that no scale reveals another.

    Masks floor(ratio * number of columns with a valid token) columns, or one more with `round_up`.
    """
    time = tokens.pos[..., 0].round().long()
    width = int(time.max()) + 1
    has_valid = torch.zeros(time.shape[0], width, device=time.device).scatter_add_(1, time, tokens.valid.float()) > 0
    noise = rng.uniform(width).masked_fill(~has_valid, torch.inf)
    masked_columns = _select_lowest(noise, round_fraction(has_valid.sum(1), ratio, round_up))
    return masked_columns.gather(1, time) & tokens.valid
