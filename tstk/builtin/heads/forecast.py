"""A linear forecasting head on the concatenated tokens."""

from __future__ import annotations

from torch import Tensor, nn

from tstk.core.interfaces import Head
from tstk.core.types import Spec, Tokens
from tstk.plugins.ranges import Fraction


class Forecast(Head):
    """Linear layer from the concatenated tokens to the whole horizon (PatchTST's head, Nie et al. 2023, section 3.1).

    Args:
        dropout: dropout rate of the tokens
    """

    needs = ("horizon",)
    target_types = ("future",)
    default_loss = "forecast"
    per_channel = True

    def __init__(self, spec: Spec, *, dropout: Fraction = 0.1) -> None:
        super().__init__(spec)
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear((spec.dim or 0) * spec.num_tokens, spec.channels * (spec.horizon or 0))

    def forward(self, tokens: Tokens) -> Tensor:
        """Return the forecast, [B, C, horizon], in the units of the tokenizer's input."""
        flat = tokens.to_grid((self.spec.num_tokens,)).mT.flatten(1)
        return self.project(self.dropout(flat)).unflatten(1, (self.spec.channels, -1))

    def zero_init_last_layer(self) -> None:
        """Set weight and bias to zero, so that the forecast is zero at first."""
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)
