"""An interpretable classifier: a linear layer over the counts of codes."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from tstk.core.interfaces import Head
from tstk.core.types import Spec, Tokens
from tstk.plugins.ranges import Fraction


class Histogram(Head):
    """One linear layer over the counts of codes, per channel (VQShape, section 4.2).

    Counts are not differentiable, so the tokenizer is not trained, and they do not depend on the order of tokens.

    Args:
        normalize: scale counts by the number of all tokens over that of valid ones, for series of unequal lengths
        dropout: dropout on the counts
    """

    needs = ("num_outputs", "vocab_size")
    target_types = ("class", "labels", "numbers")

    def __init__(self, spec: Spec, *, normalize: bool = False, dropout: Fraction = 0.0) -> None:
        super().__init__(spec)
        self.normalize, self.vocab_size = normalize, spec.vocab_size or 0
        self.num_channels = spec.grid_size[-1] if spec.channel_axis else 1
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Linear(self.num_channels * self.vocab_size, spec.num_outputs or 0)

    def forward(self, tokens: Tokens) -> Tensor:
        """Return logits, or standardized numbers, [B, num_outputs]."""
        return self.classify(self.dropout(self.count_codes(tokens)))

    def count_codes(self, tokens: Tokens) -> Tensor:
        """Count the codes in each channel, [B, num_channels * vocab_size] in the dtype of the tokens."""
        assert tokens.ids is not None
        bins = tokens.ids + tokens.grid_index % self.num_channels * self.vocab_size
        one_hot = F.one_hot(bins, self.num_channels * self.vocab_size) * tokens.valid[..., None]
        counts = one_hot.sum(1).to(tokens.values.dtype)
        if self.normalize:
            counts = counts * (self.spec.num_tokens / tokens.valid.sum(1, keepdim=True).clamp(min=1))
        return counts
