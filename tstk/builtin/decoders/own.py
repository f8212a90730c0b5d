"""The tokenizer's own way back to samples."""

from __future__ import annotations

from torch import Tensor

from tstk.core.interfaces import Decoder, Place, Tokenizer
from tstk.core.types import Spec, Tokens
from tstk.errors import NeedsError


class Own(Decoder):
    """The tokenizer decodes its tokens itself, as a VQ-VAE's convolutional decoder does; the answer is a series."""

    whole = True
    mixes = True

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.out = spec.but(dim=None, target=None)

    def meet(self, tokenizer: Tokenizer) -> None:
        """Keep a reference outside the module tree, so that its weights are stored once."""
        if not tokenizer.synthesises:
            raise NeedsError(
                f"{self.called()} uses the tokenizer's own decoder, but {tokenizer.called()} has none; "
                "use --decoder transformer or linear"
            )
        if tokenizer.out.dim != self.spec.dim:
            raise NeedsError(
                f"{self.called()} decodes tokens of width {tokenizer.out.dim}, but the encoder made them "
                f"{self.spec.dim} wide; use --encoder identity"
            )
        self._tokenizer = [tokenizer]

    def forward(self, encoded: Tokens, asked: Tokens, place: Place) -> Tensor:
        """[B, C, T]."""
        return self._tokenizer[0].decode(encoded.values, self.spec.length)
