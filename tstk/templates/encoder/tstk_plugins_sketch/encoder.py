"""An encoder that mixes each token with the mean of all tokens."""

import torch
from torch import Tensor, nn

from tstk import Encoder, PositiveInt, Spec, Tokens
from tstk.nn.positions import sinusoidal_embedding


class Sketch(Encoder):
    """MLP layers over each token concatenated with the mean of the valid tokens; sinusoidal position embeddings.

    Args:
        dim: width of a token
        depth: number of layers
    """

    # The Spec describes the input. Options are keyword-only, with a literal default and a line in the docstring; they
    # become the flags --encoder.dim and --encoder.depth.
    def __init__(self, spec: Spec, *, dim: PositiveInt = 64, depth: int = 2) -> None:
        super().__init__(spec)
        self.input_proj = nn.Linear(spec.dim or 0, dim)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(2 * dim), nn.Linear(2 * dim, dim), nn.GELU(), nn.Linear(dim, dim))
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim)
        self.out = spec.replace(dim=dim)  # the same tokens, of this width

    def pos_embed(self, tokens: Tokens) -> Tensor:
        """Return position embeddings [B, N, dim]; decoders use them too."""
        return sinusoidal_embedding(tokens.pos, self.out.dim).to(tokens.values.dtype)

    def embed_inputs(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Return contents and position embeddings, whose sum is the input of the first layer."""
        return self.input_proj(tokens.values.masked_fill(~tokens.valid[..., None], 0)), self.pos_embed(tokens)

    def forward(self, tokens: Tokens) -> Tokens:
        """Return the encoded tokens."""
        valid = tokens.valid[..., None]  # invalid tokens must not influence valid ones
        contents, pos_embed = self.embed_inputs(tokens)
        x = contents + pos_embed
        for layer in self.layers:
            mean = (x * valid).sum(1, keepdim=True) / valid.sum(1, keepdim=True).clamp(min=1)
            x = x + layer(torch.cat([x, mean.expand_as(x)], -1))
        return tokens.replace(values=self.norm(x))
