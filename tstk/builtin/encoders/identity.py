"""The identity encoder, for tokenizers that already encode."""

from __future__ import annotations

from tstk.core.interfaces import Encoder
from tstk.core.types import Tokens


class Identity(Encoder):
    """Tokens unchanged, for tokenizers that already encode.

    It adds no positions: a head that pools the tokens cannot see their order.
    """

    def forward(self, tokens: Tokens) -> Tokens:
        """Return `tokens` unchanged."""
        return tokens
