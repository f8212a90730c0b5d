"""Multi-head attention that never attends to invalid keys and never returns NaN for rows without valid keys.

A mask is always boolean, [B, 1, 1, M], True at keys that may be attended to, as returned by `make_key_mask`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tstk.errors import OptionError
from tstk.kernels.attention import Angles, attend, rotate
from tstk.kernels.rope_attention import rope_attention
from tstk.nn.cache import KVCache
from tstk.nn.linear import Linear, is_plain, linear

__all__ = ["Angles", "Attention", "check_heads", "make_key_mask", "rotate"]


def check_heads(heads: int, dim: int) -> None:
    """Check that the number of heads divides the width.

    Raises:
        OptionError: it does not; the message names the nearest divisors
    """
    if heads >= 1 and dim % heads == 0:
        return
    divisors = [d for d in range(1, dim + 1) if dim % d == 0]
    near = [d for d in divisors if d < heads][-1:] + [d for d in divisors if d > heads][:1]
    raise OptionError(f"heads={heads} does not divide dim={dim}; nearby: {', '.join(map(str, near))}")


def make_key_mask(valid: Tensor) -> Tensor | None:
    """Return the mask with which `Attention` ignores invalid keys, or None if all keys are valid.

    Args:
        valid: [B, M] bool

    Returns:
        [B, 1, 1, M] bool, True at keys that may be attended to. Under torch.compile always a tensor, since a graph
        cannot branch on values.
    """
    if not torch.compiler.is_compiling() and bool(valid.all()):
        return None
    return valid[:, None, None, :]


class Attention(nn.Module):
    """Multi-head scaled dot-product self-attention, or cross-attention to a context.

    Args:
        dim: width D of the tokens
        heads: number of heads; divides `dim`
        key_dim: width Dk of the context; D if None
        bias: add a bias to the query, key and value projections; the output projection always has one
        dropout: dropout rate of the attention probabilities
        causal: token i attends to tokens 0..i of its row

    Raises:
        OptionError: `heads` does not divide `dim`
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        key_dim: int | None = None,
        bias: bool = True,
        dropout: float = 0.0,
        causal: bool = False,
    ) -> None:
        super().__init__()
        check_heads(heads, dim)
        self.heads, self.dropout, self.causal = heads, dropout, causal
        self.query = Linear(dim, dim, bias=bias)
        self.key = Linear(key_dim or dim, dim, bias=bias)
        self.value = Linear(key_dim or dim, dim, bias=bias)
        self.out = Linear(dim, dim)

    def init_stacked_xavier(self) -> None:
        """Initialize query, key and value Xavier-uniform as one map [3 D, D], as `nn.MultiheadAttention` does.

        Their deviation is sqrt(1 / (2 D)), where three maps that are initialized one by one have sqrt(1 / D). Biases,
        also that of the output, are set to 0; the weight of the output does not change.
        """
        for projection in (self.query, self.key, self.value):
            bound = (6 / (projection.in_features + 3 * projection.out_features)) ** 0.5
            nn.init.uniform_(projection.weight, -bound, bound)
            if projection.bias is not None:
                nn.init.zeros_(projection.bias)
        if self.out.bias is not None:
            nn.init.zeros_(self.out.bias)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        angles: Angles | None = None,
        cache: list[KVCache] | None = None,
    ) -> Tensor:
        """Return the attention output, [B, N, D]; exactly 0 for a token without any visible key.

        Args:
            x: [B, N, D] tokens that the queries are computed from
            context: [B, M, Dk] tokens that keys and values are computed from; `x` if None
            mask: from `make_key_mask`, over all M keys, cached ones included
            angles: rotary angles of `x`, for self-attention only
            cache: [keys, values] of earlier tokens, or an empty list; updated in place with those of `x`
        """
        dropout = self.dropout if self.training else 0.0
        if angles is not None and context is None and cache is None and not dropout:
            # One by one: attention is faster on values of their own memory than on a part of one product.
            q, k, v = (self._split_heads(p(x)) for p in (self.query, self.key, self.value))
            valid = None if mask is None else mask[:, 0, 0]
            y = rope_attention(q, k, v, angles, valid=valid, causal=self.causal)
        else:
            q, k, v = self._project(x, context)
            if angles is not None:
                q, k = rotate(q, angles), rotate(k, angles)
            if cache is not None:
                if cache:
                    cache[:] = [cached.append(new) for cached, new in zip(cache, (k, v), strict=True)]
                else:
                    cache[:] = [KVCache.from_tensor(k), KVCache.from_tensor(v)]
                k, v = (cached.values for cached in cache)
            y = attend(q, k, v, mask, causal=self.causal, dropout=dropout)
        y = self.out(y.transpose(1, 2).flatten(2))
        if mask is None:
            return y
        visible = mask[:, 0, 0, :, None]
        has_key = visible.cumsum(1)[:, -y.shape[1] :] > 0 if self.causal else visible.any(1, keepdim=True)
        return y.masked_fill(~has_key, 0.0)  # has_key is [B, N or 1, 1]

    def attention_weights(self, x: Tensor, context: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Return the attention probabilities of `x` over a context, without rotary positions: [B, heads, N, M].

        Args:
            x: [B, N, D] tokens that the queries are computed from
            context: [B, M, Dk] tokens that the keys are computed from
            mask: from `make_key_mask`, over the context
        """
        q, k = self._split_heads(self.query(x)), self._split_heads(self.key(context))
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        if mask is None:
            return scores.softmax(-1)
        return scores.masked_fill(~mask, -torch.inf).softmax(-1).nan_to_num()

    def _project(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, ...]:
        """Return queries, keys and values, [B, H, N or M, head_dim] each.

        Projections of the same tokens are one matrix product, unless one of them must be called, as LoRA must.
        """
        projections = (self.query, self.key, self.value)
        if not all(map(is_plain, projections)):
            source = x if context is None else context
            return tuple(self._split_heads(p(t)) for p, t in zip(projections, (x, source, source), strict=True))
        if context is None:
            return tuple(map(self._split_heads, _project_together(x, *projections)))
        return tuple(map(self._split_heads, (self.query(x), *_project_together(context, self.key, self.value))))

    def _split_heads(self, y: Tensor) -> Tensor:
        return y.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def _project_together(x: Tensor, *layers: nn.Module) -> tuple[Tensor, ...]:
    """Return the outputs of linear layers of equal width on the same input."""
    weights, biases = zip(*((layer.weight, layer.bias) for layer in layers), strict=True)
    bias = None if biases[0] is None else torch.cat(biases)
    return linear(x, torch.cat(weights), bias).chunk(len(layers), -1)
