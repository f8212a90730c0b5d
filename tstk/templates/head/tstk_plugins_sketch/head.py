"""One answer per series."""

import torch
from torch import Tensor, nn

from tstk import Head, Spec, Tokens
from tstk.nn.reduce import pool


class Sketch(Head):
    """Mean and maximum of the valid tokens, side by side, through one matrix.

    Args:
        dropout: on the pooled vector
    """

    needs = ("classes",)  # fields of the Spec that must be set; refused with a reason where they are not

    # What is wired comes first: the Spec of what arrives. What a user chooses is keyword-only, with a literal default
    # and a line in the docstring; the command line makes --head.dropout of this.
    def __init__(self, spec: Spec, *, dropout: float = 0.1) -> None:
        super().__init__(spec)
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Linear(2 * (spec.dim or 0), spec.classes or 0)

    def forward(self, tokens: Tokens) -> Tensor:
        """Logits [B, classes]."""
        both = [pool(tokens.values, tokens.valid, how) for how in ("mean", "max")]
        return self.classify(self.dropout(torch.cat(both, -1)))
