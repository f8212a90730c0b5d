"""Multi-head attention in which validity is a promise: what is invalid is never seen, and nothing becomes NaN.

A mask is always boolean, [B, 1, 1 or N, M], True where a key may be seen, as `key_mask` makes it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tstk.errors import OptionError

Angles = tuple[Tensor, Tensor]
"""Cosine and sine of the rotary angles, each [B, 1, N, head_dim / 2] float32."""


def check_heads(heads: int, dim: int) -> None:
    """Refuse a number of heads that does not divide the width.

    Raises:
        OptionError: it does not; the message names the numbers nearby that do
    """
    if heads >= 1 and dim % heads == 0:
        return
    divisors = [d for d in range(1, dim + 1) if dim % d == 0]
    near = [d for d in divisors if d < heads][-1:] + [d for d in divisors if d > heads][:1]
    raise OptionError(f"heads={heads} does not divide dim={dim}; nearby: {', '.join(map(str, near))}")


def key_mask(valid: Tensor) -> Tensor | None:
    """What `Attention` needs to ignore invalid keys; None if there are none.

    Args:
        valid: [B, M] bool

    Returns:
        [B, 1, 1, M] bool, True where a key may be seen. A compiled graph always gets the tensor, since it
        cannot branch on values.
    """
    if not torch.compiler.is_compiling() and bool(valid.all()):
        return None
    return valid[:, None, None, :]


def rotate(x: Tensor, angles: Angles) -> Tensor:
    """Turn channel i of each head together with channel i + head_dim / 2 (half-split pairing).

    Args:
        x: [B, H, N, head_dim]
        angles: of the N tokens; the turning itself is done in float32 at least
    """
    cos, sin = angles
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)


class Attention(nn.Module):
    """Multi-head scaled dot-product attention, of tokens to themselves or to a context.

    Args:
        dim: width D of the tokens
        heads: number of heads; divides `dim`
        key_dim: width Dk of the context; D unless given
        bias: the query, key and value maps have a bias; the output map always has one
        dropout: of attention probabilities
        causal: token i sees tokens 0..i of its row

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
        self.query = nn.Linear(dim, dim, bias=bias)
        self.key = nn.Linear(key_dim or dim, dim, bias=bias)
        self.value = nn.Linear(key_dim or dim, dim, bias=bias)
        self.out = nn.Linear(dim, dim)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        angles: Angles | None = None,
        cache: list[Tensor] | None = None,
    ) -> Tensor:
        """[B, N, D] -> [B, N, D]; exactly 0 for a token that may see no key at all.

        Args:
            x: [B, N, D] tokens that ask
            context: [B, M, Dk] tokens that are looked at; x unless given
            mask: from `key_mask`, over all M keys, cached ones included
            angles: rotary angles of x, for self-attention
            cache: keys and values of earlier tokens, empty at first; those of x are added to it in place
        """
        source = x if context is None else context
        q, k, v = (self._split(y) for y in (self.query(x), self.key(source), self.value(source)))
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        if cache is not None:
            if cache:
                k, v = torch.cat([cache[0], k], 2), torch.cat([cache[1], v], 2)
            cache[:] = [k, v]
        n, m = q.shape[2], k.shape[2]
        # The kernel's own causal flag excludes a mask and counts from the first key, so it serves one case.
        flag = self.causal and mask is None and n == m
        if self.causal and not flag:
            order = torch.ones(1, 1, n, m, dtype=torch.bool, device=q.device).tril(m - n)
            mask = order if mask is None else mask & order
        some = None
        if mask is not None:
            # A softmax over nothing is NaN in some kernels: such a row looks at everything, then counts as 0.
            some = mask.any(-1, keepdim=True)
            mask = mask | ~some
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=flag)
        y = self.out(y.transpose(1, 2).flatten(2))
        return y if some is None else y.masked_fill(~some[:, 0], 0.0)

    def _split(self, y: Tensor) -> Tensor:
        return y.unflatten(-1, (self.heads, -1)).transpose(1, 2)
