"""Components of a user who has written no plugin."""

from __future__ import annotations

import typing
from typing import Annotated

from annotated_types import Gt, Le
from torch import nn

import tstk
from tstk.builtin.heads.linear import Linear
from tstk.builtin.losses.cross_entropy import CrossEntropy


class Layer(tstk.Encoder):
    """One layer per token.

    Args:
        width: of the layer, in
            numbers
        activation: what follows
        ratio: of something
        sizes: some numbers
        inner: a tokenizer
    """

    provides = ("causal",)

    def __init__(
        self,
        spec: tstk.Spec,
        *,
        width: int = 16,
        activation: typing.Literal["relu", "none"] | None = "relu",
        ratio: Annotated[float, Gt(0), Le(1)] = 0.5,
        sizes: tuple[int, ...] = (1, 2),
        inner: tstk.Tokenizer | None = None,
    ) -> None:
        super().__init__(spec)
        self.layer = nn.Linear(spec.dim or 0, width)
        self.activation = activation
        self.out = spec.replace(dim=width, causal=True)

    def forward(self, tokens):
        """[B, N, dim] -> [B, N, width]."""
        values = self.layer(tokens.values)
        return tokens.replace(values=values.relu() if self.activation == "relu" else values)


@tstk.register("head", "wide-head")
class Wide(Linear):
    """The linear head, with a loss of its own."""

    default_loss = "smooth"


@tstk.register("loss", "smooth")
class Smooth(CrossEntropy):
    """Cross-entropy that names its head and its tokenizer."""

    default_head = "wide-head"
    default_tokenizer = "patch"
