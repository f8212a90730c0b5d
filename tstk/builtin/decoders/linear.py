"""One matrix per token."""

from __future__ import annotations

from torch import Tensor, nn

from tstk.core.interfaces import Decoder, Place
from tstk.core.types import Spec, Tokens
from tstk.errors import NeedsError


class Linear(Decoder):
    """A linear map of each encoded token to its own answer (SimMIM's head; the output layer of a language model).

    Only for questions that are asked where the encoder saw: reconstruction, the next code.
    """

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        if not spec.aligned:
            raise NeedsError(
                f"{self.called()} answers only where a token was seen, but this loss hides tokens and asks "
                "about them; use --decoder transformer or cross"
            )
        self.out = spec.but(dim=spec.target or spec.dim)
        self.project = nn.Linear(spec.dim or 0, spec.target) if spec.target else nn.Identity()

    def forward(self, encoded: Tokens, asked: Tokens, place: Place) -> Tensor:
        """[B, M, K]; token i of `encoded` answers question i."""
        return self.project(encoded.values)
