"""The encoder of T5 over tokens at any places of the grid: relative positions are differences of `grid_index`.

The layers of the transformers library number their inputs from 0, so masked or dropped tokens would move the others.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tstk.errors import OptionError
from tstk.nn.blocks import Dropout
from tstk.nn.linear import Linear
from tstk_plugins_zoo.attention import WideAttention, mask_scores
from tstk_plugins_zoo.config import ModelConfig

_FEED_FORWARDS = ("relu", "gelu", "gelu_new", "silu", "gated-relu", "gated-gelu", "gated-gelu_new", "gated-silu")
_RENAMED = {
    "layer.0.SelfAttention.q": "attention.query",
    "layer.0.SelfAttention.k": "attention.key",
    "layer.0.SelfAttention.v": "attention.value",
    "layer.0.SelfAttention.o": "attention.out",
    "layer.0.layer_norm": "attention_norm",
    "layer.1.DenseReluDense.wi": "up",
    "layer.1.DenseReluDense.wi_0": "gate",
    "layer.1.DenseReluDense.wi_1": "up",
    "layer.1.DenseReluDense.wo": "down",
    "layer.1.layer_norm": "mlp_norm",
}


def activate(x: Tensor, name: str) -> Tensor:
    """Apply an activation function by the name that the transformers library gives it."""
    if name == "gelu_new":
        return F.gelu(x, approximate="tanh")
    function: Any = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu}[name]
    activated: Tensor = function(x)
    return activated


class T5Block(nn.Module):
    """A layer of T5's encoder: self-attention with unscaled scores, then an MLP; pre-norm, without biases.

    Args:
        config: fields d_model, num_heads, d_kv, d_ff, feed_forward_proj, layer_norm_epsilon, dropout_rate
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim, hidden = config.integer("d_model", 512), config.integer("d_ff", 2048)
        eps, dropout = config.number("layer_norm_epsilon", 1e-6), config.number("dropout_rate", 0.1, below=1)
        gated, _, name = config.choice("feed_forward_proj", "relu", _FEED_FORWARDS).rpartition("-")
        self.activation = "gelu_new" if gated and name == "gelu" else name
        self.attention = WideAttention(
            dim, config.integer("num_heads", 8), config.integer("d_kv", 64), scale=1.0, dropout=dropout
        )
        self.attention_norm, self.mlp_norm = nn.RMSNorm(dim, eps), nn.RMSNorm(dim, eps)
        self.up = Linear(dim, hidden, bias=False)
        self.gate = Linear(dim, hidden, bias=False) if gated else None
        self.down = Linear(hidden, dim, bias=False)
        self.dropout = Dropout(dropout)
        self._init_weights()

    def _init_weights(self) -> None:
        """Initialise the weights as T5 does, so that unscaled scores have the variance of scaled ones."""
        dim, inner = self.up.in_features, self.attention.out.in_features
        nn.init.normal_(self.attention.query.weight, std=(dim * inner // self.attention.heads) ** -0.5)
        for layer in (self.attention.key, self.attention.value, self.attention.out, self.up, self.gate, self.down):
            if layer is not None:
                nn.init.normal_(layer.weight, std=layer.in_features**-0.5)

    def forward(self, x: Tensor, scores: Tensor) -> Tensor:
        """Map [B, N, D] to [B, N, D]; `scores` as for `WideAttention`."""
        x = x + self.dropout(self.attention(self.attention_norm(x), scores))
        y = self.mlp_norm(x)
        if self.gate is None:
            hidden = activate(self.up(y), self.activation)
        else:
            hidden = activate(self.gate(y), self.activation) * self.up(y)
        return x + self.dropout(self.down(self.dropout(hidden)))


class T5Stack(nn.Module):
    """The layers of T5's encoder and its final norm (Raffel et al., arXiv:1910.10683).

    Args:
        config: of a T5 model, with the names of the transformers library
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dim = config.integer("d_model", 512)
        self.num_buckets = config.integer("relative_attention_num_buckets", 32)
        self.max_distance = config.integer("relative_attention_max_distance", 128)
        if self.num_buckets < 4 or self.max_distance <= self.num_buckets // 4:
            raise OptionError(
                f"{config.source} has {self.num_buckets} relative_attention_num_buckets for distances up to "
                f"{self.max_distance}; expected at least 4, and distances above a quarter of them"
            )
        self.bias = nn.Parameter(torch.empty(self.num_buckets, config.integer("num_heads", 8)))
        nn.init.normal_(self.bias)  # as large as the scores, so that order is seen from the first step
        self.blocks = nn.ModuleList(T5Block(config) for _ in range(config.integer("num_layers", 6)))
        self.norm = nn.RMSNorm(self.dim, config.number("layer_norm_epsilon", 1e-6))
        self.dropout = Dropout(config.number("dropout_rate", 0.1, below=1))

    def forward(self, x: Tensor, positions: Tensor, valid: Tensor) -> Tensor:
        """Encode tokens [B, N, D].

        Args:
            x: [B, N, D]
            positions: [B, N] long
            valid: [B, N] bool
        """
        distances = positions[:, None, :] - positions[:, :, None]
        buckets = find_buckets(distances, self.num_buckets, self.max_distance)
        scores = mask_scores(F.embedding(buckets, self.bias).permute(0, 3, 1, 2), valid, x.dtype)
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x, scores)
        return self.dropout(self.norm(x))


def find_buckets(distances: Tensor, num_buckets: int, max_distance: int) -> Tensor:
    """Return the bucket of each distance from query to key: exact when small, logarithmic up to `max_distance`.

    Args:
        distances: long, negative where the key comes first
        num_buckets: at least 4; half of them are for keys that come later
        max_distance: all from here on are in the last bucket; above a quarter of `num_buckets`
    """
    half = num_buckets // 2
    exact = half // 2
    size = distances.abs()
    ratio = torch.log(size.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    logarithmic = (exact + (ratio * (half - exact)).long()).clamp(max=half - 1)
    return torch.where(size < exact, size, logarithmic) + half * (distances > 0)


def rename_t5_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of `T5Stack` from a state dict that has those of a T5 encoder as `encoder.block...`."""
    renamed = {}
    for key, value in state.items():
        if key == "encoder.final_layer_norm.weight":
            renamed["norm.weight"] = value
        elif key == "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight":
            renamed["bias"] = value
        elif (match := re.fullmatch(r"encoder\.block\.(\d+)\.(.+)\.weight", key)) and match[2] in _RENAMED:
            renamed[f"blocks.{match[1]}.{_RENAMED[match[2]]}.weight"] = value
    return renamed
