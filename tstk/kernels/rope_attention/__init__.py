"""Attention with rotary position embeddings of queries and keys (RoFormer, arXiv:2104.09864)."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

# By name: the module beside this one takes the name `torch` in this package.
from torch import Tensor, bfloat16, float16, float32
from torch import bool as boolean

from tstk.kernels.attention import Angles, count_spanned_numbers
from tstk.kernels.dispatch import Backend, Operation, why_triton_unavailable
from tstk.kernels.eager import is_traced

if TYPE_CHECKING:
    from tstk.kernels.cpp import Library


def rope_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    angles: Angles,
    *,
    valid: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
    backend: str | None = None,
) -> Tensor:
    """Compute softmax(scale * rotate(q) rotate(k)') v, [B, H, N, D] in the dtype of v; differentiable in q, k and v.

    Channels i and i + D/2 of a head are rotated as a pair (half-split pairing). Rotation and softmax are computed in
    float32 at least. Outputs and gradients are exactly 0 for a query without any visible key.

    Args:
        q: [B, H, N, D] queries, float32, float16 or bfloat16
        k: keys, as q
        v: [B, H, N, D] values
        angles: from `tstk.nn.positions.rotary_angles`
        valid: [B, N] bool, False at keys to ignore (their values must still be finite); all are valid if None
        causal: query i attends to keys 0..i
        scale: factor of the scores, any finite number; D ** -0.5 if None
        backend: triton, cpp, torch or reference; the first that supports the call if None

    Raises:
        ValueError: shapes or dtypes do not match, or the scale is not finite
        IncompatibleError: `backend` does not support this call
    """
    cos, sin = angles
    b, _, n, d = v.shape
    if q.shape != v.shape or k.shape != v.shape or d % 2:
        raise ValueError(
            f"rope_attention: q {_shape_list(q)}, k {_shape_list(k)}, v {_shape_list(v)}; expected one shape "
            "[B, H, N, even D]"
        )
    if cos.shape not in ((b, 1, n, d // 2), (1, 1, n, d // 2)) or sin.shape != cos.shape:
        raise ValueError(
            f"rope_attention: angles {_shape_list(cos)}, {_shape_list(sin)}; expected [{b} or 1, 1, {n}, {d // 2}]"
        )
    if valid is not None and (valid.shape != (b, n) or valid.dtype != boolean):
        raise ValueError(f"rope_attention: valid {_shape_list(valid)}, {valid.dtype}; expected [{b}, {n}] bool")
    if scale is not None and not isfinite(scale):
        raise ValueError(f"rope_attention: scale={scale}; expected a finite number")
    return rope_attention_op(q, k, v, angles, valid=valid, causal=causal, scale=scale, backend=backend)


def _shape_list(t: Tensor) -> list[int]:
    return list(t.shape)


MAX_TOKENS = 65_535 * 16
"""Maximum number of tokens in a row that one launch of the Triton kernels can address, 16 per program."""


def _why_triton_unsupported(q: Tensor, k: Tensor, v: Tensor, angles: Angles, **options: object) -> str:
    if reason := why_triton_unavailable(v.device):
        return reason
    if not q.dtype == k.dtype == v.dtype or v.dtype not in (float32, float16, bfloat16):
        return f"it takes float32, float16 or bfloat16 throughout, not {q.dtype}, {k.dtype}, {v.dtype}"
    if not 16 <= v.shape[-1] <= 128:
        return f"it takes heads 16 to 128 wide, not {v.shape[-1]}"
    if (n := v.shape[2]) > MAX_TOKENS:
        return f"it takes rows of up to {MAX_TOKENS} tokens, not {n}"
    if v.shape[1:].numel() >= 2**31 or any(count_spanned_numbers(x) >= 2**31 for x in (q, k, v)):
        return "it counts the numbers of a series in 32 bits, and here they lie 2^31 or more apart"
    return ""


MIN_CPP_NUMBERS = 2**16
"""Numbers of queries from which on a call is worth the compiler's start, a few tenths of a second once per machine.

Smaller calls use torch even if the kernel has been compiled: rounding must not depend on that.
"""


def _why_cpp_unsupported(q: Tensor, k: Tensor, v: Tensor, angles: Angles, **options: object) -> str:
    if is_traced(q, k, v, *angles):
        return "a compiler or transform of torch cannot trace it"
    if v.device.type != "cpu":
        return f"the tensors are on {v.device.type}"
    if any(x.dtype != float32 for x in (q, k, v, *angles)):
        return f"it takes float32 throughout, not {q.dtype}, {k.dtype}, {v.dtype} and angles {angles[0].dtype}"
    if any(x.requires_grad for x in angles):
        return "it computes no gradient of the angles"
    return _why_cpp_unavailable()


def _why_cpp_unavailable() -> str:
    return _get_library().why_unavailable()


def _get_library() -> Library:
    from tstk.kernels.rope_attention.cpp import LIBRARY

    return LIBRARY


def _why_cpp_not_automatic(q: Tensor, *inputs: object, **options: object) -> str:
    if q.numel() < MIN_CPP_NUMBERS:
        return f"it is selected from {MIN_CPP_NUMBERS} numbers of queries on"
    return _get_library().why_not_loaded()


_HERE = "tstk.kernels.rope_attention"
rope_attention_op = Operation(
    "rope_attention",
    Backend(
        "triton",
        f"{_HERE}.triton:rope_attention",
        _why_triton_unsupported,
        why_triton_unavailable,
        self_test="tstk.kernels.self_test:check_rope_attention",
    ),
    Backend(
        "cpp",
        f"{_HERE}.cpp:rope_attention",
        _why_cpp_unsupported,
        _why_cpp_unavailable,
        why_not_automatic=_why_cpp_not_automatic,
        get_library=_get_library,
    ),
    Backend("torch", f"{_HERE}.torch:rope_attention"),
    Backend("reference", f"{_HERE}.reference:rope_attention"),
)
