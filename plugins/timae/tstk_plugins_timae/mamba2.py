"""Mamba-2 as an encoder: a recurrence over the tokens in which invalid tokens leave the state unchanged.

Valid tokens are moved to the front before the layers and back afterwards, so neither the convolution nor the scan
has to handle gaps and padding.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tstk.core.interfaces import Encoder
from tstk.core.types import Spec, Tokens
from tstk.errors import OptionError
from tstk.nn.linear import Linear
from tstk.nn.positions import sinusoidal_embedding
from tstk.plugins.ranges import Depth, Fraction, PositiveInt
from tstk_plugins_timae.ssd import load_fused_scan, scan

MixerState = tuple[Tensor, Tensor]
"""State of one mixer: the last inputs of its convolution [B, conv - 1, W], and its recurrent state [B, H, P, S]."""


class Mamba2Mixer(nn.Module):
    """The Mamba-2 block (Dao and Gu 2024, arXiv:2405.21060, section 7) with one group of B and C.

    The rows of the input projection are in the order of the reference code: z, x, B, C, dt.

    Args:
        dim: width D
        state: state size S per inner channel
        head_dim: number P of inner channels that share a decay; divides expand * dim
        expand: inner width as a multiple of D
        conv: kernel size of the depthwise causal convolution, in tokens
        chunk: maximal number of tokens per chunk of the scan
        backend: `torch`, or `mamba-ssm` for that package's kernels
    """

    def __init__(
        self, dim: int, state: int, head_dim: int, expand: int, conv: int, chunk: int, backend: str = "torch"
    ) -> None:
        super().__init__()
        inner = expand * dim
        heads, conv_dim = inner // head_dim, inner + 2 * state
        self.in_proj_sizes, self.conv_sizes = (inner, conv_dim, heads), (inner, state, state)
        self.head_dim, self.chunk = head_dim, chunk
        self.scan = load_fused_scan() if backend == "mamba-ssm" else scan
        self.in_proj = Linear(dim, sum(self.in_proj_sizes), bias=False)
        self.conv = nn.Conv1d(conv_dim, conv_dim, conv, groups=conv_dim)
        # The initial step sizes dt are log-uniform in [0.001, 0.1]; the bias is their inverse softplus.
        dt = torch.empty(heads).uniform_(math.log(1e-3), math.log(0.1)).exp().clamp(min=1e-4)
        self.dt_bias = nn.Parameter(dt + (-torch.expm1(-dt)).log())
        self.A_log = nn.Parameter(torch.empty(heads).uniform_(1, 16).log())
        self.skip = nn.Parameter(torch.ones(heads))
        self.norm = nn.RMSNorm(inner, eps=1e-5)
        self.out_proj = Linear(inner, dim, bias=False)

    def forward(self, x: Tensor, valid: Tensor, state: MixerState | None = None) -> tuple[Tensor, MixerState]:
        """Mix the tokens: [B, N, D] -> [B, N, D], zero where invalid, and the state after the last valid token.

        Args:
            x: [B, N, D]
            valid: [B, N] bool; the returned state is right only if valid tokens come first
            state: state after the preceding tokens; zeros if None
        """
        gate, x, dt = self.in_proj(x.masked_fill(~valid[..., None], 0)).split(self.in_proj_sizes, -1)
        conv_state, ssm_state = (
            (x.new_zeros(x.shape[0], self.conv.kernel_size[0] - 1, x.shape[-1]), None) if state is None else state
        )
        x = torch.cat([conv_state, x], 1)
        last_inputs = valid.sum(1, keepdim=True) + torch.arange(conv_state.shape[1], device=x.device)
        conv_state = x.gather(1, last_inputs[..., None].expand(-1, -1, x.shape[-1]))
        x, b, c = F.silu(self.conv(x.transpose(1, 2)).transpose(1, 2)).split(self.conv_sizes, -1)
        x = x.unflatten(-1, (-1, self.head_dim))
        dt = F.softplus(dt.to(self.dt_bias.dtype) + self.dt_bias) * valid[..., None]
        y, ssm_state = self.scan(x, dt, -self.A_log.exp(), b, c, ssm_state, chunk=self.chunk)
        y = (y + self.skip[:, None] * x).flatten(2)
        return self.out_proj(self.norm(y * F.silu(gate))), (conv_state, ssm_state)


class Mamba2(Encoder):
    """Mamba-2 layers: a recurrence whose step size and decay depend on the token (Dao and Gu 2024, arXiv:2405.21060).

    The cost is linear in the number of tokens. Causal unless bidirectional; a causal encoder can be extended
    incrementally at the cost of the new tokens only. Tokens are processed in the order of their rows. The CLS token
    comes after the last token, so it depends on all of them.

    Args:
        dim: width of a token inside and after the encoder
        depth: number of layers
        state: state size per inner channel
        head_dim: number of inner channels that share a decay; divides expand * dim
        expand: inner width as a multiple of dim
        conv: kernel size of the convolution before the scan, in tokens
        chunk: maximal number of tokens per chunk of the scan, for speed only; chosen from head_dim and state if none
        bidirectional: add a second mixer to each layer that runs from the last token to the first
        residual: pre-norm layers with a residual connection; if false, post-norm layers without one
        positions: add sinusoidal positions to the tokens, so that gaps left by masked tokens are visible, or none
        cls: append one learned CLS token
        dropout: dropout on the output of each layer
        backend: torch, or mamba-ssm for the kernels of that package (GPU only)
    """

    needs = ("ordered",)

    def __init__(
        self,
        spec: Spec,
        *,
        dim: PositiveInt = 64,
        depth: Depth = 1,
        state: int = 64,
        head_dim: int = 8,
        expand: int = 2,
        conv: int = 4,
        chunk: int | None = None,
        bidirectional: bool = False,
        residual: bool = True,
        positions: Literal["sinusoidal", "none"] = "sinusoidal",
        cls: bool = False,
        dropout: Fraction = 0.0,
        backend: Literal["torch", "mamba-ssm"] = "torch",
    ) -> None:
        super().__init__(spec)
        sizes = {"dim": dim, "depth": depth, "state": state, "expand": expand, "conv": conv, "head_dim": head_dim}
        if chunk is not None:
            sizes["chunk"] = chunk
        problems = [f"encoder.{name}={value}: expected at least 1" for name, value in sizes.items() if value < 1]
        if not problems and expand * dim % head_dim:
            divisors = [d for d in range(1, expand * dim + 1) if expand * dim % d == 0]
            nearby = [d for d in divisors if d < head_dim][-1:] + [d for d in divisors if d > head_dim][:1]
            problems.append(
                f"encoder.head_dim={head_dim} does not divide expand * dim = {expand * dim}; "
                f"nearby: {', '.join(map(str, nearby))}"
            )
        if problems:
            raise OptionError("; ".join(problems))

        def build_mixers() -> nn.ModuleList:
            # A chunk of Q tokens needs about H (Q + P S / Q) numbers per token, which is minimal at Q = sqrt(P S).
            size = chunk or 2 ** max(int(math.log2(head_dim * state) / 2), 3)
            return nn.ModuleList(Mamba2Mixer(dim, state, head_dim, expand, conv, size, backend) for _ in range(depth))

        self.residual, self.sinusoidal = residual, positions == "sinusoidal"
        self.project = Linear(spec.dim or 0, dim) if spec.dim != dim else nn.Identity()
        self.mixers = build_mixers()
        self.reverse_mixers = build_mixers() if bidirectional else None
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(depth))
        self.norm = nn.LayerNorm(dim) if residual else nn.Identity()
        self.cls = nn.Parameter(torch.randn(1, 1, dim) * 0.02) if cls else None
        self.dropout = nn.Dropout(dropout)
        self.out = spec.replace(dim=dim, causal=not bidirectional, num_prefix_tokens=int(cls))

    def pos_embed(self, tokens: Tokens) -> Tensor:
        """Return the sinusoidal embedding of `tokens.pos`, or zeros with `positions=none`."""
        if self.sinusoidal:
            return sinusoidal_embedding(tokens.pos, self.out.dim or 0).to(tokens.values.dtype)
        return super().pos_embed(tokens)

    def embed_inputs(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Return the projected tokens and their position embeddings."""
        # Invalid tokens may hold anything, even NaN, and NaN times 0 is NaN: fill with zeros before the product.
        return self.project(tokens.values.masked_fill(~tokens.valid[..., None], 0)), self.pos_embed(tokens)

    def forward(self, tokens: Tokens) -> Tokens:
        """Encode tokens [B, N, spec.dim] to [B, N, dim], zero where invalid; prefix [B, 1, dim] with cls."""
        return self._encode(tokens, None)[0]

    def forward_incremental(self, tokens: Tokens, state: Any = None) -> tuple[Tokens, Any]:
        """Encode tokens that follow those in `state`; unavailable if bidirectional.

        The state has a fixed size: for each layer the last inputs of its convolution and the recurrent state. It is
        not modified; a new one is returned. The CLS token depends on all tokens so far.
        """
        return (
            super().forward_incremental(tokens, state)
            if self.reverse_mixers is not None
            else self._encode(tokens, state)
        )

    def _encode(self, tokens: Tokens, states: list[MixerState] | None) -> tuple[Tokens, list[MixerState]]:
        content, pos_embed = self.embed_inputs(tokens)
        x = content + pos_embed
        order = (~tokens.valid).to(torch.uint8).argsort(dim=1, stable=True)
        rows = order[..., None].expand(-1, -1, x.shape[-1])
        x, states = self._run_layers(x.gather(1, rows), tokens.valid.gather(1, order), states)
        x = torch.zeros_like(x).scatter(1, rows, x).masked_fill(~tokens.valid[..., None], 0)
        encoded = tokens.replace(values=x)
        if self.cls is not None:
            cls = self.cls.expand(x.shape[0], -1, -1)
            encoded.prefix = self._run_layers(cls, cls.new_ones(cls.shape[:2]).bool(), states)[0]
        return encoded, states

    def _run_layers(self, x: Tensor, valid: Tensor, states: list[MixerState] | None) -> tuple[Tensor, list[MixerState]]:
        """Run all layers on [B, N, D] with the valid tokens first; also return the new state of each mixer."""
        new_states = []
        for i, (mixer, norm) in enumerate(zip(self.mixers, self.norms, strict=True)):
            inputs = norm(x) if self.residual else x
            y, state = mixer(inputs, valid, None if states is None else states[i])
            if self.reverse_mixers is not None:
                y = y + self.reverse_mixers[i](inputs.flip(1), valid.flip(1))[0].flip(1)
            y = self.dropout(y)
            x = x + y if self.residual else norm(y)
            new_states.append(state)
        return self.norm(x), new_states
