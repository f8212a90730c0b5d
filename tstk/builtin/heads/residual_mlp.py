"""Pool, then a few residual layers."""

from __future__ import annotations

from torch import Tensor, nn

from tstk.core.interfaces import Head
from tstk.core.types import Spec, Tokens
from tstk.nn.reduce import pool_channels


class ResidualMLP(Head):
    """Mean of the tokens through a residual MLP (CWT-MAE's plain head).

    With `--channels independent` each channel has a mean of its own, and they stand side by side.

    Args:
        hidden: width inside
        depth: number of residual blocks
        dropout: after each activation and at the end of each block
    """

    needs = ("classes",)

    def __init__(self, spec: Spec, *, hidden: int = 512, depth: int = 2, dropout: float = 0.1) -> None:
        super().__init__(spec)
        self.channels = spec.grid[-1] if spec.channel_axis else 1
        dim = (spec.dim or 0) * self.channels
        self.enter = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout))
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
        self.classify = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, spec.classes or 0))

    def forward(self, tokens: Tokens) -> Tensor:
        """Logits [B, classes]."""
        x = self.enter(pool_channels(tokens.values, tokens.valid, self.channels, "mean"))
        for block in self.blocks:
            x = x + block(x)
        return self.classify(x)
