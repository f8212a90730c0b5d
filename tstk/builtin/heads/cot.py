"""Latent reasoning tokens ask the series, confer, and vote."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tstk.core.interfaces import Head
from tstk.core.types import Spec, Tokens
from tstk.errors import OptionError
from tstk.nn.attention import Attention, key_mask
from tstk.nn.blocks import MLP
from tstk.nn.positions import POSITION_STD

if TYPE_CHECKING:
    from tstk.report.context import Known
    from tstk.report.page import Section


class CoT(Head):
    """The latent reasoning head of CWT-MAE ("chain of thought"): a few learned tokens attend to the encoded
    series, then to each other, pass a feed-forward layer, and their mean is classified.

    Post-norm, one pass, every matrix Xavier-uniform. With `--channels independent` each channel has a learned vector
    that is added to its tokens, as positions are in encoders; else no token would say which channel it is of.

    Args:
        tokens: number of reasoning tokens
        heads: attention heads
        dropout: on attention and inside the feed-forward layer
    """

    needs = ("classes",)

    def __init__(self, spec: Spec, *, tokens: int = 8, heads: int = 4, dropout: float = 0.2) -> None:
        super().__init__(spec)
        if tokens < 1:
            raise OptionError(f"head.tokens={tokens}: expected at least 1")
        dim = spec.dim or 0
        self.thoughts = nn.Parameter(torch.randn(tokens, dim) * 0.02)
        self.channels = nn.Parameter(torch.randn(spec.grid[-1], 1, dim) * POSITION_STD) if spec.channel_axis else None
        self.ask = Attention(dim, heads, dropout=dropout)
        self.confer = Attention(dim, heads, dropout=dropout)
        self.think = MLP(dim, 4 * dim, dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.classify = nn.Linear(dim, spec.classes or 0)
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.xavier_uniform_(part.weight)
                nn.init.zeros_(part.bias)

    def looks(self, tokens: Tokens) -> Tensor:
        """What each reasoning token attends to at first, [B, reasoning tokens, N], means over the heads; a row sums to
        1."""
        x = self.thoughts.expand(tokens.values.shape[0], -1, -1)
        return self.ask.shares(x, self._with_channels(tokens), mask=key_mask(tokens.valid)).mean(1)

    def _with_channels(self, tokens: Tokens) -> Tensor:
        """Tokens that say which channel they are of, [B, N, D]."""
        if self.channels is None:
            return tokens.values
        return (tokens.values.unflatten(1, (len(self.channels), -1)) + self.channels).flatten(1, 2)

    def section(self, known: Known) -> Section | None:
        """Some series, and what the reasoning tokens look at in them."""
        from tstk.report.attention import reasoning

        return reasoning(known, self)

    def forward(self, tokens: Tokens) -> Tensor:
        """Logits [B, classes]."""
        x = self.thoughts.expand(tokens.values.shape[0], -1, -1)
        x = self.norms[0](x + self.ask(x, self._with_channels(tokens), mask=key_mask(tokens.valid)))
        x = self.norms[1](x + self.confer(x))
        x = self.norms[2](x + self.think(x))
        return self.classify(x.mean(1))
