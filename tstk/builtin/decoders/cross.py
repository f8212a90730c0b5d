"""A decoder of cross-attention from mask tokens to visible tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tstk.core.interfaces import Decoder, PosEmbedFn
from tstk.core.types import Spec, Tokens
from tstk.nn.attention import make_key_mask
from tstk.nn.blocks import CrossBlock
from tstk.nn.linear import Linear
from tstk.plugins.ranges import Depth, Fraction, PositiveInt


class Cross(Decoder):
    """Mask tokens at the queries cross-attend to the visible tokens only (TimeMAE section 3.3, CrossMAE).

    Queries do not attend to each other, so a prediction does not depend on the other queries. Positional embeddings
    are those of the encoder (`encoder.pos_embed`), and so is the width.

    Args:
        depth: number of cross-attention blocks
        heads: attention heads
        dropout: dropout rate of the attention probabilities and of the output of each sub-layer
        residual_scale: initial value of a learned scalar that multiplies the output of each sub-layer (TimeMAE); no
            scalar if none
    """

    attends_across = True

    def __init__(
        self,
        spec: Spec,
        *,
        depth: Depth = 2,
        heads: PositiveInt = 4,
        dropout: Fraction = 0.1,
        residual_scale: float | None = None,
    ) -> None:
        super().__init__(spec)
        dim = spec.dim or 0
        self.mask_token = nn.Parameter(torch.randn(dim) * 0.02)
        self.blocks = nn.ModuleList(
            CrossBlock(
                dim,
                heads,
                hidden=4 * dim,
                dropout=dropout,
                attention_dropout=dropout,
                norm="post",
                residual_scale=residual_scale,
            )
            for _ in range(depth)
        )
        self.out = spec.replace(dim=spec.target_dim or dim)
        self.project = Linear(dim, spec.target_dim) if spec.target_dim else nn.Identity()

    def forward(self, encoded: Tokens, queries: Tokens, pos_embed: PosEmbedFn) -> Tensor:
        """Return a prediction for each query, [B, M, K]."""
        x = self.mask_token + pos_embed(queries)
        context, valid = encoded.values, encoded.valid
        if encoded.prefix is not None:
            context = torch.cat([encoded.prefix, context], 1)
            valid = torch.cat([valid.new_ones(encoded.prefix.shape[:2]), valid], 1)
        mask = make_key_mask(valid)
        for block in self.blocks:
            x = block(x, context, mask=mask)
        return self.project(x)
