"""Attention of tokens whose queries and keys are first turned by their positions (RoFormer, arXiv:2104.09864)."""

from __future__ import annotations

from math import isfinite

# By name: the module beside this one takes the name `torch` in this package.
from torch import Tensor, bfloat16, float16, float32
from torch import bool as boolean

from tstk.kernels.dispatch import Backend, Operation, no_triton

Angles = tuple[Tensor, Tensor]
"""Cosine and sine of the rotary angles, each [B or 1, 1, N, D / 2] float32."""


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
    """softmax(scale * turn(q) turn(k)') v, [B, H, N, D] in the type of v; differentiable in q, k and v.

    Channel i of a head and channel i + D/2 turn together (half-split pairing), in float32 at least, as does the
    softmax. Results and gradients are exactly 0 for a query that may see no key.

    Args:
        q: [B, H, N, D] queries, float32, float16 or bfloat16; or the pairs as complex numbers, channel i + 1j *
            channel i + D/2, [B, H, N, D/2] complex64: a CPU turns those faster
        k: keys, as q
        v: [B, H, N, D] values
        angles: as `tstk.nn.positions.angles` makes them, from any number of axes
        valid: [B, N] bool, False for a key that no query sees (its numbers must be finite all the same); all are
            seen unless given
        causal: query i sees keys 0..i
        scale: of the scores, any finite number; D ** -0.5 unless given
        backend: triton, torch or reference; the first that can unless given

    Raises:
        ValueError: shapes or types do not fit, or the scale is not finite
        NeedsError: `backend` cannot serve this call
    """
    cos, sin = angles
    b, h, n, d = v.shape
    want = (b, h, n, d // 2 if q.is_complex() else d)
    if q.shape != want or k.shape != want or d % 2:
        raise ValueError(f"rope_attention: q {_of(q)}, k {_of(k)}, v {_of(v)}; expected one shape [B, H, N, even D]")
    if cos.shape not in ((b, 1, n, d // 2), (1, 1, n, d // 2)) or sin.shape != cos.shape:
        raise ValueError(f"rope_attention: angles {_of(cos)}, {_of(sin)}; expected [{b} or 1, 1, {n}, {d // 2}]")
    if valid is not None and (valid.shape != (b, n) or valid.dtype != boolean):
        raise ValueError(f"rope_attention: valid {_of(valid)}, {valid.dtype}; expected [{b}, {n}] bool")
    if scale is not None and not isfinite(scale):
        raise ValueError(f"rope_attention: scale={scale}; expected a finite number")
    return operation(q, k, v, angles, valid=valid, causal=causal, scale=scale, backend=backend)


def _of(t: Tensor) -> list[int]:
    return list(t.shape)


LONGEST = 65_535 * 16
"""Tokens of a row that one launch of Triton's kernels can address, 16 per program."""


def _no_triton(q: Tensor, k: Tensor, v: Tensor, angles: Angles, **options: object) -> str:
    if reason := no_triton(v.device):
        return reason
    if not q.dtype == k.dtype == v.dtype or v.dtype not in (float32, float16, bfloat16):
        return f"it takes float32, float16 or bfloat16 throughout, not {q.dtype}, {k.dtype}, {v.dtype}"
    if not 16 <= v.shape[-1] <= 128:
        return f"it takes heads 16 to 128 wide, not {v.shape[-1]}"
    if (n := v.shape[2]) > LONGEST:
        return f"it takes rows of up to {LONGEST} tokens, not {n}"
    if any(
        sum((size - 1) * stride for size, stride in zip(x.shape[1:], x.stride()[1:], strict=True)) >= 2**31
        for x in (q, k, v)
    ):
        return "it counts the numbers of a series in 32 bits, and here they lie 2^31 or more apart"
    return ""


_HERE = "tstk.kernels.rope_attention"
operation = Operation(
    "rope_attention",
    Backend("triton", f"{_HERE}.triton:rope_attention", _no_triton, no_triton),
    Backend("torch", f"{_HERE}.torch:rope_attention"),
    Backend("reference", f"{_HERE}.reference:rope_attention"),
)
