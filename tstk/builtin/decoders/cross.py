"""Questions attend to what was seen, and to nothing else."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tstk.core.interfaces import Decoder, Place
from tstk.core.types import Spec, Tokens
from tstk.nn.attention import key_mask
from tstk.nn.blocks import CrossBlock


class Cross(Decoder):
    """Mask tokens at the asked places attend to the seen tokens only (TimeMAE section 3.3, CrossMAE).

    Questions do not see each other, so an answer does not depend on what else is asked. The places are the
    encoder's own (`encoder.place`), and the width is the encoder's.

    Args:
        depth: number of cross-attention blocks
        heads: attention heads
        dropout: on attention and on both sub-layers
        residual_scale: initial value of a learned factor on each sub-layer, as in TimeMAE; none for no factor
    """

    mixes = True

    def __init__(
        self, spec: Spec, *, depth: int = 2, heads: int = 4, dropout: float = 0.1, residual_scale: float | None = None
    ) -> None:
        super().__init__(spec)
        dim = spec.dim or 0
        self.question = nn.Parameter(torch.randn(dim) * 0.02)
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
        self.out = spec.but(dim=spec.target or dim)
        self.project = nn.Linear(dim, spec.target) if spec.target else nn.Identity()

    def forward(self, encoded: Tokens, asked: Tokens, place: Place) -> Tensor:
        """[B, M, K]."""
        x = self.question + place(asked)
        context, valid = encoded.values, encoded.valid
        if encoded.prefix is not None:
            context = torch.cat([encoded.prefix, context], 1)
            valid = torch.cat([valid.new_ones(encoded.prefix.shape[:2]), valid], 1)
        mask = key_mask(valid)
        for block in self.blocks:
            x = block(x, context, mask=mask)
        return self.project(x)
