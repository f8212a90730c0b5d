"""All tokens, one matrix, the whole horizon at once."""

from __future__ import annotations

from torch import Tensor, nn

from tstk.builtin.heads.linear import laid_out
from tstk.core.interfaces import Head
from tstk.core.types import Spec, Tokens


class Forecast(Head):
    """Tokens side by side through one linear layer to the future (PatchTST's head, Nie et al. 2023, section 3.1).

    Args:
        dropout: on the tokens
    """

    needs = ("horizon",)
    per_channel = True

    def __init__(self, spec: Spec, *, dropout: float = 0.1) -> None:
        super().__init__(spec)
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear((spec.dim or 0) * spec.tokens, spec.channels * (spec.horizon or 0))

    def forward(self, tokens: Tokens) -> Tensor:
        """[B, C, horizon], in the units the tokenizer saw."""
        flat = laid_out(tokens, self.spec.tokens).flatten(1)
        return self.project(self.dropout(flat)).unflatten(1, (self.spec.channels, -1))

    def start_at_zero(self) -> None:
        """Set the matrix and its bias to zero."""
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)
