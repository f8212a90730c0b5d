"""A light transformer over the whole grid, with mask tokens where nothing was seen."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tstk.core.interfaces import Decoder, Place
from tstk.core.types import Spec, Tokens
from tstk.nn.attention import key_mask
from tstk.nn.blocks import Stack
from tstk.nn.positions import angles, check_position_std, check_rotary, line, sinusoid, start_positions


class TransformerDecoder(Decoder):
    """The light decoder of a masked autoencoder (He et al. 2022, section 3; Ti-MAE, CWT-MAE).

    Seen tokens lie on the grid at their slots, a learned mask token everywhere else that is asked about. Where
    the question is about seen tokens only, it runs over those.

    Args:
        dim: width
        depth: number of blocks
        heads: attention heads
        positions: how places are told: learned table, fixed sinusoids, rotary, or a table and rotary
        position_std: deviation of the initial values of the learned table; 1 if none, as large as the tokens (0.02 in
            CWT-MAE)
        rope: rotary positions over every axis of the grid; or flat, over its rows of time laid end to end (CWT-MAE)
        cls_place: a CLS token of the encoder has a place of its own to be added, beside the table (CWT-MAE)
        dropout: of what each sub-layer adds; attention is spared, so that it can be fused
        mask_std: deviation of the mask token's initial values; 0 as in Ti-MAE
        bias: query, key and value maps have a bias
        init: linear maps start as torch starts them, or Xavier-uniform with zero bias, as the encoder's do
    """

    mixes = True

    def __init__(
        self,
        spec: Spec,
        *,
        dim: int = 64,
        depth: int = 2,
        heads: int = 4,
        positions: Literal["learned", "sinusoidal", "rotary", "learned+rotary"] = "sinusoidal",
        position_std: float | None = None,
        rope: Literal["grid", "flat"] = "grid",
        cls_place: bool = False,
        dropout: float = 0.1,
        mask_std: float = 0.02,
        bias: bool = True,
        init: Literal["torch", "xavier"] = "torch",
    ) -> None:
        super().__init__(spec)
        self.embed = nn.Linear(spec.dim or 0, dim)
        self.mask_token = nn.Parameter(torch.randn(dim) * mask_std)
        self.positions, self.rope, self.head_dim = positions, rope, dim // heads
        if "rotary" in positions:
            check_rotary(dim // heads, 1 if rope == "flat" else spec.axes)
        none = None if "learned" in positions else f"positions={positions} has no learned table"
        check_position_std(position_std, "decoder", none)
        self.table = nn.Parameter(torch.empty(spec.tokens, dim)) if "learned" in positions else None
        self.cls_place = nn.Parameter(torch.empty(spec.prefix, dim)) if cls_place and spec.prefix else None
        for places in (self.table, self.cls_place):
            if places is not None:
                start_positions(places, position_std)
        self.stack = Stack(depth, dim, heads, hidden=4 * dim, dropout=dropout, norm="pre", bias=bias)
        self.out = spec.but(dim=spec.target or dim)
        self.project = nn.Linear(dim, spec.target) if spec.target else nn.Identity()
        for part in self.modules() if init == "xavier" else ():
            if isinstance(part, nn.Linear):
                nn.init.xavier_uniform_(part.weight)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)

    def forward(self, encoded: Tokens, asked: Tokens, place: Place) -> Tensor:
        """[B, M, K]."""
        x = self.embed(encoded.values)
        pos, index, valid = encoded.pos, encoded.index, encoded.valid
        if not self.spec.aligned:
            x, pos, index, valid = self._canvas(x, encoded, asked)
        if self.table is not None:
            x = x + F.embedding(index, self.table)
        if self.positions == "sinusoidal":
            x = x + sinusoid(pos, x.shape[-1]).to(x.dtype)
        skip = 0
        if self.rope == "flat":
            pos = line(pos, self.spec.grid)
        if encoded.prefix is not None:
            skip = encoded.prefix.shape[1]
            front = self.embed(encoded.prefix)
            x = torch.cat([front if self.cls_place is None else front + self.cls_place, x], 1)
            valid = torch.cat([valid.new_ones(valid.shape[0], skip), valid], 1)
            pos = torch.cat([pos.new_zeros(pos.shape[0], skip, pos.shape[-1]), pos + 1], 1)
        turn = angles(pos, self.head_dim) if "rotary" in self.positions else None
        x = self.stack(x, mask=key_mask(valid), angles=turn)[:, skip:]
        if not self.spec.aligned:
            x = x.gather(1, asked.index[..., None].expand(-1, -1, x.shape[-1]))
        return self.project(x)

    def _canvas(self, x: Tensor, encoded: Tokens, asked: Tokens) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The grid with seen tokens at their slots; valid where something was seen or is asked."""
        b, slots = x.shape[0], self.spec.tokens

        def lay(values: Tensor, at: Tokens) -> Tensor:
            width = values.shape[-1]
            spare = values.new_zeros(b, slots + 1, width)  # invalid tokens go to a slot that is cut off
            index = at.index.masked_fill(~at.valid, slots)[..., None].expand(-1, -1, width)
            return spare.scatter(1, index, values)[:, :-1]

        seen = lay(encoded.valid[..., None].to(x.dtype), encoded)
        canvas = lay(x, encoded) + (1 - seen) * self.mask_token
        asked_at = lay(asked.valid[..., None].to(x.dtype), asked)
        pos = torch.where(seen.bool(), lay(encoded.pos, encoded), lay(asked.pos, asked))
        index = torch.arange(slots, device=x.device).expand(b, -1)
        return canvas, pos, index, (seen + asked_at)[..., 0] > 0
