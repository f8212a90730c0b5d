"""A head of latent reasoning tokens that cross-attend to the encoded series."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from tstk.core.interfaces import Head
from tstk.core.types import Spec, Tokens
from tstk.nn.attention import Attention, make_key_mask
from tstk.nn.blocks import MLP, init_xavier
from tstk.nn.positions import POSITION_STD
from tstk.plugins.ranges import Fraction, PositiveInt


class CoT(Head):
    """The latent reasoning head of CWT-MAE ("chain of thought").

    A few learned tokens cross-attend to the encoded series, then to each other, pass an MLP, and their mean is
    classified. Post-norm, one pass. With `--channels independent` a learned channel embedding
    is added to the tokens of each channel, which carry no information about their channel otherwise.

    Args:
        tokens: number of reasoning tokens
        heads: attention heads
        dropout: dropout rate of the attention probabilities and of the MLP
        mlp_dropout: where the MLP drops values: its output; or hidden, between GELU and second layer, as in CWT-MAE
        init: initialise linear layers Xavier-uniform with zero bias; xavier-stacked, query, key and value as one map,
            as in CWT-MAE
    """

    needs = ("num_outputs",)
    target_types = ("class", "labels", "numbers")

    def __init__(
        self,
        spec: Spec,
        *,
        tokens: PositiveInt = 8,
        heads: PositiveInt = 4,
        dropout: Fraction = 0.2,
        mlp_dropout: Literal["output", "hidden"] = "output",
        init: Literal["xavier", "xavier-stacked"] = "xavier",
    ) -> None:
        super().__init__(spec)
        dim = spec.dim or 0
        self.reasoning_tokens = nn.Parameter(torch.randn(tokens, dim) * 0.02)
        self.channel_embed = (
            nn.Parameter(torch.randn(spec.grid_size[-1], 1, dim) * POSITION_STD) if spec.channel_axis else None
        )
        self.cross_attn = Attention(dim, heads, dropout=dropout)
        self.self_attn = Attention(dim, heads, dropout=dropout)
        rates = {"dropout": dropout} if mlp_dropout == "output" else {"hidden_dropout": dropout}
        self.mlp = MLP(dim, 4 * dim, **rates)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.classify = nn.Linear(dim, spec.num_outputs or 0)
        init_xavier(self)
        for attention in (self.cross_attn, self.self_attn) if init == "xavier-stacked" else ():
            attention.init_stacked_xavier()

    def attention_weights(self, tokens: Tokens) -> Tensor:
        """Return the cross-attention of the reasoning tokens, averaged over heads: [B, reasoning tokens, N]."""
        x = self.reasoning_tokens.expand(tokens.values.shape[0], -1, -1)
        return self.cross_attn.attention_weights(
            x, self._add_channel_embed(tokens), mask=make_key_mask(tokens.valid)
        ).mean(1)

    def _add_channel_embed(self, tokens: Tokens) -> Tensor:
        """Return the token values with channel embeddings added, [B, N, D]."""
        if self.channel_embed is None:
            return tokens.values
        return (tokens.values.unflatten(1, (len(self.channel_embed), -1)) + self.channel_embed).flatten(1, 2)

    def forward(self, tokens: Tokens) -> Tensor:
        """Return logits, or standardized numbers, [B, num_outputs]."""
        x = self.reasoning_tokens.expand(tokens.values.shape[0], -1, -1)
        x = self.norms[0](x + self.cross_attn(x, self._add_channel_embed(tokens), mask=make_key_mask(tokens.valid)))
        x = self.norms[1](x + self.self_attn(x))
        x = self.norms[2](x + self.mlp(x))
        return self.classify(x.mean(1))
