"""The scan of Mamba-2 in plain PyTorch: a linear recurrence, computed as matrix products over chunks.

The recurrence, for each head, with the state h [P, S] and the decay exp(dt A) of one token:

    h_t = exp(dt_t A) h_{t-1} + dt_t x_t b_t^T        y_t = h_t c_t

Within a chunk of Q tokens the recurrence is attention with decaying weights; between chunks only the state is passed
on ("state space duality", Dao and Gu 2024, arXiv:2405.21060, section 6). No loop runs over tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

import torch
from torch import Tensor
from torch.nn import functional as F

from tstk.errors import OptionError

ScanFn = Callable[..., tuple[Tensor, Tensor]]
"""A function with the signature of `scan`."""


def scan(
    x: Tensor, dt: Tensor, decay_rate: Tensor, b: Tensor, c: Tensor, initial_state: Tensor | None = None, *, chunk: int
) -> tuple[Tensor, Tensor]:
    """Compute all outputs of the recurrence and its final state.

    The computation runs in float32 (float64 for float64 inputs), under autocast too, because products of many decays
    lose precision in 16 bits.

    Args:
        x: [B, N, H, P] inputs, P channels in each of H heads
        dt: [B, N, H] step sizes, not negative; 0 leaves the state unchanged
        decay_rate: [H] decay rates A, negative
        b: [B, N, S] input projections (B in the paper), shared by the heads
        c: [B, N, S] output projections (C in the paper), shared by the heads
        initial_state: [B, H, P, S] state before the first token; zeros if None
        chunk: maximal number Q of tokens per chunk; does not affect the result

    Returns:
        y [B, N, H, P] in the dtype of `x`, and the final state [B, H, P, S]
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        y, state = _chunked_scan(
            x.to(dtype), dt.to(dtype), decay_rate.to(dtype), b.to(dtype), c.to(dtype), initial_state, chunk
        )
    return y.to(x.dtype), state


def _chunked_scan(
    x: Tensor, dt: Tensor, decay_rate: Tensor, b: Tensor, c: Tensor, initial_state: Tensor | None, chunk: int
) -> tuple[Tensor, Tensor]:
    batch, num_tokens, heads, head_dim = x.shape
    state_size = b.shape[-1]
    size = -(-num_tokens // -(-num_tokens // chunk))  # chunks of nearly equal size keep the padding small
    num_padding = -num_tokens % size

    def split_chunks(t: Tensor) -> Tensor:
        """Split [B, N, ...] into chunks [B, K, Q, ...], padded with zeros; dt = 0 leaves the state unchanged."""
        t = F.pad(t, (0, 0) * (t.ndim - 2) + (0, num_padding)) if num_padding else t
        return t.unflatten(1, (-1, size))

    b, c = split_chunks(b), split_chunks(c)
    x_dt = split_chunks((x * dt[..., None]).flatten(2)).unflatten(-1, (heads, head_dim))  # [B, K, Q, H, P]
    log_decay = split_chunks(dt * decay_rate).cumsum(2)  # [B, K, Q, H] since the start of the chunk, at most 0

    # Within a chunk: attention from token i to tokens j <= i, times the decay between them. The mask is applied before
    # exp, which would overflow for j > i.
    log = log_decay.transpose(2, 3)
    causal_mask = torch.ones(size, size, dtype=torch.bool, device=x.device).triu(1)
    weights = (log[..., None] - log[..., None, :]).masked_fill_(causal_mask, -torch.inf).exp_()
    weights = weights * (c @ b.transpose(2, 3))[:, :, None]  # [B, K, H, Q, Q]
    y = (weights @ x_dt.transpose(2, 3)).transpose(2, 3)

    # Between chunks: the recurrence over the states at chunk boundaries.
    decayed_inputs = (log_decay[:, :, -1:] - log_decay).exp()[..., None] * x_dt
    chunk_states = decayed_inputs.flatten(3).transpose(2, 3) @ b  # [B, K, H P, S]
    chunk_decays = log_decay[:, :, -1].exp().repeat_interleave(head_dim, -1)[..., None]  # [B, K, H P, 1]
    state = (
        x.new_zeros(batch, heads * head_dim, state_size)
        if initial_state is None
        else initial_state.to(x.dtype).flatten(1, 2)
    )
    previous_states = []
    for chunk_state, chunk_decay in zip(chunk_states.unbind(1), chunk_decays.unbind(1), strict=True):
        previous_states.append(state)
        state = torch.addcmul(chunk_state, state, chunk_decay)
    from_previous = (c @ torch.stack(previous_states, 1).transpose(2, 3)).unflatten(-1, (heads, head_dim))
    y = y + from_previous * log_decay.exp()[..., None]
    return y.flatten(1, 2)[:, :num_tokens], state.unflatten(1, (heads, head_dim))


def load_fused_scan() -> ScanFn:
    """Return the Triton kernels of the package mamba-ssm with the signature of `scan`; `chunk` is ignored.

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
        x: Tensor, dt: Tensor, rate: Tensor, b: Tensor, c: Tensor, initial_state: Tensor | None = None, *, chunk: int
    ) -> tuple[Tensor, Tensor]:
        if not x.is_cuda:
            raise OptionError(
                f"encoder.backend=mamba-ssm runs on a GPU, and this batch is on {x.device}; use encoder.backend=torch"
            )
        return kernel(
            x, dt, rate, b[:, :, None], c[:, :, None], 256, initial_states=initial_state, return_final_states=True
        )

    return run
