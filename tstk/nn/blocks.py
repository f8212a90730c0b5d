"""Transformer layers: one block with its norm before or after, dense or low-rank, and the stack of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tstk.errors import OptionError
from tstk.nn.attention import Angles, Attention
from tstk.nn.cache import Kept

Norm = Literal["pre", "post"]


def projection(inputs: int, dim: int) -> nn.Module:
    """Return a map of tokens to the width of the layers, one that keeps their size: Xavier-uniform with zero bias."""
    if inputs == dim:
        return nn.Identity()
    linear = nn.Linear(inputs, dim)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


class LowRank(nn.Module):
    """A linear map through a narrow middle: U(V x), without a nonlinearity between.

    Args:
        inputs: width of x
        outputs: width of the result
        rank_ratio: rank as a share of the smaller width; the rank is at least 32 where the widths allow it
    """

    def __init__(self, inputs: int, outputs: int, rank_ratio: float) -> None:
        super().__init__()
        if not 0 < rank_ratio <= 1:
            raise OptionError(f"rank_ratio={rank_ratio} is no share; expected more than 0 and at most 1")
        small = min(inputs, outputs)
        rank = min(max(32, int(small * rank_ratio)), small)
        self.v = nn.Linear(inputs, rank, bias=False)
        self.u = nn.Linear(rank, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        return self.u(self.v(x))


class MLP(nn.Module):
    """Two linear maps with GELU (erf) between; dropout after the second.

    Args:
        dim: width D
        hidden: width of the middle
        dropout: of the result
        rank_ratio: both maps are `LowRank` with this ratio; dense unless given
    """

    def __init__(self, dim: int, hidden: int, dropout: float = 0.0, rank_ratio: float | None = None) -> None:
        super().__init__()

        def linear(inputs: int, outputs: int) -> nn.Module:
            return nn.Linear(inputs, outputs) if rank_ratio is None else LowRank(inputs, outputs, rank_ratio)

        self.up, self.down = linear(dim, hidden), linear(hidden, dim)
        self.act, self.dropout = nn.GELU(), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        return self.dropout(self.down(self.act(self.up(x))))


class _Residual(nn.Module):
    """Attention and MLP, each around a residual; the two blocks below say what is attended to."""

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        hidden: int | None = None,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        norm: Norm = "pre",
        eps: float = 1e-5,
        bias: bool = True,
        rank_ratio: float | None = None,
        residual_scale: float | None = None,
        causal: bool = False,
        key_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.pre = norm == "pre"
        self.attention = Attention(dim, heads, key_dim=key_dim, bias=bias, dropout=attention_dropout, causal=causal)
        self.attention_norm = nn.LayerNorm(dim, eps)
        self.mlp = MLP(dim, hidden or 4 * dim, dropout, rank_ratio)
        self.mlp_norm = nn.LayerNorm(dim, eps)
        self.dropout = nn.Dropout(dropout)
        scaled = residual_scale is not None
        self.attention_scale = nn.Parameter(torch.tensor(float(residual_scale or 0))) if scaled else None
        self.mlp_scale = nn.Parameter(torch.tensor(float(residual_scale or 0))) if scaled else None

    def _run(self, x: Tensor, attend: Callable[[Tensor], Tensor]) -> Tensor:
        def scaled(y: Tensor, scale: Tensor | None) -> Tensor:
            return y if scale is None else scale * y

        if self.pre:
            x = x + scaled(self.dropout(attend(self.attention_norm(x))), self.attention_scale)
            return x + scaled(self.mlp(self.mlp_norm(x)), self.mlp_scale)
        x = self.attention_norm(x + scaled(self.dropout(attend(x)), self.attention_scale))
        return self.mlp_norm(x + scaled(self.mlp(x), self.mlp_scale))


class Block(_Residual):
    """Self-attention, then an MLP.

    Args:
        dim: width D
        heads: number of heads; divides `dim`
        hidden: width of the MLP; 4 D unless given
        dropout: of what either part adds
        attention_dropout: of attention probabilities
        norm: `pre` normalises what a part reads, `post` the sum after it (BERT)
        eps: of the norms
        bias: query, key and value have a bias
        rank_ratio: low-rank MLP (see `LowRank`); dense unless given
        residual_scale: what either part adds is multiplied by a learned scalar that starts here; no scalar
            unless given (TimeMAE)
        causal: token i sees tokens 0..i of its row
    """

    def forward(
        self,
        x: Tensor,
        *,
        mask: Tensor | None = None,
        angles: Angles | None = None,
        cache: list[Kept] | None = None,
    ) -> Tensor:
        """[B, N, D] -> [B, N, D]; the arguments are those of `Attention`."""
        return self._run(x, lambda y: self.attention(y, mask=mask, angles=angles, cache=cache))


class CrossBlock(_Residual):
    """Attention to a context, then an MLP; the queries do not see one another.

    Args: those of `Block`, and `key_dim`, the width of the context (D unless given). The context is taken as
    it is; with `norm="pre"` only the queries are normalised.
    """

    def forward(self, x: Tensor, context: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Queries [B, N, D] and a context [B, M, key_dim] -> [B, N, D]; `mask` is over the context."""
        return self._run(x, lambda y: self.attention(y, context, mask=mask))


class Stack(nn.Module):
    """`depth` blocks one after the other, and a last norm if they normalise before.

    Args: `depth`, then those of `Block`.
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
        norm: Norm = "pre",
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
        self.recompute = False
        """While learning, keep no more of a block than its input, and run it again on the way back."""

    def forward(
        self,
        x: Tensor,
        *,
        mask: Tensor | None = None,
        angles: Angles | None = None,
        caches: list[list[Kept]] | None = None,
    ) -> Tensor:
        """[B, N, D] -> [B, N, D]; `caches` holds one cache of `Attention` per block."""
        again = self.recompute and caches is None and torch.is_grad_enabled()
        for i, block in enumerate(self.blocks):
            if again:
                x = checkpoint(block, x, mask=mask, angles=angles, use_reentrant=False)
                continue
            x = block(x, mask=mask, angles=angles, cache=None if caches is None else caches[i])
        return self.norm(x)


@contextmanager
def recomputing(module: nn.Module, wanted: bool = True) -> Iterator[None]:
    """Every `Stack` inside computes its blocks again on the way back, if so wanted."""
    stacks = [part for part in module.modules() if isinstance(part, Stack)]
    for stack in stacks:
        stack.recompute = wanted
    try:
        yield
    finally:
        for stack in stacks:
            stack.recompute = False
