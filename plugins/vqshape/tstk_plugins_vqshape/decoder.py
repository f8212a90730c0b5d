"""VQShape's decoder. It has no position embeddings, since tokens contain their start and length."""

from __future__ import annotations

from math import ceil
from typing import Literal

import torch
from torch import Tensor, nn

from tstk.core.interfaces import Decoder, PosEmbedFn, Tokenizer
from tstk.core.types import Spec, Tokens
from tstk.errors import IncompatibleError
from tstk.nn.attention import make_key_mask
from tstk.nn.blocks import Stack
from tstk.nn.linear import Linear
from tstk.plugins.ranges import Depth, Fraction, PositiveInt


class ShapesToSeries(Decoder):
    """Transformer over a CLS token and the tokens, whose outputs are concatenated to a series (VQShape, section 3.2).

    Args:
        dim: width
        depth: number of layers
        heads: attention heads
        dropout: dropout on the output of each sub-layer
        inner_dropout: dropout on attention probabilities and inside MLPs; 0.1 as published, with which attention is
            slower
        init: initial values of attention: those of torch's linear layers; or xavier-stacked, query, key and value as
            one Xavier-uniform map and biases 0, as published
    """

    predicts_series = True
    attends_across = True

    def __init__(
        self,
        spec: Spec,
        *,
        dim: PositiveInt = 256,
        depth: Depth = 2,
        heads: PositiveInt = 8,
        dropout: Fraction = 0.1,
        inner_dropout: Fraction = 0.0,
        init: Literal["torch", "xavier-stacked"] = "torch",
    ) -> None:
        super().__init__(spec)
        self.in_proj = Linear(spec.dim or 0, dim)
        self.cls = nn.Parameter(torch.randn(dim) / dim)
        self.stack = Stack(
            depth,
            dim,
            heads,
            dropout=dropout,
            attention_dropout=inner_dropout,
            hidden_dropout=inner_dropout,
            norm="post",
        )
        for block in self.stack.blocks if init == "xavier-stacked" else ():
            block.attention.init_stacked_xavier()  # type: ignore[operator, union-attr]
        self.out_proj = Linear(dim, spec.channels * ceil(spec.length / max(spec.num_tokens, 1)))
        self.out = spec.replace(dim=None, target_dim=None)

    def bind_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Check that tokens contain their positions, rather than lie on a grid in time.

        Raises:
            IncompatibleError: they lie on a grid in time
        """
        if tokenizer.out.stride is not None:
            raise IncompatibleError(
                f"{self.display_name()} has no position embeddings: it needs tokens that contain their start and "
                f"length, unlike those of {tokenizer.display_name()}; use --decoder linear or transformer"
            )

    def forward(self, encoded: Tokens, queries: Tokens, pos_embed: PosEmbedFn) -> Tensor:
        """Decode the series [B, C, T]; `queries` and `pos_embed` are not used."""
        x = torch.cat([self.cls.expand(encoded.values.shape[0], 1, -1), self.in_proj(encoded.values)], 1)
        valid = torch.cat([encoded.valid.new_ones(x.shape[0], 1), encoded.valid], 1)
        x = self.out_proj(self.stack(x, mask=make_key_mask(valid))[:, 1:])
        return x.unflatten(-1, (self.spec.channels, -1)).transpose(1, 2).flatten(2)[..., : self.spec.length]
