"""Which code comes next?"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tstk.core.interfaces import Decoder, Loss
from tstk.core.rng import Draws
from tstk.core.types import Flow, Spec, Tokens
from tstk.errors import NeedsError
from tstk.nn.reduce import mean


class NextCode(Loss):
    """Next-token prediction over a codebook: cross-entropy of the code that follows, from a causal encoder."""

    needs = ("vocab", "causal", "ordered")

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.out = spec.but(target=spec.vocab, aligned=True)

    def split(self, tokens: Tokens, draws: Draws) -> tuple[Tokens, Tokens]:
        """Seen: all but the last; asked: all but the first, of each series."""
        batch, count = tokens.index.shape
        rows = torch.arange(count - 1, device=tokens.index.device).expand(batch, -1)
        asked = tokens.at(rows + 1)
        return tokens.at(rows, asked.valid), asked

    def attach(self, decoder: Decoder) -> None:
        """Refuse a decoder through which later codes would leak."""
        if decoder.mixes:
            raise NeedsError(
                f"{self.called()} asks for the next token at every place, but {decoder.called()} looks at "
                "later places; use --decoder linear"
            )

    def forward(self, flow: Flow) -> dict[str, Tensor]:
        """Mean over valid next tokens; ln(vocab) for an untrained model."""
        assert flow.decoded is not None
        assert flow.asked.ids is not None
        each = F.cross_entropy(flow.decoded.transpose(1, 2), flow.asked.ids, reduction="none")
        return {"next_code": mean(each, flow.asked.valid)}
