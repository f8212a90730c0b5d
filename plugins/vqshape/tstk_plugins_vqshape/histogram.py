"""Which shapes occur, and how often: a classifier that a person can follow."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from tstk.core.interfaces import Head
from tstk.core.types import Spec, Tokens


class Histogram(Head):
    """One linear layer over how often each code occurs, channel by channel (VQShape, section 4.2).

    Counts pass no gradient, so it leaves the tokenizer alone, and do not tell the order of tokens.

    Args:
        shares: divide by the number of valid tokens and multiply by that of all, for series of unequal lengths
        dropout: on the counts
    """

    needs = ("classes", "vocab")

    def __init__(self, spec: Spec, *, shares: bool = False, dropout: float = 0.0) -> None:
        super().__init__(spec)
        self.shares, self.vocab = shares, spec.vocab or 0
        self.lanes = spec.grid[-1] if spec.channel_axis else 1
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Linear(self.lanes * self.vocab, spec.classes or 0)

    def forward(self, tokens: Tokens) -> Tensor:
        """Logits [B, classes]."""
        return self.classify(self.dropout(self.counted(tokens)))

    def counted(self, tokens: Tokens) -> Tensor:
        """[B, lanes * vocab] in the type of the tokens: how often each code occurs in each lane (channel)."""
        assert tokens.ids is not None
        kinds = tokens.ids + tokens.index % self.lanes * self.vocab
        found = (F.one_hot(kinds, self.lanes * self.vocab) * tokens.valid[..., None]).sum(1).to(tokens.values.dtype)
        if self.shares:
            found = found * (self.spec.tokens / tokens.valid.sum(1, keepdim=True).clamp(min=1))
        return found
