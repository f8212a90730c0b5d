"""From the state of a token to its attributes: shape vector z, start, length, mean and scale.

`TextGuidance` lets a token attend to a text. The text can influence z (and mean and scale), never start and length.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tstk.nn.attention import Attention, make_key_mask
from tstk.nn.linear import Linear

GUIDED_ATTRIBUTES = {"none": (), "z": ("z",), "z_mu_sigma": ("z", "mean", "scale")}
"""Values of the option `guide` -> attributes computed from guided states."""


class ShapeAttributes(NamedTuple):
    """Attributes of tokens.

    Args:
        z: [B, N, code_dim] shape vector before quantization
        start: [B, N] start as a share of the series, from 0 to 1 - shortest
        length: [B, N] length as a share of the series, at least shortest; start + length exceeds 1 by at most shortest
        mean: [B, N] in units of the series
        scale: [B, N] standard deviation in units of the series, positive
    """

    z: Tensor
    start: Tensor
    length: Tensor
    mean: Tensor
    scale: Tensor


class AttributeDecoder(nn.Module):
    """Four MLPs, one per attribute; start and length share one (VQShape, section 3.2).

    Args:
        dim: width of a state
        code_dim: width of a code
        shortest: minimal length, as a share of the series
        initial_length: length at initialization, as a share of the series; half of what follows the start if None
    """

    def __init__(self, dim: int, code_dim: int, shortest: float, initial_length: float | None = None) -> None:
        super().__init__()
        self.shortest = shortest
        widths = {"z": code_dim, "place": 2, "mean": 1, "scale": 1}
        self.mlps = nn.ModuleDict(
            {name: nn.Sequential(Linear(dim, dim), nn.ReLU(), Linear(dim, out)) for name, out in widths.items()}
        )
        if initial_length is not None:
            share = 2 * (initial_length - shortest)  # initial starts are near the middle of the series
            with torch.no_grad():
                self.mlps["place"][2].bias[1] = math.log(share / (1 - share))  # type: ignore[index]

    def forward(self, state: Tensor, guided_states: dict[str, Tensor]) -> ShapeAttributes:
        """Compute the attributes from states [B, N, D].

        Args:
            state: states of the tokens
            guided_states: states that attended to a text, by the attribute they replace `state` for: z, mean, scale
        """

        def apply_mlp(name: str) -> Tensor:
            # float32: positions need more precision than bfloat16 has
            return self.mlps[name](guided_states.get(name, state)).float()

        place = apply_mlp("place").sigmoid()
        start = place[..., 0] * (1 - self.shortest)
        length = place[..., 1] * (1 - start) + self.shortest
        z, mean, scale = apply_mlp("z"), apply_mlp("mean")[..., 0], F.softplus(apply_mlp("scale")[..., 0])
        return ShapeAttributes(z, start, length, mean, scale)


class TextGuidance(nn.Module):
    """Cross-attention of tokens to a text, added through a learned gate that is initially 0.

    Args:
        dim: width of a token's state
        heads: attention heads
        text_dim: width of the text's states
    """

    def __init__(self, dim: int, heads: int, text_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(text_dim)
        self.cross_attn = Attention(dim, heads, key_dim=text_dim)
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, state: Tensor, text: Tensor, valid: Tensor) -> Tensor:
        """Add the text to the states.

        Args:
            state: [B, N, D]
            text: [B, S, text_dim] states of words
            valid: [B, S] bool; whether there is a word
        """
        text = self.norm(text.to(state.dtype).masked_fill(~valid[..., None], 0))
        return state + self.gate * self.cross_attn(state, text, mask=make_key_mask(valid))
