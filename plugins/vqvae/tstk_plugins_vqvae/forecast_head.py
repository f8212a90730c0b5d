"""A head that maps all tokens of the context to the whole horizon at once, as TOTEM does."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tstk.core.interfaces import Head
from tstk.core.types import Spec, Tokens
from tstk.nn.reduce import masked_pool
from tstk.plugins.ranges import Fraction, PositiveInt


class CodeForecast(Head):
    """One linear layer from all tokens, concatenated, to the future, and a small MLP for its mean and scale.

    Talukder et al., "TOTEM" (arXiv:2402.16412). Unlike the paper, the MLP that forecasts the change of mean and
    standard deviation takes encoded tokens, so that a forecast depends on codes only, and one loss on the whole
    forecast trains both. Its output is initially no change.

    Args:
        dropout: dropout on the tokens
        moments: forecast the change of mean and standard deviation too
        hidden: width of the MLP that forecasts them
        moments_dropout: dropout in that MLP
    """

    needs = ("horizon",)
    target_types = ("future",)
    default_loss = "forecast"
    per_channel = True

    def __init__(
        self,
        spec: Spec,
        *,
        dropout: Fraction = 0.1,
        moments: bool = True,
        hidden: PositiveInt = 512,
        moments_dropout: Fraction = 0.2,
    ) -> None:
        super().__init__(spec)
        dim, channels = spec.dim or 0, spec.channels
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(dim * spec.num_tokens, channels * (spec.horizon or 0))
        self.moments: nn.Sequential | None = None
        if moments:
            last = nn.Linear(hidden, 2 * channels)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            inner = [nn.Linear(2 * dim, hidden), nn.ReLU(), nn.Dropout(moments_dropout)]
            inner += [nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(moments_dropout)]
            self.moments = nn.Sequential(*inner, last)

    def forward(self, tokens: Tokens) -> Tensor:
        """Forecast [B, C, horizon], in the units of the tokenizer's input."""
        flat = tokens.to_grid((self.spec.num_tokens,)).mT.flatten(1)
        future = self.project(self.dropout(flat)).unflatten(1, (self.spec.channels, -1))
        if self.moments is None:
            return future
        features = torch.cat([masked_pool(tokens.values, tokens.valid, "mean"), tokens.values[:, -1]], -1)
        loc, log_scale = self.moments(features).unflatten(-1, (2, -1, 1)).unbind(1)
        return future * log_scale.exp() + loc
