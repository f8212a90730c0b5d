"""Reference implementation: unfused, in float32 at least."""

from __future__ import annotations

import torch
from torch import Tensor

from tstk.kernels.dropout import apply_dropout


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """See `tstk.kernels.attention`."""
    dtype = torch.promote_types(v.dtype, torch.float32)
    n, m = q.shape[2], k.shape[2]
    q, k = q.to(dtype), k.to(dtype)
    scores = (q.shape[-1] ** -0.5 if scale is None else scale) * torch.einsum("bhnd,bhmd->bhnm", q, k)
    visible = torch.ones(n, m, dtype=torch.bool, device=v.device)
    if causal:
        visible = visible.tril(m - n)
    if mask is not None:
        visible = visible & mask
    probs = apply_dropout(masked_softmax(scores, visible), dropout)
    return torch.einsum("bhnm,bhmd->bhnd", probs, v.to(dtype)).to(v.dtype)


def masked_softmax(scores: Tensor, visible: Tensor) -> Tensor:
    """Return the softmax of scores [..., M] over keys that are visible; 0 for rows without any."""
    # Not -inf, which would make a row without visible keys NaN; with the minimum it is uniform, then filled with 0.
    return scores.masked_fill(~visible, torch.finfo(scores.dtype).min).softmax(-1).masked_fill(~visible, 0.0)
