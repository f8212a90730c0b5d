"""A linear decoder that predicts at the visible tokens."""

from __future__ import annotations

from torch import Tensor, nn

from tstk.core.interfaces import Decoder, PosEmbedFn
from tstk.core.types import Spec, Tokens
from tstk.errors import IncompatibleError


class Linear(Decoder):
    """Linear layer on each encoded token (SimMIM's head; the output layer of a language model).

    Only for losses that predict at the visible tokens, without mask tokens: reconstruction, next-token prediction.
    """

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        if not spec.predicts_in_place:
            raise IncompatibleError(
                f"{self.display_name()} predicts only at visible tokens, but this loss needs predictions at masked "
                "ones; use --decoder transformer or cross"
            )
        self.out = spec.replace(dim=spec.target_dim or spec.dim)
        self.project = nn.Linear(spec.dim or 0, spec.target_dim) if spec.target_dim else nn.Identity()

    def forward(self, encoded: Tokens, queries: Tokens, pos_embed: PosEmbedFn) -> Tensor:
        """Return a prediction for each query, [B, M, K], from the encoded token of the same index."""
        return self.project(encoded.values)
