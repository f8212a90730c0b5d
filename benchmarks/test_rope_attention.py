"""Rotary attention against rotation followed by attention, as models write it without a fused operation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks import shapes
from benchmarks.harness import (
    Case,
    CheckResult,
    Contender,
    ContenderUnavailableError,
    OutputCheck,
    draw_output_gradient,
    expand_thread_counts,
    import_peer,
    make_compiled_contender,
    make_contender,
    why_triton_unsupported,
)
from benchmarks.shapes import Attention
from tstk.kernels.dispatch import use_backend
from tstk.kernels.rope_attention import rope_attention, rope_attention_op

CAPS = {torch.float32: 3e-6, torch.float16: 2e-3, torch.bfloat16: 1.5e-2}
"""Errors that are always accepted, for inputs of unit variance."""
ROWS = 2
"""Rows at each end of the batch that are checked; rows do not depend on each other."""


def make_inputs(shape: Attention, dtype: torch.dtype, seed: int, device: str) -> tuple[Tensor | None, ...]:
    """Return q, k, v as views of a packed projection, float32 cosines and sines, and the valid keys (None: all)."""
    draw = torch.Generator(device).manual_seed(seed)
    b, h, n, d = shape.batch, shape.heads, shape.tokens, shape.width
    packed = torch.randn(b, n, 3, h, d, generator=draw, device=device).to(dtype)
    pos = torch.arange(n, device=device)[None]
    if shape.visible:
        pos = torch.rand(b, 4 * n, generator=draw, device=device).argsort(-1)[:, :n].sort(-1).values
    angle = pos[:, None, :, None] * 10000 ** (-torch.arange(d // 2, device=device) / (d // 2))
    valid = None
    if shape.ragged:
        lengths = torch.randint(n // 2, n + 1, (b, 1), generator=draw, device=device)
        valid = torch.arange(n, device=device) < lengths
    return *packed.permute(2, 0, 3, 1, 4), angle.cos(), angle.sin(), valid


def rotate_halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate halves of the channels against each other, in float32."""
    a, b = x.to(cos.dtype).chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)


def rotate_half(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate as transformers and most models do."""
    cos, sin = (torch.cat([t, t], -1).to(x.dtype) for t in (cos, sin))
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


def rotate_interleaved(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate neighbouring channels as complex numbers, as in Llama's code: another pairing at the same cost."""
    turned = torch.view_as_complex(x.to(cos.dtype).unflatten(-1, (-1, 2)).contiguous()) * torch.complex(cos, sin)
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)


def sdpa(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, causal: bool) -> Tensor:
    """Attend with the kernel that torch selects."""
    mask = None if valid is None else valid[:, None, None, :]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)


def rotate_then_attend(rotate: Callable[..., Tensor], causal: bool) -> Callable[..., Tensor]:
    """Return a function that rotates queries and keys, then attends."""
    return lambda q, k, v, cos, sin, valid: sdpa(rotate(q, cos, sin), rotate(k, cos, sin), v, valid, causal)


def make_check(
    *inputs: Tensor | None, causal: bool, gradients: bool, slack: float = 2.0, rotate=rotate_halves
) -> OutputCheck:
    """Return a check of output and gradients against float64.

    An error is accepted up to `slack` times that of float32 rotation followed by SDPA, or up to `CAPS` if that is more.
    """
    b = len(inputs[0])
    rows = torch.tensor(sorted({*range(min(b, ROWS)), *range(max(0, b - ROWS), b)}), device=inputs[0].device)
    rows_of_inputs = [x if x is None or len(x) == 1 else x[rows].detach() for x in inputs]
    output_gradient = draw_output_gradient(inputs[0])[rows]

    def compute(dtype: torch.dtype) -> list[Tensor]:
        q, k, v = (x.to(dtype).requires_grad_(gradients) for x in rows_of_inputs[:3])
        cos, sin = (x.to(torch.promote_types(dtype, torch.float32)) for x in rows_of_inputs[3:5])
        out = sdpa(rotate(q, cos, sin), rotate(k, cos, sin), v, rows_of_inputs[5], causal)
        return [out, *(torch.autograd.grad(out, (q, k, v), output_gradient.to(dtype)) if gradients else ())]

    expected_outputs, in_dtype = compute(torch.float64), compute(inputs[0].dtype)
    bounds = [
        max(slack * _max_error(a, b), CAPS[inputs[0].dtype]) for a, b in zip(in_dtype, expected_outputs, strict=True)
    ]

    def check(outputs: Sequence[Tensor]) -> CheckResult:
        errors = [
            _max_error(actual[rows], expected) for actual, expected in zip(outputs, expected_outputs, strict=True)
        ]
        parts = zip(("output", "gradient of q", "of k", "of v"), errors, bounds, strict=False)
        faults = [f"{part} off by {off:.1e}, at most {bound:.1e}" for part, off, bound in parts if not off <= bound]
        return CheckResult(max(errors), "; ".join(faults))

    return check


def _max_error(actual: Tensor, expected: Tensor) -> float:
    return (actual - expected).abs().max().item()


def make_sdpa_contender(backend: SDPBackend, causal: bool) -> Contender:
    """Return a contender: compiled rotation, then one fused kernel of SDPA."""

    def prepare(*given):
        rotate = torch.compile(rotate_halves, dynamic=False)

        def call(q, k, v, cos, sin, valid):
            with sdpa_kernel(backend):
                return sdpa(rotate(q, cos, sin), rotate(k, cos, sin), v, valid, causal)

        return call

    return Contender(prepare, f"rotation by torch.compile; SDPA with {backend.name}")


def make_flex_contender(causal: bool) -> Contender:
    """Return a contender: rotation and FlexAttention compiled together."""

    def prepare(q, k, v, cos, sin, valid):
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        def is_visible(b, h, i, j):
            return (i >= j) if valid is None else (valid[b, j] & (i >= j) if causal else valid[b, j])

        block = None
        if causal or valid is not None:
            block = create_block_mask(is_visible, len(q), None, q.shape[2], k.shape[2], device=q.device)

        def call(q, k, v, cos, sin, valid):
            return flex_attention(rotate_halves(q, cos, sin), rotate_halves(k, cos, sin), v, block_mask=block)

        return torch.compile(call, dynamic=False)

    return Contender(prepare, "torch.compile with the rotation; block mask made outside")


def make_flash_contender(causal: bool) -> Contender:
    """Return a contender: flash-attn's rotary kernel and attention, in its own layout."""

    def prepare(q, k, v, cos, sin, valid):
        attention, rotary = import_peer("flash_attn"), import_peer("flash_attn.layers.rotary")
        if valid is not None or len(cos) > 1 or q.dtype == torch.float32:
            raise ContenderUnavailableError(
                "flash-attn has no padding but packed rows, one table for all rows, and no float32"
            )

        def call(q, k, v, cos, sin, valid):
            q, k = (rotary.apply_rotary_emb(x.transpose(1, 2), cos[0, 0], sin[0, 0]) for x in (q, k))
            return attention.flash_attn_func(q, k, v.transpose(1, 2), causal=causal).transpose(1, 2)

        return call

    return Contender(prepare, "apply_rotary_emb, flash_attn_func")


def make_liger_contender(causal: bool) -> Contender:
    """Return a contender: Liger's rotary kernel, then SDPA."""

    def prepare(*given):
        rotate = import_peer("liger_kernel.ops.rope").LigerRopeFunction.apply

        def call(q, k, v, cos, sin, valid):
            # it rotates in place, so q and k are copied
            q, k = rotate(q.clone(), k.clone(), *(torch.cat([t, t], -1)[:, 0] for t in (cos, sin)))
            return sdpa(q, k, v, valid, causal)

        return call

    return Contender(prepare, "LigerRopeFunction on copies, then SDPA")


def make_contenders(
    shape: Attention, dtype: torch.dtype, full: bool, device: str, make_case_check: Callable[..., OutputCheck]
) -> dict[str, Contender]:
    """Return the contenders: ours first, then variants in plain torch, then other projects."""
    causal = shape.causal

    def ours(q, k, v, cos, sin, valid):
        return rope_attention(q, k, v, (cos, sin), valid=valid, causal=causal)

    table = {"tstk": make_contender(ours)}
    table |= {
        "rotate_half, eager": make_contender(
            rotate_then_attend(rotate_half, causal),
            "as in transformers: tables in the type of x",
            make_check=partial(make_case_check, slack=4.0),
        ),
        "halves, eager": make_contender(rotate_then_attend(rotate_halves, causal), "rotation in float32"),
        "complex, eager": make_contender(
            rotate_then_attend(rotate_interleaved, causal),
            "view_as_complex; another pairing",
            make_check=partial(make_case_check, rotate=rotate_interleaved),
        ),
        "rotate_half, compiled": make_compiled_contender(
            rotate_then_attend(rotate_half, causal), full, make_check=partial(make_case_check, slack=4.0)
        ),
        "halves, compiled": make_compiled_contender(
            rotate_then_attend(rotate_halves, causal), full, "rotation in float32"
        ),
    }
    if device == "cuda" or dtype == torch.float32:  # elsewhere torch is the backend that `auto` selects
        table |= {"tstk, torch backend": make_contender(use_backend("torch")(ours))}
    if device == "cuda":
        kernels = {"flash": "FLASH_ATTENTION", "efficient": "EFFICIENT_ATTENTION", "cuDNN": "CUDNN_ATTENTION"}
        table |= {
            f"halves, compiled, {name}": make_sdpa_contender(getattr(SDPBackend, k), causal)
            for name, k in kernels.items()
        }
        table |= {
            "FlexAttention": make_flex_contender(causal),
            "flash-attn": make_flash_contender(causal),
            "Liger": make_liger_contender(causal),
        }
    return table


def list_cases(full: bool, device: str) -> list[Case]:
    """Return the cases, forward, and forward with backward."""
    return expand_thread_counts(
        make_case(shape, getattr(torch, dtype), gradients, full, device)
        for shape in shapes.list_attention_shapes(full, device)
        for dtype in shapes.list_attention_dtypes(shape, full, device)
        for gradients in (False, True)
    )


def make_case(shape: Attention, dtype: torch.dtype, gradients: bool, full: bool, device: str) -> Case:
    """Return the case of one shape and dtype."""
    scores, numbers = (
        shape.batch * shape.heads * shape.tokens**2,
        shape.batch * shape.heads * shape.tokens * shape.width,
    )
    make_case_check = partial(make_check, causal=shape.causal, gradients=gradients)
    return Case(
        "rope_attention",
        shape.name,
        str(shape),
        partial(make_inputs, shape, dtype),
        make_contenders(shape, dtype, full or device == "cuda", device, make_case_check),
        make_case_check,
        why_unsupported=lambda q, k, v, cos, sin, valid: why_triton_unsupported(
            rope_attention_op, q, k, v, (cos, sin), device=device
        ),
        limit=("SDPA alone", make_contender(lambda q, k, v, cos, sin, valid: sdpa(q, k, v, None, shape.causal))),
        gradients=(0, 1, 2) if gradients else (),
        flops=scores * shape.width * (4 + 10 * gradients) / (1 + shape.causal),
        bytes=numbers * dtype.itemsize * (4 + 8 * gradients),
        dtype=str(dtype).removeprefix("torch."),
        device=device,
    )


def test_rope_attention(compare, case, name):
    """Check and time each contender."""
    compare(case, name)
