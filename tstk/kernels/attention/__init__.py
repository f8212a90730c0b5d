"""Scaled dot-product attention and rotation, for `tstk.nn.attention` and the backends of `rope_attention`."""

from __future__ import annotations

from typing import TYPE_CHECKING

# By name: the module beside this one takes the name `torch` in this package.
from torch import Tensor, cat, float32

from tstk.kernels.dispatch import Backend, Operation
from tstk.kernels.eager import runs_eagerly

if TYPE_CHECKING:
    from tstk.kernels.cpp import Library

Angles = tuple[Tensor, Tensor]
"""Cosine and sine of the rotary angles, each [B or 1, 1, N, D / 2] float32."""


def rotate(x: Tensor, angles: Angles) -> Tensor:
    """Rotate channels i and i + head_dim / 2 of each head as a pair (half-split pairing), in float32 at least.

    Args:
        x: [B, H, N, head_dim]
        angles: rotary angles of the N tokens
    """
    cos, sin = angles
    a, b = x.chunk(2, -1)
    return cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)


def count_spanned_numbers(x: Tensor) -> int:
    """Return how far apart in memory the first and the last number of a series of [B, H, N, D] lie."""
    return sum((size - 1) * stride for size, stride in zip(x.shape[1:], x.stride()[1:], strict=True))


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    backend: str | None = None,
) -> Tensor:
    """Compute scaled dot-product attention, [B, H, N, D]; exactly 0 for a query without any visible key.

    Args:
        q: [B, H, N, D]
        k: [B, H, M, D]
        v: [B, H, M, D]
        mask: [B, 1, 1 or N, M] bool, True at keys that may be attended to
        causal: the last query attends to all keys, the one before to all but the last, and so on
        scale: factor of the scores; D ** -0.5 if None
        dropout: dropout rate of the attention probabilities
        backend: cpp, torch or reference; the first that supports the call if None

    Raises:
        IncompatibleError: `backend` does not support this call
    """
    y: Tensor = attention_op(q, k, v, mask, causal=causal, scale=scale, dropout=dropout, backend=backend)
    return y


MAX_CPP_WIDTH = 128
"""Widest heads that the kernel in C++ takes."""
MAX_CPP_DROPOUT = 0.99
"""Highest dropout rate that it takes; nearer to 1, rates are rounded to 1."""
MAX_CPP_KEY_NUMBERS = 12_288
"""Numbers of a head's keys up to which the kernel in C++ is selected; with more, torch's fused attention is faster."""
MIN_CPP_SCORES = 2**14
"""Scores from which on a call is worth the compiler's start, a second or two once per machine.

Smaller calls use torch even if the kernel has been compiled: rounding must not depend on that.
"""


def _why_cpp_unsupported(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, dropout: float, **options: object
) -> str:
    if not runs_eagerly(q, k, v):
        return "a compiler or transform of torch cannot trace it, autocast changes dtypes, or the tensors are on a GPU"
    if not q.dtype == k.dtype == v.dtype == float32:
        return f"it takes float32 throughout, not {q.dtype}, {k.dtype}, {v.dtype}"
    if not 0 < q.shape[-1] <= MAX_CPP_WIDTH or not k.numel():
        return f"it takes heads 1 to {MAX_CPP_WIDTH} wide, and at least one key"
    if k.shape != v.shape or q.shape[:2] != k.shape[:2] or q.shape[-1] != k.shape[-1]:
        return "it takes as many heads of queries as of keys, and values of the shape of the keys"
    if mask is not None and mask.shape[1:] != (1, 1, k.shape[2]):
        return "it takes a mask over keys only"
    if dropout > MAX_CPP_DROPOUT:
        return f"it takes dropout rates up to {MAX_CPP_DROPOUT}"
    return _why_cpp_unavailable()


def _why_cpp_unavailable() -> str:
    return _get_library().why_unavailable()


def _get_library() -> Library:
    from tstk.kernels.attention.cpp import LIBRARY

    return LIBRARY


def _why_cpp_not_automatic(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, dropout: float, **options: object
) -> str:
    if q.shape[:3].numel() * k.shape[2] < MIN_CPP_SCORES:
        return f"it is selected from {MIN_CPP_SCORES} scores on"
    if not dropout and k.shape[2:].numel() > MAX_CPP_KEY_NUMBERS:
        return f"without dropout it is selected for up to {MAX_CPP_KEY_NUMBERS} numbers of keys in a head"
    return _get_library().why_not_loaded()


_HERE = "tstk.kernels.attention"
attention_op = Operation(
    "attention",
    Backend(
        "cpp",
        f"{_HERE}.cpp:attend",
        _why_cpp_unsupported,
        _why_cpp_unavailable,
        why_not_automatic=_why_cpp_not_automatic,
        get_library=_get_library,
    ),
    Backend("torch", f"{_HERE}.torch:attend"),
    Backend("reference", f"{_HERE}.reference:attend"),
)
