"""A residual MLP head on pooled tokens."""

from __future__ import annotations

from torch import Tensor, nn

from tstk.core.interfaces import Head
from tstk.core.types import Spec, Tokens
from tstk.nn.reduce import pool_channels
from tstk.plugins.ranges import Depth, Fraction, PositiveInt


class ResidualMLP(Head):
    """Residual MLP on the mean of the tokens (CWT-MAE's plain head).

    With `--channels independent` the tokens of each channel are averaged separately and the channels concatenated.

    Args:
        hidden: hidden width
        depth: number of residual blocks
        dropout: dropout rate after each activation and at the end of each block
    """

    needs = ("num_outputs",)
    target_types = ("class", "labels", "numbers")

    def __init__(self, spec: Spec, *, hidden: PositiveInt = 512, depth: Depth = 2, dropout: Fraction = 0.1) -> None:
        super().__init__(spec)
        self.channels = spec.grid_size[-1] if spec.channel_axis else 1
        dim = (spec.dim or 0) * self.channels
        self.in_proj = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout))
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(hidden),
                nn.Linear(hidden, hidden),
                nn.GELU(),
                nn.Dropout(dropout),
                nn.Linear(hidden, hidden),
                nn.Dropout(dropout),
            )
            for _ in range(depth)
        )
        self.classify = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, spec.num_outputs or 0))

    def forward(self, tokens: Tokens) -> Tensor:
        """Return logits, or standardized numbers, [B, num_outputs]."""
        x = self.in_proj(pool_channels(tokens.values, tokens.valid, self.channels, "mean"))
        for block in self.blocks:
            x = x + block(x)
        return self.classify(x)
