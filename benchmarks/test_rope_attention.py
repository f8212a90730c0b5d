"""Rotary attention against rotating first and attending afterwards, which is what one writes without it."""

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
    Contender,
    ContenderUnavailableError,
    OutputCheck,
    Verdict,
    draw_output_gradient,
    expand_thread_counts,
    import_peer,
    make_compiled_contender,
    make_contender,
    why_triton_unsupported,
)
from benchmarks.shapes import Attention
from tstk.kernels.rope_attention import rope_attention, rope_attention_op

CAPS = {torch.float32: 3e-6, torch.float16: 2e-3, torch.bfloat16: 1.5e-2}
"""Errors that are always good enough, for inputs of unit variance."""
ROWS = 2
"""Of the batch, from either end, that the gate looks at: they do not depend on each other."""


def inputs(shape: Attention, dtype: torch.dtype, seed: int, device: str) -> tuple[Tensor | None, ...]:
    """q, k, v as a packed projection leaves them, float32 angles, and which keys are valid (None: all)."""
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


def halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Half-split rotation in float32."""
    a, b = x.to(cos.dtype).chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)


def rotate_half(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The same as transformers and most others write it."""
    cos, sin = (torch.cat([t, t], -1).to(x.dtype) for t in (cos, sin))
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


def interleaved(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Neighbouring channels as complex numbers (as Llama's own code has it): another pairing at the same cost."""
    turned = torch.view_as_complex(x.to(cos.dtype).unflatten(-1, (-1, 2)).contiguous()) * torch.complex(cos, sin)
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)


def sdpa(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, causal: bool) -> Tensor:
    """Fused attention, of whichever kernel torch picks."""
    mask = None if valid is None else valid[:, None, None, :]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)


def attend(rotate: Callable[..., Tensor], causal: bool) -> Callable[..., Tensor]:
    """Rotate, then attend."""
    return lambda q, k, v, cos, sin, valid: sdpa(rotate(q, cos, sin), rotate(k, cos, sin), v, valid, causal)


def gate(*given: Tensor | None, causal: bool, gradients: bool, slack: float = 2.0, rotate=halves) -> OutputCheck:
    """Output and gradients against float64.

    Each may be `slack` times as far off as rotation in float32 followed by SDPA is, or a cap if that is more.
    """
    b = len(given[0])
    rows = torch.tensor(sorted({*range(min(b, ROWS)), *range(max(0, b - ROWS), b)}), device=given[0].device)
    few = [x if x is None or len(x) == 1 else x[rows].detach() for x in given]
    weighed = draw_output_gradient(given[0])[rows]

    def answer(dtype: torch.dtype) -> list[Tensor]:
        q, k, v = (x.to(dtype).requires_grad_(gradients) for x in few[:3])
        cos, sin = (x.to(torch.promote_types(dtype, torch.float32)) for x in few[3:5])
        out = sdpa(rotate(q, cos, sin), rotate(k, cos, sin), v, few[5], causal)
        return [out, *(torch.autograd.grad(out, (q, k, v), weighed.to(dtype)) if gradients else ())]

    true, usual = answer(torch.float64), answer(given[0].dtype)
    bounds = [max(slack * _off(a, b), CAPS[given[0].dtype]) for a, b in zip(usual, true, strict=True)]

    def judge(answer: Sequence[Tensor]) -> Verdict:
        errors = [_off(mine[rows], best) for mine, best in zip(answer, true, strict=True)]
        parts = zip(("output", "gradient of q", "of k", "of v"), errors, bounds, strict=False)
        faults = [f"{part} off by {off:.1e}, at most {bound:.1e}" for part, off, bound in parts if not off <= bound]
        return Verdict(max(errors), "; ".join(faults))

    return judge


def _off(mine: Tensor, best: Tensor) -> float:
    return (mine - best).abs().max().item()


def forced(backend: SDPBackend, causal: bool) -> Contender:
    """Compiled rotation, and the one fused kernel that is asked for."""

    def prepare(*given):
        turn = torch.compile(halves, dynamic=False)

        def call(q, k, v, cos, sin, valid):
            with sdpa_kernel(backend):
                return sdpa(turn(q, cos, sin), turn(k, cos, sin), v, valid, causal)

        return call

    return Contender(prepare, f"rotation by torch.compile; SDPA held to {backend.name}")


def flex(causal: bool) -> Contender:
    """FlexAttention with the rotation compiled in front of it."""

    def prepare(q, k, v, cos, sin, valid):
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        def seen(b, h, i, j):
            return (i >= j) if valid is None else (valid[b, j] & (i >= j) if causal else valid[b, j])

        block = None
        if causal or valid is not None:
            block = create_block_mask(seen, len(q), None, q.shape[2], k.shape[2], device=q.device)

        def call(q, k, v, cos, sin, valid):
            return flex_attention(halves(q, cos, sin), halves(k, cos, sin), v, block_mask=block)

        return torch.compile(call, dynamic=False)

    return Contender(prepare, "torch.compile with the rotation; block mask made outside")


def flash(causal: bool) -> Contender:
    """flash-attn's rotary kernel and its attention, in the layout that it likes."""

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


def liger(causal: bool) -> Contender:
    """Liger's rotary kernel, then SDPA."""

    def prepare(*given):
        turn = import_peer("liger_kernel.ops.rope").LigerRopeFunction.apply

        def call(q, k, v, cos, sin, valid):
            # it turns in place: copies, as a projection would have made them
            q, k = turn(q.clone(), k.clone(), *(torch.cat([t, t], -1)[:, 0] for t in (cos, sin)))
            return sdpa(q, k, v, valid, causal)

        return call

    return Contender(prepare, "LigerRopeFunction on copies, then SDPA")


def contenders(
    shape: Attention, dtype: torch.dtype, full: bool, device: str, judge: Callable[..., OutputCheck]
) -> dict[str, Contender]:
    """Ours first, then torch in its ways, then other projects."""
    causal = shape.causal

    def ours(q, k, v, cos, sin, valid, **backend):
        return rope_attention(q, k, v, (cos, sin), valid=valid, causal=causal, **backend)

    def pairs(q, k, v, cos, sin, valid):
        return ours(*(torch.view_as_complex(x.unflatten(-1, (-1, 2))) for x in (q, k)), v, cos, sin, valid)

    table = {"tstk": make_contender(ours)}
    if device == "cpu" and dtype == torch.float32:
        table["tstk, pairs"] = make_contender(
            pairs, "complex pairs, as tstk.nn.Attention makes them", make_check=partial(judge, rotate=interleaved)
        )
    table |= {
        "rotate_half, eager": make_contender(
            attend(rotate_half, causal),
            "as in transformers: tables in the type of x",
            make_check=partial(judge, slack=4.0),
        ),
        "halves, eager": make_contender(attend(halves, causal), "rotation in float32"),
        "complex, eager": make_contender(
            attend(interleaved, causal),
            "view_as_complex; another pairing",
            make_check=partial(judge, rotate=interleaved),
        ),
        "rotate_half, compiled": make_compiled_contender(
            attend(rotate_half, causal), full, make_check=partial(judge, slack=4.0)
        ),
        "halves, compiled": make_compiled_contender(attend(halves, causal), full, "rotation in float32"),
    }
    if device == "cuda":
        kernels = {"flash": "FLASH_ATTENTION", "efficient": "EFFICIENT_ATTENTION", "cuDNN": "CUDNN_ATTENTION"}
        table |= {f"halves, compiled, {name}": forced(getattr(SDPBackend, k), causal) for name, k in kernels.items()}
        table |= {"tstk, torch backend": make_contender(partial(ours, backend="torch"))}
        table |= {"FlexAttention": flex(causal), "flash-attn": flash(causal), "Liger": liger(causal)}
    return table


def cases(full: bool, device: str) -> list[Case]:
    """Forward, and forward with backward."""
    return expand_thread_counts(
        case(shape, getattr(torch, dtype), gradients, full, device)
        for shape in shapes.list_attention_shapes(full, device)
        for dtype in shapes.list_attention_dtypes(shape, full, device)
        for gradients in (False, True)
    )


def case(shape: Attention, dtype: torch.dtype, gradients: bool, full: bool, device: str) -> Case:
    """One shape in one type."""
    scores, numbers = (
        shape.batch * shape.heads * shape.tokens**2,
        shape.batch * shape.heads * shape.tokens * shape.width,
    )
    judge = partial(gate, causal=shape.causal, gradients=gradients)
    return Case(
        "rope_attention",
        shape.name,
        str(shape),
        partial(inputs, shape, dtype),
        contenders(shape, dtype, full or device == "cuda", device, judge),
        judge,
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


def test_rope_attention(duel, case, name):
    """Gate, time, and show beside the others."""
    duel(case, name)
