"""A light transformer decoder over the whole grid, with mask tokens at the queries."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tstk.core.interfaces import Decoder, PosEmbedFn
from tstk.core.types import Spec, Tokens
from tstk.nn.attention import make_key_mask
from tstk.nn.blocks import Stack, init_xavier
from tstk.nn.linear import Linear
from tstk.nn.positions import (
    check_position_std,
    check_rotary,
    flatten_positions,
    init_pos_embed,
    rotary_angles,
    sinusoidal_embedding,
)
from tstk.plugins.ranges import Depth, Fraction, PositiveInt


class TransformerDecoder(Decoder):
    """The light decoder of a masked autoencoder (He et al. 2022, section 3; Ti-MAE, CWT-MAE).

    Visible tokens are scattered to their grid positions, with a learned mask token at each query. For losses that
    predict at the visible tokens, it runs over those tokens only.

    Args:
        dim: width
        depth: number of blocks
        heads: attention heads
        positions: positional embedding: learned table; fixed sinusoids; interleaved, sinusoids whose sines and cosines
            alternate, counted from 1, after the CLS token at 0 (Ti-MAE); rotary; or a table and rotary
        position_std: initial standard deviation of the learned table; 1 if none, as large as the tokens (0.02 in
            CWT-MAE)
        rope: rotary positions over every axis of the grid; flat, over the flattened grid; or flat-bf16, with cosines
            and sines rounded to bfloat16 too, as CWT-MAE does
        cls_pos_embed: learn a position of its own for the encoder's CLS token (CWT-MAE)
        dropout: dropout rate of the output of each sub-layer; attention has none, so that it can be fused
        mask_std: initial standard deviation of the mask token; 0 as in Ti-MAE
        bias: add a bias to the query, key and value projections
        init: initialise linear layers as torch does; xavier, Xavier-uniform with zero bias as in the encoder; or
            xavier-stacked, query, key and value of a layer as one map (CWT-MAE)
    """

    attends_across = True

    def __init__(
        self,
        spec: Spec,
        *,
        dim: PositiveInt = 64,
        depth: Depth = 2,
        heads: PositiveInt = 4,
        positions: Literal["learned", "sinusoidal", "interleaved", "rotary", "learned+rotary"] = "sinusoidal",
        position_std: float | None = None,
        rope: Literal["grid", "flat", "flat-bf16"] = "grid",
        cls_pos_embed: bool = False,
        dropout: Fraction = 0.1,
        mask_std: float = 0.02,
        bias: bool = True,
        init: Literal["torch", "xavier", "xavier-stacked"] = "torch",
    ) -> None:
        super().__init__(spec)
        self.embed = Linear(spec.dim or 0, dim)
        self.mask_token = nn.Parameter(torch.randn(dim) * mask_std)
        self.positions, self.rope, self.head_dim = positions, rope, dim // heads
        if "rotary" in positions:
            check_rotary(dim // heads, spec.num_axes if rope == "grid" else 1)
        missing_reason = None if "learned" in positions else f"positions={positions} has no learned table"
        check_position_std(position_std, "decoder", missing_reason)
        self.table = nn.Parameter(torch.empty(spec.num_tokens, dim)) if "learned" in positions else None
        self.cls_pos_embed = (
            nn.Parameter(torch.empty(spec.num_prefix_tokens, dim)) if cls_pos_embed and spec.num_prefix_tokens else None
        )
        for table in (self.table, self.cls_pos_embed):
            if table is not None:
                init_pos_embed(table, position_std)
        self.stack = Stack(depth, dim, heads, hidden=4 * dim, dropout=dropout, norm="pre", bias=bias)
        self.out = spec.replace(dim=spec.target_dim or dim)
        self.project = Linear(dim, spec.target_dim) if spec.target_dim else nn.Identity()
        if init != "torch":
            init_xavier(self)
        for block in self.stack.blocks if init == "xavier-stacked" else ():
            block.attention.init_stacked_xavier()  # type: ignore[operator, union-attr]

    def forward(self, encoded: Tokens, queries: Tokens, pos_embed: PosEmbedFn) -> Tensor:
        """Return a prediction for each query, [B, M, K]."""
        x = self.embed(encoded.values)
        pos, valid = encoded.pos, encoded.valid
        if not self.spec.predicts_in_place:
            x, pos, valid = self._scatter_to_grid(x, encoded, queries)
        if self.table is not None:  # which has a row for each cell of the grid
            x = x + (F.embedding(encoded.grid_index, self.table) if self.spec.predicts_in_place else self.table)
        interleaved = self.positions == "interleaved"
        if interleaved or self.positions == "sinusoidal":
            first = 1 if interleaved else 0
            x = x + sinusoidal_embedding(pos + first, x.shape[-1], interleaved=interleaved).to(x.dtype)
        num_prefix = 0
        if self.rope != "grid":
            pos = flatten_positions(pos, self.spec.grid_size)
        if encoded.prefix is not None:
            num_prefix = encoded.prefix.shape[1]
            prefix = self.embed(encoded.prefix)
            if interleaved:
                zero = torch.zeros_like(pos[:1, :1])
                prefix = prefix + sinusoidal_embedding(zero, x.shape[-1], interleaved=True).to(x.dtype)
            x = torch.cat([prefix if self.cls_pos_embed is None else prefix + self.cls_pos_embed, x], 1)
            valid = torch.cat([valid.new_ones(valid.shape[0], num_prefix), valid], 1)
            pos = torch.cat([pos.new_zeros(pos.shape[0], num_prefix, pos.shape[-1]), pos + 1], 1)
        angles = None
        if "rotary" in self.positions:
            angles = rotary_angles(pos, self.head_dim, round_to_bf16=self.rope == "flat-bf16")
        x = self.stack(x, mask=make_key_mask(valid), angles=angles)[:, num_prefix:]
        if not self.spec.predicts_in_place and not _is_whole_grid(queries, x.shape[1]):
            x = queries.from_grid(x.mT).values
        return self.project(x)

    def _scatter_to_grid(self, x: Tensor, encoded: Tokens, queries: Tokens) -> tuple[Tensor, Tensor, Tensor]:
        """Scatter visible tokens to the grid and fill it with mask tokens.

        Returns:
            values, pos and valid of the N tokens of the grid; valid at visible tokens and queries
        """
        grid_size = (self.spec.num_tokens,)

        def to_grid(tokens: Tokens, values: Tensor) -> Tensor:
            return tokens.replace(values=values).to_grid(grid_size).mT

        is_visible = encoded.grid_mask(grid_size)
        values = torch.where(is_visible[..., None], to_grid(encoded, x), self.mask_token)
        pos = torch.where(is_visible[..., None], to_grid(encoded, encoded.pos), to_grid(queries, queries.pos))
        return values, pos, is_visible | queries.grid_mask(grid_size)


def _is_whole_grid(tokens: Tokens, num_cells: int) -> bool:
    """Whether the tokens are all cells of the grid in order; unknown, hence False, under torch.compile."""
    index = tokens.grid_index
    if torch.compiler.is_compiling() or index.shape[1] != num_cells:
        return False
    return bool((index == torch.arange(num_cells, device=index.device)).all())
