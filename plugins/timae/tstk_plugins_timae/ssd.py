"""The scan of Mamba-2 in plain PyTorch: a linear recurrence, computed as matrix products over chunks.

The recurrence, for each head, with the state h [P, S] and the decay exp(dt A) of one token:

    h_t = exp(dt_t A) h_{t-1} + dt_t x_t b_t^T        y_t = h_t c_t

Inside a chunk of Q tokens it is attention with decaying weights, between chunks it passes on the state ("state
space duality", Dao and Gu 2024, arXiv:2405.21060, section 6). No loop runs over tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

import torch
from torch import Tensor
from torch.nn import functional as F

from tstk.errors import OptionError

Scan = Callable[..., tuple[Tensor, Tensor]]
"""`scan`, or something with its arguments and results."""


def scan(
    x: Tensor, dt: Tensor, rate: Tensor, b: Tensor, c: Tensor, start: Tensor | None = None, *, chunk: int
) -> tuple[Tensor, Tensor]:
    """All outputs of the recurrence, and the state it ends in.

    Computed in float32 (float64 for float64 inputs), under autocast too: decays multiply up.

    Args:
        x: [B, N, H, P] what enters the state, P numbers in each of H heads
        dt: [B, N, H] step sizes, not negative; 0 leaves the state as it is
        rate: [H] the decay rates A, negative
        b: [B, N, S] where in the state a token is written; shared by the heads
        c: [B, N, S] what is read from it
        start: [B, H, P, S] the state before the first token; zeros unless given
        chunk: most tokens that are treated together, Q; any number gives the same result

    Returns:
        y [B, N, H, P] in the type of `x`, and the state [B, H, P, S]
    """
    kind = torch.promote_types(x.dtype, torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        y, state = _scan(x.to(kind), dt.to(kind), rate.to(kind), b.to(kind), c.to(kind), start, chunk)
    return y.to(x.dtype), state


def _scan(
    x: Tensor, dt: Tensor, rate: Tensor, b: Tensor, c: Tensor, start: Tensor | None, chunk: int
) -> tuple[Tensor, Tensor]:
    batch, tokens, heads, width = x.shape
    states = b.shape[-1]
    size = -(-tokens // -(-tokens // chunk))  # chunks alike in size, so that little is padded
    spare = -tokens % size

    def chunks(t: Tensor) -> Tensor:
        """[B, N, ...] -> [B, K, Q, ...]; zeros at the end, whose dt of 0 leaves the state alone."""
        t = F.pad(t, (0, 0) * (t.ndim - 2) + (0, spare)) if spare else t
        return t.unflatten(1, (-1, size))

    b, c = chunks(b), chunks(c)
    wide = chunks((x * dt[..., None]).flatten(2))  # [B, K, Q, H P]
    decay = chunks(dt * rate).cumsum(2)  # [B, K, Q, H] log decay since the chunk began, at most 0
    x_in = wide.unflatten(-1, (heads, width))

    # Inside a chunk: token i reads what j <= i wrote, less what decayed between. The mask comes before exp,
    # where a later j would overflow.
    log = decay.transpose(2, 3)
    later = torch.ones(size, size, dtype=torch.bool, device=x.device).triu(1)
    weights = (log[..., None] - log[..., None, :]).masked_fill_(later, -torch.inf).exp_()
    weights = weights * (c @ b.transpose(2, 3))[:, :, None]  # [B, K, H, Q, Q]
    y = (weights @ x_in.transpose(2, 3)).transpose(2, 3)

    # What each chunk leaves in the state, and what the chunks before it left.
    left = (decay[:, :, -1:] - decay).exp()[..., None] * x_in
    written = left.flatten(3).transpose(2, 3) @ b  # [B, K, H P, S]
    whole = decay[:, :, -1].exp().repeat_interleave(width, -1)[..., None]  # [B, K, H P, 1]
    state = x.new_zeros(batch, heads * width, states) if start is None else start.to(x.dtype).flatten(1, 2)
    before = []
    for add, keep in zip(written.unbind(1), whole.unbind(1), strict=True):
        before.append(state)
        state = torch.addcmul(add, state, keep)
    read = (c @ torch.stack(before, 1).transpose(2, 3)).unflatten(-1, (heads, width))
    y = y + read * decay.exp()[..., None]
    return y.flatten(1, 2)[:, :tokens], state.unflatten(1, (heads, width))


def fused() -> Scan:
    """The Triton kernels of the package mamba-ssm, called as `scan` is; `chunk` is theirs to choose.

    Raises:
        OptionError: the package cannot be imported; or, when called, the tensors are not on a GPU
    """
    try:
        kernel = import_module("mamba_ssm.ops.triton.ssd_combined").mamba_chunk_scan_combined
    except ImportError as e:
        raise OptionError(
            f"encoder.backend=mamba-ssm: the package cannot be imported ({e}); install it on a machine with an "
            "NVIDIA GPU (pip install mamba-ssm), or use encoder.backend=torch"
        ) from e

    def run(
        x: Tensor, dt: Tensor, rate: Tensor, b: Tensor, c: Tensor, start: Tensor | None = None, *, chunk: int
    ) -> tuple[Tensor, Tensor]:
        if not x.is_cuda:
            raise OptionError(
                f"encoder.backend=mamba-ssm runs on a GPU, and this batch is on {x.device}; use encoder.backend=torch"
            )
        return kernel(x, dt, rate, b[:, :, None], c[:, :, None], 256, initial_states=start, return_final_states=True)

    return run
