"""The small decoder of VQShape: it has no positions, since a token says itself where it is."""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor, nn

from tstk.core.interfaces import Decoder, Place, Tokenizer
from tstk.core.types import Spec, Tokens
from tstk.errors import NeedsError
from tstk.nn.attention import key_mask
from tstk.nn.blocks import Stack


class ShapesToSeries(Decoder):
    """A summary token and the tokens attend to each other, without positions; the answers of the latter, side by side,
    are the series (VQShape, section 3.2).

    Args:
        dim: width
        depth: number of layers
        heads: attention heads
        dropout: of what each sub-layer adds
    """

    whole = True
    mixes = True

    def __init__(self, spec: Spec, *, dim: int = 256, depth: int = 2, heads: int = 8, dropout: float = 0.1) -> None:
        super().__init__(spec)
        self.read = nn.Linear(spec.dim or 0, dim)
        self.cls = nn.Parameter(torch.randn(dim) / dim)
        self.stack = Stack(depth, dim, heads, dropout=dropout, norm="post")
        self.answer = nn.Linear(dim, spec.channels * ceil(spec.length / max(spec.tokens, 1)))
        self.out = spec.but(dim=None, target=None)

    def meet(self, tokenizer: Tokenizer) -> None:
        """Refuse tokens that lie on a grid in time: fewer of them would be a shorter series."""
        if tokenizer.out.step is not None:
            raise NeedsError(
                f"{self.called()} has no positions: it is for tokens that say themselves where they are, "
                f"and those of {tokenizer.called()} do not; use --decoder linear or transformer"
            )

    def forward(self, encoded: Tokens, asked: Tokens, place: Place) -> Tensor:
        """[B, C, T]."""
        x = torch.cat([self.cls.expand(encoded.values.shape[0], 1, -1), self.read(encoded.values)], 1)
        valid = torch.cat([encoded.valid.new_ones(x.shape[0], 1), encoded.valid], 1)
        x = self.answer(self.stack(x, mask=key_mask(valid))[:, 1:])
        return x.unflatten(-1, (self.spec.channels, -1)).transpose(1, 2).flatten(2)[..., : self.spec.length]
