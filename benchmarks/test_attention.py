"""Attention of narrow heads and short rows on a CPU, also with dropout and padding, against torch's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import shapes
from benchmarks.harness import (
    Case,
    CheckResult,
    Contender,
    OutputCheck,
    draw_output_gradient,
    expand_thread_counts,
    make_contender,
)
from benchmarks.shapes import Attention
from tstk.kernels.attention import attend
from tstk.kernels.dispatch import use_backend

TOLERANCE = 1e-5
"""Largest error, for inputs of unit variance."""
MEAN_TOLERANCE = 0.05
"""Largest error of a mean over random draws, of probabilities whose sum is 1."""


def make_inputs(shape: Attention, seed: int, device: str) -> tuple[Tensor | None, ...]:
    """Return q, k, v as views of a packed projection, and the mask of valid keys (None: all)."""
    draw = torch.Generator(device).manual_seed(seed)
    packed = torch.randn(shape.batch, shape.tokens, 3, shape.heads, shape.width, generator=draw, device=device)
    if shape.dropout:
        packed[:, :, 2, :, 0] = 1  # the output's first channel is then the sum of the probabilities
    mask = None
    if shape.ragged:
        lengths = torch.randint(shape.tokens // 2, shape.tokens + 1, (shape.batch, 1), generator=draw, device=device)
        mask = (torch.arange(shape.tokens, device=device) < lengths)[:, None, None]
    return *packed.permute(2, 0, 3, 1, 4), mask


def attend_in_parts(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, rate: float) -> Tensor:
    """Attend as the published programs do, with all scores in memory."""
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), -torch.inf)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return F.dropout(scores.softmax(-1), rate) @ v


def make_check(*inputs: Tensor | None, causal: bool, rate: float, gradients: bool) -> OutputCheck:
    """Return a check against float64; with dropout, whose draws differ, of the mean sum of the probabilities."""
    q, k, v, mask = inputs
    leaves = [x.detach().double().requires_grad_(gradients) for x in (q, k, v)]
    out = attend_in_parts(*leaves, mask, causal, 0.0)
    expected = [out.detach()]
    if gradients:
        expected += torch.autograd.grad(out, leaves, draw_output_gradient(q).double())

    def check(outputs: Sequence[Tensor]) -> CheckResult:
        if rate:
            error = (outputs[0][..., 0].mean() - 1).abs().item()
            return CheckResult(error, "" if error <= MEAN_TOLERANCE else f"the mean probability is off by {error:.1e}")
        errors = [(a - e).abs().max().item() for a, e in zip(outputs, expected, strict=True)]
        parts = zip(("output", "gradient of q", "of k", "of v"), errors, strict=False)
        return CheckResult(max(errors), "; ".join(f"{p} off by {e:.1e}" for p, e in parts if not e <= TOLERANCE))

    return check


def make_contenders(shape: Attention) -> dict[str, Contender]:
    """Return the contenders: ours first."""
    causal, rate = shape.causal, shape.dropout

    def ours(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return attend(q, k, v, mask, causal=causal, dropout=rate)

    def fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, dropout_p=rate)

    in_parts: Callable[..., Tensor] = partial(attend_in_parts, causal=causal, rate=rate)
    return {
        "tstk": make_contender(ours),
        "SDPA": make_contender(fused, "torch's fused attention; with dropout it is not fused on a CPU"),
        "in parts": make_contender(in_parts, "as in the published programs"),
        "tstk, torch backend": make_contender(use_backend("torch")(ours)),
    }


def list_cases(full: bool, device: str) -> list[Case]:
    """Return the cases, forward, and forward with backward; on a GPU torch's attention is the only backend."""
    return expand_thread_counts(
        make_case(shape, gradients)
        for shape in (shapes.list_narrow_shapes(full) if device == "cpu" else [])
        for gradients in (False, True)
    )


def make_case(shape: Attention, gradients: bool) -> Case:
    """Return the case of one shape."""
    scores = shape.batch * shape.heads * shape.tokens**2
    return Case(
        "attention",
        shape.name,
        str(shape),
        partial(make_inputs, shape),
        make_contenders(shape),
        partial(make_check, causal=shape.causal, rate=shape.dropout, gradients=gradients),
        gradients=(0, 1, 2) if gradients else (),
        flops=scores * shape.width * (4 + 10 * gradients) / (1 + shape.causal),
        bytes=4 * shape.batch * shape.heads * shape.tokens * shape.width * (4 + 8 * gradients),
    )


def test_attention(compare, case, name):
    """Check and time each contender."""
    compare(case, name)
