"""Forecasting without codes of the future: all tokens of the context to the whole horizon at once, as TOTEM does."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tstk.builtin.heads.linear import laid_out
from tstk.core.interfaces import Head
from tstk.core.types import Spec, Tokens
from tstk.nn.reduce import pool


class CodeForecast(Head):
    """Tokens side by side through one matrix to the future, and a small network for its mean and deviation.

    Talukder et al., "TOTEM" (arXiv:2402.16412). Unlike the paper, the network that forecasts how mean and
    deviation change reads encoded tokens, so that a forecast depends on codes alone, and one loss on the whole forecast
    trains both. It starts from no change.

    Args:
        dropout: on the tokens
        moments: forecast changes of mean and deviation too
        hidden: width of the network that does
        moments_dropout: inside that network
    """

    needs = ("horizon",)
    per_channel = True

    def __init__(
        self,
        spec: Spec,
        *,
        dropout: float = 0.1,
        moments: bool = True,
        hidden: int = 512,
        moments_dropout: float = 0.2,
    ) -> None:
        super().__init__(spec)
        dim, channels = spec.dim or 0, spec.channels
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(dim * spec.tokens, channels * (spec.horizon or 0))
        self.moments: nn.Sequential | None = None
        if moments:
            last = nn.Linear(hidden, 2 * channels)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            inner = [nn.Linear(2 * dim, hidden), nn.ReLU(), nn.Dropout(moments_dropout)]
            inner += [nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(moments_dropout)]
            self.moments = nn.Sequential(*inner, last)

    def forward(self, tokens: Tokens) -> Tensor:
        """[B, C, horizon], in the units the tokenizer saw."""
        flat = laid_out(tokens, self.spec.tokens).flatten(1)
        future = self.project(self.dropout(flat)).unflatten(1, (self.spec.channels, -1))
        if self.moments is None:
            return future
        gist = torch.cat([pool(tokens.values, tokens.valid, "mean"), tokens.values[:, -1]], -1)
        mean, scale = self.moments(gist).unflatten(-1, (2, -1, 1)).unbind(1)
        return future * scale.exp() + mean
