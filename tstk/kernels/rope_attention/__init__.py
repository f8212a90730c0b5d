"""Attention with rotary position embeddings of queries and keys (RoFormer, arXiv:2104.09864)."""

from __future__ import annotations

from math import isfinite

# By name: the module beside this one takes the name `torch` in this package.
from torch import Tensor, bfloat16, float16, float32
from torch import bool as boolean

from tstk.kernels.attention import Angles, count_spanned_numbers
from tstk.kernels.dispatch import Backend, Operation, why_triton_unavailable


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
        q: [B, H, N, D] queries, float32, float16 or bfloat16; or the pairs as complex numbers, channel i + 1j *
            channel i + D/2, [B, H, N, D/2] complex64, which are faster to rotate on a CPU
        k: keys, as q
        v: [B, H, N, D] values
        angles: from `tstk.nn.positions.rotary_angles`
        valid: [B, N] bool, False at keys to ignore (their values must still be finite); all are valid if None
        causal: query i attends to keys 0..i
        scale: factor of the scores, any finite number; D ** -0.5 if None
        backend: triton, torch or reference; the first that supports the call if None

    Raises:
        ValueError: shapes or dtypes do not match, or the scale is not finite
        IncompatibleError: `backend` does not support this call
    """
    cos, sin = angles
    b, h, n, d = v.shape
    expected_shape = (b, h, n, d // 2 if q.is_complex() else d)
    if q.shape != expected_shape or k.shape != expected_shape or d % 2:
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
    Backend("torch", f"{_HERE}.torch:rope_attention"),
    Backend("reference", f"{_HERE}.reference:rope_attention"),
)
