"""From a token's state to what a person can read of it: code vector, start, length, mean and scale.

A text may have a say in what a shape is (and how high and large), never in where it is: `Guidance` adds what a token
finds in the text to its state, for the chosen attributes alone.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tstk.nn.attention import Attention, key_mask

GUIDED = {"none": (), "z": ("z",), "z_mu_sigma": ("z", "mean", "scale")}
"""Ways of guidance, and the attributes that read a guided state."""


class Attributes(NamedTuple):
    """What the attribute decoder says of tokens.

    Args:
        z: [B, N, code_dim] before the codebook
        start: [B, N] share of the series, from 0 to 1 - shortest
        length: [B, N] share of the series, from shortest; start + length passes 1 by no more than shortest
        mean: [B, N] in units of the series
        scale: [B, N] above 0, likewise
    """

    z: Tensor
    start: Tensor
    length: Tensor
    mean: Tensor
    scale: Tensor


class AttributeDecoder(nn.Module):
    """Four small networks, one per attribute; start and length share one (VQShape, section 3.2).

    Args:
        dim: width of a state
        code_dim: width of a code
        shortest: least length, a share of the series
        begin: length before anything is learnt; half of what follows the start unless given
    """

    def __init__(self, dim: int, code_dim: int, shortest: float, begin: float | None = None) -> None:
        super().__init__()
        self.shortest = shortest
        widths = {"z": code_dim, "place": 2, "mean": 1, "scale": 1}
        self.read = nn.ModuleDict(
            {name: nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, out)) for name, out in widths.items()}
        )
        if begin is not None:
            share = 2 * (begin - shortest)  # starts lie about the middle
            with torch.no_grad():
                self.read["place"][2].bias[1] = math.log(share / (1 - share))  # type: ignore[index]

    def forward(self, state: Tensor, guided: dict[str, Tensor]) -> Attributes:
        """States [B, N, D] -> attributes.

        Args:
            state: what the series says
            guided: states to read instead, by attribute: z, mean, scale
        """

        def read(name: str) -> Tensor:
            # positions need more digits than bfloat16 has
            return self.read[name](guided.get(name, state)).float()

        place = read("place").sigmoid()
        start = place[..., 0] * (1 - self.shortest)
        length = place[..., 1] * (1 - start) + self.shortest
        return Attributes(read("z"), start, length, read("mean")[..., 0], F.softplus(read("scale")[..., 0]))


class Guidance(nn.Module):
    """Tokens ask a text and add the answer, through a gate that is shut at first.

    Args:
        dim: width of a token's state
        heads: attention heads
        text_dim: width of the text's states
    """

    def __init__(self, dim: int, heads: int, text_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(text_dim)
        self.ask = Attention(dim, heads, key_dim=text_dim)
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, state: Tensor, text: Tensor, valid: Tensor) -> Tensor:
        """States [B, N, D], a text [B, S, text_dim] and where it is one [B, S] -> [B, N, D]."""
        text = self.norm(text.to(state.dtype).masked_fill(~valid[..., None], 0))
        return state + self.gate * self.ask(state, text, mask=key_mask(valid))
