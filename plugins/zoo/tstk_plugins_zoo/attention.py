"""Self-attention whose heads may be wider than the tokens, with a bias on the scores (T5, Mantis)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tstk.nn.linear import Linear


def mask_scores(bias: Tensor | None, valid: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what is added to attention scores: the lowest number at invalid keys, elsewhere the bias.

    Args:
        bias: [B, H, N, N], or None for zeros
        valid: [B, N] bool
        dtype: of the scores

    Returns:
        [B, H or 1, N or 1, N]; a row without any valid key attends to all keys, since its output is not used
    """
    if bias is None:
        bias = torch.zeros((), dtype=dtype, device=valid.device).expand(valid.shape[0], 1, 1, valid.shape[1])
    return bias.masked_fill(~valid[:, None, None, :], torch.finfo(dtype).min)


class WideAttention(nn.Module):
    """Multi-head self-attention with projections of queries, keys and values without bias.

    Args:
        dim: width D of the tokens
        heads: number of heads
        head_dim: width of a head; `heads * head_dim` may differ from `dim`
        scale: factor of the scores
        dropout: dropout rate of the attention probabilities
        out_bias: add a bias to the output projection
    """

    def __init__(
        self, dim: int, heads: int, head_dim: int, *, scale: float, dropout: float, out_bias: bool = False
    ) -> None:
        super().__init__()
        self.heads, self.scale, self.dropout = heads, scale, dropout
        self.query, self.key, self.value = (Linear(dim, heads * head_dim, bias=False) for _ in range(3))
        self.out = Linear(heads * head_dim, dim, bias=out_bias)

    def forward(self, x: Tensor, scores: Tensor) -> Tensor:
        """Return the attention output [B, N, D].

        Args:
            x: [B, N, D]
            scores: from `mask_scores`, added to the scores
        """
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, scores.to(q.dtype), dropout_p=dropout, scale=self.scale)
        # The exporter of ONNX drops `contiguous` where this kernel's result is, and decomposes to one whose is not.
        return self.out(y.transpose(1, 2).clone(memory_format=torch.contiguous_format).flatten(2))
