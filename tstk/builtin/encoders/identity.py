"""The encoder that does nothing, for tokenizers that already encode."""

from __future__ import annotations

from tstk.core.interfaces import Encoder
from tstk.core.types import Tokens


class Identity(Encoder):
    """Tokens as they come, for tokenizers that already encode.

    It adds no positions: a head that pools its tokens does not see their order.
    """

    def forward(self, tokens: Tokens) -> Tokens:
        """The very same tokens."""
        return tokens
