"""Transformer layers: blocks with pre- or post-norm and a dense or low-rank MLP, and stacks of blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tstk.errors import OptionError
from tstk.kernels.dropout import apply_dropout
from tstk.nn.attention import Angles, Attention
from tstk.nn.cache import KVCache
from tstk.nn.linear import Linear

NormPlacement = Literal["pre", "post"]


def build_projection(in_features: int, out_features: int) -> nn.Module:
    """Return a linear layer, Xavier-uniform with zero bias to preserve variance; an identity for equal widths."""
    if in_features == out_features:
        return nn.Identity()
    layer = Linear(in_features, out_features)
    init_xavier(layer)
    return layer


def init_xavier(module: nn.Module) -> None:
    """Initialise the linear layers of a module Xavier-uniform with zero bias."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class Dropout(nn.Dropout):
    """Dropout in training, from few random numbers (`tstk.kernels.dropout`)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x [...] with elements set to zero at random."""
        return apply_dropout(x, self.p) if self.training else x


class LowRankLinear(nn.Module):
    """A linear map factored into two of low rank, U(V x).

    Args:
        in_features: width of the input
        out_features: width of the output
        rank_ratio: rank as a fraction of the smaller width; the rank is at least 32, or the smaller width if less
    """

    def __init__(self, in_features: int, out_features: int, rank_ratio: float) -> None:
        super().__init__()
        if not 0 < rank_ratio <= 1:
            raise OptionError(f"rank_ratio={rank_ratio}: expected a fraction above 0 and at most 1")
        full_rank = min(in_features, out_features)
        rank = min(max(32, int(full_rank * rank_ratio)), full_rank)
        self.v = Linear(in_features, rank, bias=False)
        self.u = Linear(rank, out_features)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., in_features] to [..., out_features]."""
        return self.u(self.v(x))


class MLP(nn.Module):
    """Two linear layers with a GELU (erf) between them and dropout after the second.

    Args:
        dim: width D of input and output
        hidden: width between the two layers
        dropout: dropout rate of the output
        rank_ratio: make both layers `LowRankLinear` with this ratio; dense if None
        hidden_dropout: dropout rate between the GELU and the second layer
    """

    def __init__(
        self, dim: int, hidden: int, dropout: float = 0.0, rank_ratio: float | None = None, hidden_dropout: float = 0.0
    ) -> None:
        super().__init__()

        def linear(inputs: int, outputs: int) -> nn.Module:
            return Linear(inputs, outputs) if rank_ratio is None else LowRankLinear(inputs, outputs, rank_ratio)

        self.up, self.down = linear(dim, hidden), linear(hidden, dim)
        self.act, self.dropout = nn.GELU(), Dropout(dropout)
        self.hidden_dropout = Dropout(hidden_dropout) if hidden_dropout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, N, D] to [B, N, D]."""
        return self.dropout(self.down(self.hidden_dropout(self.act(self.up(x)))))


class _ResidualBlock(nn.Module):
    """Attention and MLP, each with a residual connection; subclasses choose self- or cross-attention."""

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        hidden: int | None = None,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        hidden_dropout: float = 0.0,
        norm: NormPlacement = "pre",
        eps: float = 1e-5,
        bias: bool = True,
        rank_ratio: float | None = None,
        residual_scale: float | None = None,
        causal: bool = False,
        key_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.pre_norm = norm == "pre"
        self.attention = Attention(dim, heads, key_dim=key_dim, bias=bias, dropout=attention_dropout, causal=causal)
        self.attention_norm = nn.LayerNorm(dim, eps)
        self.mlp = MLP(dim, hidden or 4 * dim, dropout, rank_ratio, hidden_dropout)
        self.mlp_norm = nn.LayerNorm(dim, eps)
        self.dropout = Dropout(dropout)
        has_scale = residual_scale is not None
        self.attention_scale = nn.Parameter(torch.tensor(float(residual_scale or 0))) if has_scale else None
        self.mlp_scale = nn.Parameter(torch.tensor(float(residual_scale or 0))) if has_scale else None

    def _add_residuals(self, x: Tensor, attend: Callable[[Tensor], Tensor]) -> Tensor:
        def rescale(y: Tensor, scale: Tensor | None) -> Tensor:
            return y if scale is None else scale * y

        if self.pre_norm:
            x = x + rescale(self.dropout(attend(self.attention_norm(x))), self.attention_scale)
            return x + rescale(self.mlp(self.mlp_norm(x)), self.mlp_scale)
        x = self.attention_norm(x + rescale(self.dropout(attend(x)), self.attention_scale))
        return self.mlp_norm(x + rescale(self.mlp(x), self.mlp_scale))


class Block(_ResidualBlock):
    """A transformer encoder layer: self-attention, then an MLP.

    Args:
        dim: width D
        heads: number of heads; divides `dim`
        hidden: hidden width of the MLP; 4 D if None
        dropout: dropout rate of the output of each sub-layer
        attention_dropout: dropout rate of the attention probabilities
        hidden_dropout: dropout rate inside the MLP, after its GELU
        norm: `pre` normalises the input of each sub-layer, `post` the sum after it (BERT)
        eps: epsilon of the layer norms
        bias: add a bias to the query, key and value projections
        rank_ratio: low-rank MLP (see `LowRankLinear`); dense if None
        residual_scale: initial value of a learned scalar that multiplies the output of each sub-layer (TimeMAE); no
            scalar if None
        causal: token i attends to tokens 0..i of its row
    """

    def forward(
        self, x: Tensor, *, mask: Tensor | None = None, angles: Angles | None = None, cache: list[KVCache] | None = None
    ) -> Tensor:
        """Map [B, N, D] to [B, N, D]; see `Attention.forward` for the arguments."""
        return self._add_residuals(x, lambda y: self.attention(y, mask=mask, angles=angles, cache=cache))


class CrossBlock(_ResidualBlock):
    """A layer of cross-attention to a context, then an MLP; queries do not attend to each other.

    Takes the arguments of `Block`, and `key_dim`, the width of the context (D if None). With `norm="pre"` only the
    queries are normalised, not the context.
    """

    def forward(self, x: Tensor, context: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Map queries [B, N, D] and a context [B, M, key_dim] to [B, N, D]; `mask` is over the context."""
        return self._add_residuals(x, lambda y: self.attention(y, context, mask=mask))


class Stack(nn.Module):
    """`depth` blocks in sequence, and a final layer norm if they are pre-norm.

    Takes `depth`, then the arguments of `Block`.
    """

    def __init__(
        self,
        depth: int,
        dim: int,
        heads: int,
        *,
        hidden: int | None = None,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        hidden_dropout: float = 0.0,
        norm: NormPlacement = "pre",
        eps: float = 1e-5,
        bias: bool = True,
        rank_ratio: float | None = None,
        residual_scale: float | None = None,
        causal: bool = False,
    ) -> None:
        super().__init__()
        if depth < 0:
            raise OptionError(f"depth={depth} is negative; expected 0 or more blocks")
        self.blocks = nn.ModuleList(
            Block(
                dim,
                heads,
                hidden=hidden,
                dropout=dropout,
                attention_dropout=attention_dropout,
                hidden_dropout=hidden_dropout,
                norm=norm,
                eps=eps,
                bias=bias,
                rank_ratio=rank_ratio,
                residual_scale=residual_scale,
                causal=causal,
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim, eps) if norm == "pre" else nn.Identity()
        self.gradient_checkpointing = False
        """Store only the input of each block in training, and recompute the block in the backward pass."""

    def forward(
        self,
        x: Tensor,
        *,
        mask: Tensor | None = None,
        angles: Angles | None = None,
        caches: list[list[KVCache]] | None = None,
    ) -> Tensor:
        """Map [B, N, D] to [B, N, D]; `caches` holds the cache of `Attention.forward` for each block."""
        checkpointing = self.gradient_checkpointing and caches is None and torch.is_grad_enabled()
        for i, block in enumerate(self.blocks):
            if checkpointing:
                x = checkpoint(block, x, mask=mask, angles=angles, use_reentrant=False)
                continue
            x = block(x, mask=mask, angles=angles, cache=None if caches is None else caches[i])
        return self.norm(x)


@contextmanager
def enable_gradient_checkpointing(module: nn.Module, enabled: bool = True) -> Iterator[None]:
    """Checkpoint the blocks of every `Stack` inside `module` within the context, if `enabled`."""
    stacks = [submodule for submodule in module.modules() if isinstance(submodule, Stack)]
    for stack in stacks:
        stack.gradient_checkpointing = enabled
    try:
        yield
    finally:
        for stack in stacks:
            stack.gradient_checkpointing = False
