"""Each token answers for itself."""

import torch
from torch import Tensor, nn

from tstk import Decoder, Spec, Tokens
from tstk.core.interfaces import Place


class Sketch(Decoder):
    """A network of one hidden layer per token; a token that was hidden answers from its place alone.

    Args:
        hidden: width of the hidden layer
    """

    mixes = False  # no answer looks at other tokens

    # What is wired comes first: the Spec of what arrives. What a user chooses is keyword-only, with a literal default
    # and a line in the docstring; the command line makes --decoder.hidden of this.
    def __init__(self, spec: Spec, *, hidden: int = 64) -> None:
        super().__init__(spec)
        dim = spec.dim or 0
        width = spec.target or dim  # how wide an answer must be is up to the loss
        self.unseen = nn.Parameter(torch.zeros(dim))
        self.network = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.out = spec.but(dim=width)

    def forward(self, encoded: Tokens, asked: Tokens, place: Place) -> Tensor:
        """Answers [B, M, K] at `asked`. Its places may be read, its contents never."""
        same = (asked.index[:, :, None] == encoded.index[:, None, :]) & encoded.valid[:, None, :]  # [B, M, N]
        found = same.to(encoded.values.dtype) @ encoded.values  # what was seen at the asked places, zeros elsewhere
        x = torch.where(same.any(-1, keepdim=True), found, self.unseen.to(found.dtype))
        return self.network(x + place(asked))
