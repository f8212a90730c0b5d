"""Which tokens to hide: pure policies, each `(tokens, ratio, draws) -> hidden [B, N] bool`.

Everywhere `hidden = floor(ratio * valid)` tokens per series, invalid tokens are never hidden, and the choice
depends on (seed, step, sample) alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tstk.core.rng import Draws
from tstk.core.types import Tokens

Policy = Callable[[Tokens, float, Draws], Tensor]


def _lowest(scores: Tensor, count: Tensor) -> Tensor:
    """[B, N] bool, True at each row's `count` [B] lowest scores."""
    rank = scores.argsort(dim=1, stable=True).argsort(1)
    return rank < count[:, None]


def _counts(tokens: Tokens, ratio: float) -> Tensor:
    return _share(tokens.valid.sum(1), ratio)


def _share(counts: Tensor, ratio: float) -> Tensor:
    # 0.84 * 1175 is 987 on paper, less than that in binary and less by more than 1e-6 in float32
    return (counts.double() * ratio + 1e-6).floor().long()


def _among_valid(tokens: Tokens, scores: Tensor) -> Tensor:
    return scores.masked_fill(~tokens.valid, torch.inf)


def random(tokens: Tokens, ratio: float, draws: Draws) -> Tensor:
    """Uniformly without replacement, for each series anew (MAE, Ti-MAE)."""
    return _lowest(_among_valid(tokens, draws.uniform(tokens.index.shape[1])), _counts(tokens, ratio))


def per_batch(tokens: Tokens, ratio: float, draws: Draws) -> Tensor:
    """Uniformly, the same slots for the whole batch (the published TimeMAE code)."""
    noise = draws.uniform(int(tokens.index.max()) + 1, shared=True).gather(1, tokens.index)
    return _lowest(_among_valid(tokens, noise), _counts(tokens, ratio))


def block(tokens: Tokens, ratio: float, draws: Draws) -> Tensor:
    """One stretch of time, at a random place."""
    count = _counts(tokens, ratio)
    room = (tokens.valid.sum(1) - count).clamp(min=0)
    start = (draws.uniform() * (room + 1)).floor().long()
    rank = _among_valid(tokens, tokens.pos[..., 0]).argsort(dim=1, stable=True).argsort(1)
    return (rank >= start[:, None]) & (rank < (start + count)[:, None])


def tail(tokens: Tokens, ratio: float, draws: Draws) -> Tensor:
    """The latest tokens: the future."""
    return _lowest(_among_valid(tokens, -tokens.pos[..., 0]), _counts(tokens, ratio))


def column(tokens: Tokens, ratio: float, draws: Draws) -> Tensor:
    """Whole columns: every token of a time step together (VideoMAE's tubes), so that no scale tells of another.

    The count is of columns, `floor(ratio * columns with a valid token)`.
    """
    time = tokens.pos[..., 0].round().long()
    width = int(time.max()) + 1
    real = torch.zeros(time.shape[0], width, device=time.device).scatter_add_(1, time, tokens.valid.float()) > 0
    noise = draws.uniform(width).masked_fill(~real, torch.inf)
    hidden = _lowest(noise, _share(real.sum(1), ratio))
    return hidden.gather(1, time) & tokens.valid


POLICIES: dict[str, Policy] = {"random": random, "block": block, "tail": tail, "column": column, "per_batch": per_batch}
