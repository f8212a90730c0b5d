"""Mamba-2 as an encoder: tokens in their order pass a state along, and what is invalid leaves it alone.

Valid tokens are moved to the front before the layers and back after them, so neither the convolution nor the
scan knows of holes and padding.
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
from tstk.nn.positions import sinusoid
from tstk_plugins_timae.ssd import fused, scan

State = tuple[Tensor, Tensor]
"""Where one mixer stopped: the last inputs of its convolution [B, conv - 1, W], and its state [B, H, P, S]."""


class Mixer(nn.Module):
    """The Mamba-2 block (Dao and Gu 2024, arXiv:2405.21060, section 7) with one group of B and C.

    The rows of the input projection are those of the reference, in its order z, x, B, C, dt.

    Args:
        dim: width D
        state: numbers S in the state for each inner channel
        head_dim: inner channels P that share a decay; divides expand * dim
        expand: inner width as a multiple of D
        conv: tokens under the depthwise causal convolution
        chunk: most tokens treated together
        backend: `torch`, or `mamba-ssm` for that package's kernels
    """

    def __init__(
        self, dim: int, state: int, head_dim: int, expand: int, conv: int, chunk: int, backend: str = "torch"
    ) -> None:
        super().__init__()
        inner = expand * dim
        heads, width = inner // head_dim, inner + 2 * state
        self.split, self.parts = (inner, width, heads), (inner, state, state)
        self.head_dim, self.chunk = head_dim, chunk
        self.scan = fused() if backend == "mamba-ssm" else scan
        self.enter = nn.Linear(dim, sum(self.split), bias=False)
        self.conv = nn.Conv1d(width, width, conv, groups=width)
        # steps dt that start log-uniform in [0.001, 0.1], through the inverse of softplus
        dt = torch.empty(heads).uniform_(math.log(1e-3), math.log(0.1)).exp().clamp(min=1e-4)
        self.dt_bias = nn.Parameter(dt + (-torch.expm1(-dt)).log())
        self.log_rate = nn.Parameter(torch.empty(heads).uniform_(1, 16).log())
        self.skip = nn.Parameter(torch.ones(heads))
        self.norm = nn.RMSNorm(inner, eps=1e-5)
        self.leave = nn.Linear(inner, dim, bias=False)

    def forward(self, x: Tensor, valid: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """[B, N, D] -> [B, N, D], zero where invalid, and where it stopped.

        Args:
            x: [B, N, D]
            valid: [B, N] bool; the state is right only if valid tokens come first
            state: where to go on from; the beginning unless given
        """
        gate, x, dt = self.enter(x.masked_fill(~valid[..., None], 0)).split(self.split, -1)
        before, start = (
            (x.new_zeros(x.shape[0], self.conv.kernel_size[0] - 1, x.shape[-1]), None) if state is None else state
        )
        x = torch.cat([before, x], 1)
        last = valid.sum(1, keepdim=True) + torch.arange(before.shape[1], device=x.device)
        before = x.gather(1, last[..., None].expand(-1, -1, x.shape[-1]))
        x, b, c = F.silu(self.conv(x.transpose(1, 2)).transpose(1, 2)).split(self.parts, -1)
        x = x.unflatten(-1, (-1, self.head_dim))
        dt = F.softplus(dt.to(self.dt_bias.dtype) + self.dt_bias) * valid[..., None]
        y, end = self.scan(x, dt, -self.log_rate.exp(), b, c, start, chunk=self.chunk)
        y = (y + self.skip[:, None] * x).flatten(2)
        return self.leave(self.norm(y * F.silu(gate))), (before, end)


class Mamba2(Encoder):
    """Mamba-2 layers: a recurrence whose step and decay depend on the token (Dao and Gu 2024, arXiv:2405.21060).

    Linear in the number of tokens, causal unless bidirectional, and extended at the cost of the new tokens alone.
    Tokens are read in the order of their rows. A CLS token reads the state after the last one, so it sees all.

    Args:
        dim: width of a token inside and after the encoder
        depth: number of layers
        state: numbers in the state for each inner channel
        head_dim: inner channels that share a decay; divides expand * dim
        expand: inner width as a multiple of dim
        conv: tokens under the convolution before the scan
        chunk: most tokens treated together, for speed alone; fitted to head_dim and state if none
        bidirectional: a second mixer in each layer reads from the end, and the two are added
        residual: each layer normalises what it reads and adds to it; false, it replaces it and normalises after
        positions: sinusoids added to the tokens, so that gaps left by hidden ones show, or none
        cls: one learned summary token at the end
        dropout: of what each layer adds
        backend: torch, or mamba-ssm for the kernels of that package (a GPU only)
    """

    needs = ("ordered",)

    def __init__(
        self,
        spec: Spec,
        *,
        dim: int = 64,
        depth: int = 1,
        state: int = 64,
        head_dim: int = 8,
        expand: int = 2,
        conv: int = 4,
        chunk: int | None = None,
        bidirectional: bool = False,
        residual: bool = True,
        positions: Literal["sinusoidal", "none"] = "sinusoidal",
        cls: bool = False,
        dropout: float = 0.0,
        backend: Literal["torch", "mamba-ssm"] = "torch",
    ) -> None:
        super().__init__(spec)
        counts = {"dim": dim, "depth": depth, "state": state, "expand": expand, "conv": conv, "head_dim": head_dim}
        if chunk is not None:
            counts["chunk"] = chunk
        faults = [f"encoder.{name}={value}: expected at least 1" for name, value in counts.items() if value < 1]
        if not faults and expand * dim % head_dim:
            near = [d for d in range(1, expand * dim + 1) if expand * dim % d == 0]
            near = [d for d in near if d < head_dim][-1:] + [d for d in near if d > head_dim][:1]
            faults.append(
                f"encoder.head_dim={head_dim} does not divide expand * dim = {expand * dim}; "
                f"nearby: {', '.join(map(str, near))}"
            )
        if faults:
            raise OptionError("; ".join(faults))

        def mixers() -> nn.ModuleList:
            # A chunk of Q costs about H (Q + P S / Q) numbers per token, least at Q = sqrt(P S).
            size = chunk or 2 ** max(int(math.log2(head_dim * state) / 2), 3)
            return nn.ModuleList(Mixer(dim, state, head_dim, expand, conv, size, backend) for _ in range(depth))

        self.residual, self.sinusoidal = residual, positions == "sinusoidal"
        self.project = nn.Linear(spec.dim or 0, dim) if spec.dim != dim else nn.Identity()
        self.forwards = mixers()
        self.backwards = mixers() if bidirectional else None
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(depth))
        self.norm = nn.LayerNorm(dim) if residual else nn.Identity()
        self.cls = nn.Parameter(torch.randn(1, 1, dim) * 0.02) if cls else None
        self.dropout = nn.Dropout(dropout)
        self.out = spec.but(dim=dim, causal=not bidirectional, prefix=int(cls))

    def place(self, tokens: Tokens) -> Tensor:
        """Sinusoids at `pos`, or zeros."""
        if self.sinusoidal:
            return sinusoid(tokens.pos, self.out.dim or 0).to(tokens.values.dtype)
        return super().place(tokens)

    def enter(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Projected tokens, and their `place`."""
        # Zeros where invalid: whatever lies there, even NaN, must not reach a product.
        return self.project(tokens.values.masked_fill(~tokens.valid[..., None], 0)), self.place(tokens)

    def forward(self, tokens: Tokens) -> Tokens:
        """Tokens of [B, N, spec.dim] -> Tokens of [B, N, dim], zero where invalid; prefix [B, 1, dim] with cls."""
        return self._read(tokens, None)[0]

    def extend(self, tokens: Tokens, state: Any = None) -> tuple[Tokens, Any]:
        """Encode tokens that follow those in `state`; not if bidirectional.

        The state has a fixed size: of each layer the tail of its convolution and the state of its recurrence. It
        is not changed, a new one is returned. A CLS token sees all tokens so far.
        """
        return super().extend(tokens, state) if self.backwards is not None else self._read(tokens, state)

    def _read(self, tokens: Tokens, states: list[State] | None) -> tuple[Tokens, list[State]]:
        content, place = self.enter(tokens)
        x = content + place
        order = (~tokens.valid).to(torch.uint8).argsort(dim=1, stable=True)
        rows = order[..., None].expand(-1, -1, x.shape[-1])
        x, states = self._layers(x.gather(1, rows), tokens.valid.gather(1, order), states)
        x = torch.zeros_like(x).scatter(1, rows, x).masked_fill(~tokens.valid[..., None], 0)
        encoded = tokens.but(values=x)
        if self.cls is not None:
            summary = self.cls.expand(x.shape[0], -1, -1)
            encoded.prefix = self._layers(summary, summary.new_ones(summary.shape[:2]).bool(), states)[0]
        return encoded, states

    def _layers(self, x: Tensor, valid: Tensor, states: list[State] | None) -> tuple[Tensor, list[State]]:
        """All layers over [B, N, D] with the valid tokens in front; and where each mixer stopped."""
        after = []
        for i, (mixer, norm) in enumerate(zip(self.forwards, self.norms, strict=True)):
            given = norm(x) if self.residual else x
            y, state = mixer(given, valid, None if states is None else states[i])
            if self.backwards is not None:
                y = y + self.backwards[i](given.flip(1), valid.flip(1))[0].flip(1)
            y = self.dropout(y)
            x = x + y if self.residual else norm(y)
            after.append(state)
        return self.norm(x), after
