"""Each token meets the mean of all."""

import torch
from torch import Tensor, nn

from tstk import Encoder, Spec, Tokens


class Sketch(Encoder):
    """Layers in which each token is mixed with the mean of the valid ones; its place enters by a learned map.

    Args:
        dim: width of a token
        depth: number of layers
    """

    # What is wired comes first: the Spec of what arrives. What a user chooses is keyword-only, with a literal default
    # and a line in the docstring; the command line makes --encoder.dim and --encoder.depth of these.
    def __init__(self, spec: Spec, *, dim: int = 64, depth: int = 2) -> None:
        super().__init__(spec)
        self.project = nn.Linear(spec.dim or 0, dim)
        self.where = nn.Linear(spec.axes, dim)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(2 * dim), nn.Linear(2 * dim, dim), nn.GELU(), nn.Linear(dim, dim))
            for _ in range(depth)
        )
        self.out = spec.but(dim=dim)  # as many tokens as came, of this width

    def place(self, tokens: Tokens) -> Tensor:
        """What is added for position, [B, N, dim]; decoders ask for it too."""
        return self.where(tokens.pos)

    def enter(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Contents and positions, whose sum enters the first layer."""
        return self.project(tokens.values.masked_fill(~tokens.valid[..., None], 0)), self.place(tokens)

    def forward(self, tokens: Tokens) -> Tokens:
        """The same tokens, encoded."""
        real = tokens.valid[..., None]  # what is not valid must change nothing
        content, place = self.enter(tokens)
        x = content + place
        for layer in self.layers:
            mean = (x * real).sum(1, keepdim=True) / real.sum(1, keepdim=True).clamp(min=1)
            x = x + layer(torch.cat([x, mean.expand_as(x)], -1))
        return tokens.but(values=x)
