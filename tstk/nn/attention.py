"""Multi-head attention in which validity is a promise: what is invalid is never seen, and nothing becomes NaN.

A mask is always boolean, [B, 1, 1, M], True where a key may be seen, as `key_mask` makes it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tstk.errors import OptionError
from tstk.kernels.rope_attention import Angles, rope_attention
from tstk.kernels.rope_attention.torch import attend, rotate
from tstk.nn.cache import Kept

__all__ = ["Angles", "Attention", "check_heads", "key_mask", "rotate"]


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
        cache: list[Kept] | None = None,
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
        v = self._split(self.value(source))
        dropout = self.dropout if self.training else 0.0
        if angles is not None and context is None and cache is None and not dropout:
            q, k = self._to_turn(x)
            valid = None if mask is None else mask[:, 0, 0]
            y = rope_attention(q, k, v, angles, valid=valid, causal=self.causal)
        else:
            q, k = self._split(self.query(x)), self._split(self.key(source))
            if angles is not None:
                q, k = rotate(q, angles), rotate(k, angles)
            if cache is not None:
                both = zip(cache, (k, v), strict=True) if cache else ()
                cache[:] = [old.grown(new) for old, new in both] or [Kept.of(k), Kept.of(v)]
                k, v = (kept.values for kept in cache)
            y = attend(q, k, v, mask, causal=self.causal, dropout=dropout)
        y = self.out(y.transpose(1, 2).flatten(2))
        if mask is None:
            return y
        some = mask[:, 0, 0, :, None]  # then, [B, N or 1, 1], whether a query saw any key
        some = some.cumsum(1)[:, -y.shape[1] :] > 0 if self.causal else some.any(1, keepdim=True)
        return y.masked_fill(~some, 0.0)

    def shares(self, x: Tensor, context: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """How each of x divides its attention among a context it is not turned against: [B, heads, N, M].

        Args:
            x: [B, N, D] tokens that ask
            context: [B, M, Dk] tokens that are looked at
            mask: from `key_mask`, over the context
        """
        q, k = self._split(self.query(x)), self._split(self.key(context))
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        if mask is None:
            return scores.softmax(-1)
        return scores.masked_fill(~mask, -torch.inf).softmax(-1).nan_to_num()

    def _split(self, y: Tensor) -> Tensor:
        return y.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _to_turn(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys in the form in which the device turns them fastest."""
        maps = self.query, self.key
        if x.device.type != "cpu" or torch.compiler.is_compiling() or any(type(m) is not nn.Linear for m in maps):
            return self._split(self.query(x)), self._split(self.key(x))
        return self._pairs(self.query, x), self._pairs(self.key, x)

    def _pairs(self, linear: nn.Linear, x: Tensor) -> Tensor:
        """[B, H, N, head_dim / 2] complex, each channel with the one that turns with it.

        Rows of the weight change places for this, which costs little: what is as large as x stays where it is.
        """

        def side_by_side(t: Tensor) -> Tensor:
            return t.unflatten(0, (self.heads, 2, -1)).transpose(1, 2).flatten(0, 2)

        y = F.linear(x, side_by_side(linear.weight), None if linear.bias is None else side_by_side(linear.bias))
        y = y.to(torch.promote_types(y.dtype, torch.float32)).unflatten(-1, (self.heads, -1, 2))
        return torch.view_as_complex(y).transpose(1, 2)
