"""A decoder that delegates to the tokenizer's decoder."""

from __future__ import annotations

from torch import Tensor

from tstk.core.interfaces import Decoder, PosEmbedFn, Tokenizer
from tstk.core.types import Spec, Tokens
from tstk.errors import IncompatibleError


class Own(Decoder):
    """The tokenizer's own decoder, such as a VQ-VAE's convolutional decoder; predicts the whole series."""

    predicts_series = True
    attends_across = True

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.out = spec.replace(dim=None, target_dim=None)

    def bind_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Keep a reference to the tokenizer, outside the module tree so that its weights are saved once.

        Raises:
            IncompatibleError: the tokenizer has no decoder, or its tokens have another width than the encoder's
        """
        if not tokenizer.has_decoder:
            raise IncompatibleError(
                f"{self.display_name()} uses the tokenizer's own decoder, but {tokenizer.display_name()} has none; "
                "use --decoder transformer or linear"
            )
        if tokenizer.out.dim != self.spec.dim:
            raise IncompatibleError(
                f"{self.display_name()} decodes tokens of width {tokenizer.out.dim}, but the encoder returns width "
                f"{self.spec.dim}; use --encoder identity"
            )
        self._tokenizer = [tokenizer]

    def forward(self, encoded: Tokens, queries: Tokens, pos_embed: PosEmbedFn) -> Tensor:
        """Return the reconstructed series, [B, C, T]."""
        return self._tokenizer[0].decode(encoded.values, self.spec.length)
