"""The core's own encoder: a Transformer that knows where each token sits and which tokens are real."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tstk.core.interfaces import Encoder
from tstk.core.types import Spec, Tokens
from tstk.errors import OptionError
from tstk.nn.attention import Angles, check_heads, key_mask
from tstk.nn.blocks import Stack, projection
from tstk.nn.cache import Kept
from tstk.nn.positions import (
    angles,
    check_position_std,
    check_rotary,
    line,
    resize_table,
    sinusoid,
    start_positions,
)


class Transformer(Encoder):
    """Transformer layers over tokens, with learned, sinusoidal or rotary positions on any number of axes.

    Vaswani et al., "Attention Is All You Need" (arXiv:1706.03762); rotary positions as in RoFormer
    (arXiv:2104.09864), the channels of a head shared equally among the axes of `pos`. Linear maps start
    Xavier-uniform with zero bias, CLS normal with deviation 0.02.

    Args:
        dim: width of a token inside and after the encoder
        depth: number of layers
        heads: attention heads; divides dim
        hidden: width of the MLP; 4 dim if none
        norm: normalise before each sub-layer (pre) or after the sum (post, as in BERT)
        positions: how a token's place enters
        position_std: deviation of the initial values of the learned table; 1 if none, as large as the tokens (0.02 in
            ViT and CWT-MAE)
        rope: rotary positions over every axis of the grid, each turning its share of a head; or flat, over one line in
            which the grid's rows of time are laid end to end (CWT-MAE)
        theta: base of the sinusoidal and rotary frequencies
        cls: put one learned summary token in front
        cls_place: that token has a place of its own to be added, beside the table (ViT, CWT-MAE)
        rank_ratio: MLP maps of low rank, as a share of their smaller width (CWT-MAE); dense if none
        residual_scale: multiply what each sub-layer adds by a learned scalar that starts here (TimeMAE: 1e-8)
        causal: no token sees a later one
        dropout: of embeddings and of what each sub-layer adds
        attention_dropout: of attention probabilities; any at all rules out fused attention, which on a CPU makes long
            series two to three times slower
        bias: query, key and value maps have a bias
        eps: of the layer norms
    """

    def __init__(
        self,
        spec: Spec,
        *,
        dim: int = 128,
        depth: int = 3,
        heads: int = 4,
        hidden: int | None = None,
        norm: Literal["pre", "post"] = "pre",
        positions: Literal["learned", "sinusoidal", "rotary", "learned+rotary", "none"] = "learned",
        position_std: float | None = None,
        rope: Literal["grid", "flat"] = "grid",
        theta: float = 10000.0,
        cls: bool = False,
        cls_place: bool = False,
        rank_ratio: float | None = None,
        residual_scale: float | None = None,
        causal: bool = False,
        dropout: float = 0.1,
        attention_dropout: float = 0.0,
        bias: bool = True,
        eps: float = 1e-5,
    ) -> None:
        super().__init__(spec)
        check_heads(heads, dim)
        if causal and cls:
            raise OptionError("causal=true leaves a CLS token in front nothing to see; use cls=false")
        self.rotary, self.sinusoidal = "rotary" in positions, positions == "sinusoidal"
        if self.rotary:
            check_rotary(dim // heads, 1 if rope == "flat" else spec.axes)
        if cls_place and not cls:
            raise OptionError("encoder.cls_place=true is for the CLS token, and there is none; use encoder.cls=true")
        none = None if "learned" in positions else f"positions={positions} has no learned table"
        check_position_std(position_std, "encoder", none)
        self.head_dim, self.rope, self.theta, self.causal = dim // heads, rope, theta, causal
        self.project = projection(spec.dim or 0, dim)
        self.table = nn.Parameter(torch.empty(spec.tokens, dim)) if "learned" in positions else None
        self.cls = nn.Parameter(torch.empty(1, 1, dim)) if cls else None
        self.cls_place = nn.Parameter(torch.empty(1, 1, dim)) if cls_place else None
        self.dropout = nn.Dropout(dropout)
        self.stack = Stack(
            depth,
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
        self.out = spec.but(dim=dim, causal=causal, prefix=int(cls))
        self._initialise(position_std)

    def _initialise(self, position_std: float | None) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for places in (self.table, self.cls_place):
            if places is not None:
                start_positions(places, position_std)
        if self.cls is not None:
            nn.init.normal_(self.cls, std=0.02)

    def enter(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Projected tokens, and their `place`."""
        # Zeros where invalid: whatever lies there, even NaN, must not reach a product.
        return self.project(tokens.values.masked_fill(~tokens.valid[..., None], 0)), self.place(tokens)

    def place(self, tokens: Tokens) -> Tensor:
        """Rows of the learned table at `index`, or sinusoids at `pos`; zeros for rotary and none."""
        if self.table is not None:
            return F.embedding(tokens.index, self.table)
        if self.sinusoidal:
            return sinusoid(tokens.pos, self.out.dim or 0, self.theta).to(tokens.values.dtype)
        return super().place(tokens)

    def forward(self, tokens: Tokens) -> Tokens:
        """Tokens of [B, N, spec.dim] -> Tokens of [B, N, dim], zero where invalid; prefix [B, 1, dim] with cls."""
        content, place = self.enter(tokens)
        x, valid = content + place, tokens.valid
        if self.cls is not None:
            front = self.cls if self.cls_place is None else self.cls + self.cls_place
            x = torch.cat([front.expand(x.shape[0], -1, -1), x], 1)
            valid = torch.cat([valid.new_ones(x.shape[0], 1), valid], 1)
        x = self.stack(self.dropout(x), mask=key_mask(valid), angles=self._angles(tokens))
        if self.cls is None:
            return self._leave(x, tokens)
        return self._leave(x[:, 1:], tokens).but(prefix=x[:, :1])

    def extend(self, tokens: Tokens, state: Any = None) -> tuple[Tokens, Any]:
        """Encode tokens that follow those in `state`; a causal encoder only.

        The state, keys and values of every layer and the validity so far, is not changed: a new one is returned.
        """
        if not self.causal:
            return super().extend(tokens, state)
        valid = tokens.valid
        caches: list[list[Kept]] = [[] for _ in self.stack.blocks]
        if state is not None:
            valid, caches = torch.cat([state[0], valid], 1), [list(cache) for cache in state[1]]
        content, place = self.enter(tokens)
        x = self.dropout(content + place)
        x = self.stack(x, mask=key_mask(valid), angles=self._angles(tokens), caches=caches)
        return self._leave(x, tokens), (valid, caches)

    def load(self, state: Mapping[str, Tensor], old: Spec) -> None:
        """Strict, but a learned table made for another grid is interpolated to this one."""
        state = dict(state)
        if self.table is not None and "table" in state:
            state["table"] = resize_table(state["table"], old.grid, self.spec.grid)
        super().load(state, old)

    def _leave(self, x: Tensor, tokens: Tokens) -> Tokens:
        return tokens.but(values=x.masked_fill(~tokens.valid[..., None], 0))

    def _angles(self, tokens: Tokens) -> Angles | None:
        if not self.rotary:
            return None
        pos = line(tokens.pos, self.spec.grid) if self.rope == "flat" else tokens.pos
        if self.cls is not None:  # the CLS sits at 0, everything else one further on every axis
            pos = torch.cat([torch.zeros_like(pos[:, :1]), pos + 1], 1)
        return angles(pos, self.head_dim, self.theta)
