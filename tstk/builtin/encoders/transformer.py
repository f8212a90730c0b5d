"""The default encoder: a Transformer with positions on any number of axes that ignores invalid tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tstk.core.interfaces import Encoder
from tstk.core.types import Spec, Tokens
from tstk.errors import OptionError
from tstk.nn.attention import Angles, check_heads, make_key_mask
from tstk.nn.blocks import Dropout, Stack, build_projection, init_xavier
from tstk.nn.cache import KVCache
from tstk.nn.positions import (
    check_position_std,
    check_rotary,
    flatten_positions,
    init_pos_embed,
    resize_pos_embed,
    rotary_angles,
    sinusoidal_embedding,
)
from tstk.plugins.ranges import Depth, Fraction, PositiveInt


class Transformer(Encoder):
    """Transformer layers over tokens, with learned, sinusoidal or rotary positions on any number of axes.

    Vaswani et al., "Attention Is All You Need" (arXiv:1706.03762); rotary positions as in RoFormer
    (arXiv:2104.09864), the channels of a head divided equally among the axes of `pos`. The CLS token is initialised
    with standard deviation 0.02.

    Args:
        dim: width of a token inside and after the encoder
        depth: number of layers
        heads: attention heads; divides dim
        hidden: hidden width of the MLP; 4 dim if none
        norm: normalise before each sub-layer (pre) or after the sum (post, as in BERT)
        positions: positional embedding: learned table; fixed sinusoids, sines then cosines and counted from 0;
            interleaved, sines and cosines alternating and counted from 1, after the CLS token at 0 (Ti-MAE); rotary; a
            table and rotary; or none
        position_std: initial standard deviation of the learned table; 1 if none, as large as the tokens (0.02 in ViT
            and CWT-MAE)
        rope: rotary positions over every axis of the grid, each with an equal part of a head; flat, over the flattened
            grid; or flat-bf16, with cosines and sines rounded to bfloat16 too, as CWT-MAE does
        theta: base of the sinusoidal and rotary frequencies
        cls: prepend a learned CLS token
        cls_pos_embed: learn a position of its own for the CLS token (ViT, CWT-MAE)
        rank_ratio: rank of low-rank MLP layers, as a fraction of their smaller width (CWT-MAE); dense if none
        residual_scale: initial value of a learned scalar that multiplies the output of each sub-layer (TimeMAE: 1e-8);
            no scalar if none
        causal: tokens attend only to themselves and earlier ones
        dropout: dropout rate of embeddings and of the output of each sub-layer
        attention_dropout: dropout rate of the attention probabilities; above 0 it rules out fused attention, which
            makes long series two to three times slower on a CPU
        bias: add a bias to the query, key and value projections
        eps: epsilon of the layer norms
        init: initialise linear layers Xavier-uniform with zero bias; xavier-stacked, query, key and value of a layer as
            one map, with 0.7 times the deviation (CWT-MAE)
    """

    def __init__(
        self,
        spec: Spec,
        *,
        dim: PositiveInt = 128,
        depth: Depth = 3,
        heads: PositiveInt = 4,
        hidden: PositiveInt | None = None,
        norm: Literal["pre", "post"] = "pre",
        positions: Literal["learned", "sinusoidal", "interleaved", "rotary", "learned+rotary", "none"] = "learned",
        position_std: float | None = None,
        rope: Literal["grid", "flat", "flat-bf16"] = "grid",
        theta: float = 10000.0,
        cls: bool = False,
        cls_pos_embed: bool = False,
        rank_ratio: float | None = None,
        residual_scale: float | None = None,
        causal: bool = False,
        dropout: Fraction = 0.1,
        attention_dropout: Fraction = 0.0,
        bias: bool = True,
        eps: float = 1e-5,
        init: Literal["xavier", "xavier-stacked"] = "xavier",
    ) -> None:
        super().__init__(spec)
        check_heads(heads, dim)
        if causal and cls:
            raise OptionError("with causal=true, the CLS token in front could attend to no other token; use cls=false")
        self.rotary, self.sinusoidal = "rotary" in positions, positions in ("sinusoidal", "interleaved")
        self.interleaved = positions == "interleaved"
        if self.rotary:
            check_rotary(dim // heads, spec.num_axes if rope == "grid" else 1)
        if cls_pos_embed and not cls:
            raise OptionError("encoder.cls_pos_embed=true needs a CLS token; use encoder.cls=true")
        missing_reason = None if "learned" in positions else f"positions={positions} has no learned table"
        check_position_std(position_std, "encoder", missing_reason)
        self.head_dim, self.rope, self.theta, self.causal = dim // heads, rope, theta, causal
        self.project = build_projection(spec.dim or 0, dim)
        self.table = nn.Parameter(torch.empty(spec.num_tokens, dim)) if "learned" in positions else None
        self.cls = nn.Parameter(torch.empty(1, 1, dim)) if cls else None
        self.cls_pos_embed = nn.Parameter(torch.empty(1, 1, dim)) if cls_pos_embed else None
        self.dropout = Dropout(dropout)
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
        self.out = spec.replace(dim=dim, causal=causal, num_prefix_tokens=int(cls))
        self._init_weights(position_std)
        for block in self.stack.blocks if init == "xavier-stacked" else ():
            block.attention.init_stacked_xavier()  # type: ignore[operator, union-attr]

    def _init_weights(self, position_std: float | None) -> None:
        init_xavier(self)
        for table in (self.table, self.cls_pos_embed):
            if table is not None:
                init_pos_embed(table, position_std)
        if self.cls is not None:
            nn.init.normal_(self.cls, std=0.02)

    def embed_inputs(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Return the projected tokens and their positional embeddings."""
        # Invalid tokens may hold anything, even NaN, which would spread through the projection's gradient.
        return self.project(tokens.values.masked_fill(~tokens.valid[..., None], 0)), self.pos_embed(tokens)

    def pos_embed(self, tokens: Tokens) -> Tensor:
        """Return rows of the learned table at `grid_index`, or sinusoids at `pos`; zeros for rotary and none."""
        if self.table is not None:
            return F.embedding(tokens.grid_index, self.table)
        if self.sinusoidal:
            return self._compute_sinusoids(tokens.pos + 1 if self.interleaved else tokens.pos).to(tokens.values.dtype)
        return super().pos_embed(tokens)

    def _compute_sinusoids(self, pos: Tensor) -> Tensor:
        return sinusoidal_embedding(pos, self.out.dim or 0, self.theta, self.interleaved)

    def forward(self, tokens: Tokens) -> Tokens:
        """Encode tokens [B, N, spec.dim] to [B, N, dim], zero where invalid; prefix [B, 1, dim] with cls."""
        embeddings, pos_embed = self.embed_inputs(tokens)
        x, valid = embeddings + pos_embed, tokens.valid
        if self.cls is not None:
            cls = self.cls if self.cls_pos_embed is None else self.cls + self.cls_pos_embed
            if self.interleaved:
                cls = cls + self._compute_sinusoids(torch.zeros_like(tokens.pos[:1, :1])).to(cls.dtype)
            x = torch.cat([cls.expand(x.shape[0], -1, -1), x], 1)
            valid = torch.cat([valid.new_ones(x.shape[0], 1), valid], 1)
        x = self.stack(self.dropout(x), mask=make_key_mask(valid), angles=self._rotary_angles(tokens))
        if self.cls is None:
            return self._replace_values(x, tokens)
        return self._replace_values(x[:, 1:], tokens).replace(prefix=x[:, :1])

    def forward_incremental(self, tokens: Tokens, state: Any = None) -> tuple[Tokens, Any]:
        """Encode tokens that follow those in `state`, for causal encoders.

        Args:
            tokens: the new tokens
            state: validity of the earlier tokens, and keys and values per layer, as returned for them; not modified

        Returns:
            the encoded new tokens and the new state
        """
        if not self.causal:
            return super().forward_incremental(tokens, state)
        valid = tokens.valid
        caches: list[list[KVCache]] = [[] for _ in self.stack.blocks]
        if state is not None:
            valid, caches = torch.cat([state[0], valid], 1), [list(cache) for cache in state[1]]
        embeddings, pos_embed = self.embed_inputs(tokens)
        x = self.dropout(embeddings + pos_embed)
        x = self.stack(x, mask=make_key_mask(valid), angles=self._rotary_angles(tokens), caches=caches)
        return self._replace_values(x, tokens), (valid, caches)

    def load_pretrained(self, state: Mapping[str, Tensor], old_spec: Spec) -> None:
        """Load a state dict strictly, after interpolating a learned position table of another grid."""
        state = dict(state)
        if self.table is not None and "table" in state:
            state["table"] = resize_pos_embed(state["table"], old_spec.grid_size, self.spec.grid_size)
        super().load_pretrained(state, old_spec)

    def _replace_values(self, x: Tensor, tokens: Tokens) -> Tokens:
        return tokens.replace(values=x.masked_fill(~tokens.valid[..., None], 0))

    def _rotary_angles(self, tokens: Tokens) -> Angles | None:
        if not self.rotary:
            return None
        pos = tokens.pos if self.rope == "grid" else flatten_positions(tokens.pos, self.spec.grid_size)
        if self.cls is not None:  # the CLS token is at position 0; all others are shifted by 1 on every axis
            pos = torch.cat([torch.zeros_like(pos[:, :1]), pos + 1], 1)
        return rotary_angles(pos, self.head_dim, self.theta, self.rope == "flat-bf16")
