"""A head that pools tokens and classifies the series."""

import torch
from torch import Tensor, nn

from tstk import Fraction, Head, Spec, Tokens
from tstk.nn.reduce import masked_pool


class Sketch(Head):
    """Linear layer over the concatenated mean and maximum of the valid tokens.

    Args:
        dropout: dropout rate of the pooled vector
    """

    needs = ("num_outputs",)  # Spec fields that must be set; otherwise building fails with a message

    # The Spec describes the input. Options are keyword-only, with a literal default and a line in the docstring; they
    # become the flags --head.dropout.
    def __init__(self, spec: Spec, *, dropout: Fraction = 0.1) -> None:
        super().__init__(spec)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(2 * (spec.dim or 0), spec.num_outputs or 0)

    def forward(self, tokens: Tokens) -> Tensor:
        """Return logits, or standardized numbers, [B, num_outputs]."""
        pooled = [masked_pool(tokens.values, tokens.valid, how) for how in ("mean", "max")]
        return self.classifier(self.dropout(torch.cat(pooled, -1)))
