"""A decoder that predicts each query from its own token."""

import torch
from torch import Tensor, nn

from tstk import Decoder, PositiveInt, Spec, Tokens
from tstk.core.interfaces import PosEmbedFn


class Sketch(Decoder):
    """MLP with one hidden layer per token; masked tokens are predicted from a mask token and their position.

    Args:
        hidden: width of the hidden layer
    """

    attends_across = False  # no prediction depends on other tokens

    # The Spec describes the input. Options are keyword-only, with a literal default and a line in the docstring; they
    # become the flags --decoder.hidden.
    def __init__(self, spec: Spec, *, hidden: PositiveInt = 64) -> None:
        super().__init__(spec)
        dim = spec.dim or 0
        width = spec.target_dim or dim  # width of the targets; None if the loss predicts embeddings
        self.mask_token = nn.Parameter(torch.zeros(dim))
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.out = spec.replace(dim=width)

    def forward(self, encoded: Tokens, queries: Tokens, pos_embed: PosEmbedFn) -> Tensor:
        """Return predictions [B, M, K] at the queries; only their positions may be used, never their contents."""
        is_same = queries.grid_index[:, :, None] == encoded.grid_index[:, None, :]  # [B, M, N]
        is_same = is_same & encoded.valid[:, None, :]
        visible = is_same.to(encoded.values.dtype) @ encoded.values  # zeros at masked tokens
        x = torch.where(is_same.any(-1, keepdim=True), visible, self.mask_token.to(visible.dtype))
        return self.mlp(x + pos_embed(queries))
