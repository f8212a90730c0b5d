"""VQShape's quantizer, forward and backward: search, both commitment losses, and the entropy of soft assignments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from benchmarks import shapes
from benchmarks.harness import (
    Case,
    CheckResult,
    Contender,
    ContenderUnavailableError,
    OutputCheck,
    draw_output_gradient,
    expand_thread_counts,
    make_compiled_contender,
    make_contender,
    why_triton_unsupported,
)
from benchmarks.shapes import Codes
from tstk.kernels.vector_quantize import LossOptions, vector_quantize, vector_quantize_op

OPTIONS = LossOptions(commitment=1.0, codebook=0.25, entropy=0.1, gamma=1.0, temperature=0.01, log_floor=1e-5)
"""The weights, the temperature, and the floor of the published logarithm."""
TOLERANCE = 1e-4
"""Largest relative error of the loss, and of the gradients in norm."""


def make_inputs(shape: Codes, seed: int, device: str) -> tuple[Tensor, Tensor]:
    """Return rows close to the codes, as late in training, when most soft assignments are tiny; and the codes."""
    draw = torch.Generator(device).manual_seed(seed)
    codes = torch.randn(shape.codes, shape.width, generator=draw, device=device) * 0.3
    rows = codes[torch.randint(shape.codes, (shape.rows,), generator=draw, device=device)]
    rows = rows + 0.05 * torch.randn(shape.rows, shape.width, generator=draw, device=device)
    return rows, codes


def compute_entropy(p: Tensor) -> Tensor:
    """Return the entropy as published, with a floor in the logarithm."""
    return -(p * p.clamp(min=OPTIONS.log_floor).log()).sum(-1)


def quantize_as_published(z: Tensor, codes: Tensor) -> Tensor:
    """Return the loss as published, which materializes every N x K matrix."""
    distance = z.square().sum(1, keepdim=True) + codes.square().sum(1) - 2 * z @ codes.T
    quantized = codes[distance.argmin(1)]
    p = torch.softmax(-distance / OPTIONS.temperature, -1)
    commitment = OPTIONS.commitment * (quantized.detach() - z).square().mean()
    codebook = OPTIONS.codebook * (quantized - z.detach()).square().mean()
    entropy = OPTIONS.entropy * (compute_entropy(p).mean() - OPTIONS.gamma * compute_entropy(p.mean(0)))
    return commitment + codebook + entropy + use_values(z + (quantized - z).detach())


def use_values(values: Tensor) -> Tensor:
    """Return a scalar that depends on the straight-through output."""
    return (values * draw_output_gradient(values)).mean()


def quantize_fused(z: Tensor, codes: Tensor) -> Tensor:
    """Return the same loss without materializing an N x K matrix."""
    out = vector_quantize(z, codes, OPTIONS)
    return out.commitment + out.codebook + out.entropy + use_values(out.values)


def make_check(z: Tensor, codes: Tensor) -> OutputCheck:
    """Return a check of the loss and both gradients against the published form in float64."""
    leaves = [x.detach().double().requires_grad_() for x in (z, codes)]
    loss = quantize_as_published(*leaves)
    true = [loss.detach(), *torch.autograd.grad(loss, leaves, draw_output_gradient(loss))]

    def check(outputs: Sequence[Tensor]) -> CheckResult:
        pairs = zip(("loss", "gradient of z", "gradient of the codes"), outputs, true, strict=True)
        errors = {part: ((actual - expected).norm() / expected.norm()).item() for part, actual, expected in pairs}
        faults = [f"{part} off by {error:.1e}" for part, error in errors.items() if not error <= TOLERANCE]
        return CheckResult(max(errors.values()), "; ".join(faults))

    return check


def flush_denormals(contender: Contender) -> Contender:
    """Return the contender with denormals flushed to zero during its calls."""

    def prepare(*inputs: Tensor) -> Callable[..., Tensor]:
        if torch.get_num_threads() > 1:
            raise ContenderUnavailableError("the flag applies to one thread; running threads keep theirs")
        call = contender.prepare(*inputs)

        def with_flag(*inputs: Tensor) -> Tensor:
            torch.set_flush_denormal(True)
            try:
                return call(*inputs)
            finally:
                torch.set_flush_denormal(False)

        return with_flag

    return replace(
        contender, prepare=prepare, setting=f"{contender.setting}; torch.set_flush_denormal(True)".lstrip("; ")
    )


def list_cases(full: bool, device: str) -> list[Case]:
    """Return the cases, all forward and backward."""
    eager, fused = (
        make_contender(quantize_as_published, "as published"),
        make_compiled_contender(quantize_as_published, full or device == "cuda", "as published"),
    )
    table = {"tstk": make_contender(quantize_fused), "eager": eager, "compiled": fused}
    if device == "cpu":
        table |= {"eager, flushed": flush_denormals(eager), "compiled, flushed": flush_denormals(fused)}
    return expand_thread_counts(
        Case(
            "quantizer_step",
            shape.name,
            str(shape),
            partial(make_inputs, shape),
            table,
            make_check,
            limit=("the product alone", make_contender(lambda z, codes: z @ codes.T)),
            why_unsupported=lambda z, codes: why_triton_unsupported(
                vector_quantize_op, z, codes, None, OPTIONS, device=device
            ),
            gradients=(0, 1),
            flops=6 * shape.rows * shape.codes * shape.width,
            bytes=4 * 3 * (shape.rows + shape.codes) * shape.width,
            device=device,
        )
        for shape in shapes.list_step_shapes(full, device)
    )


def test_quantizer_step(compare, case, name):
    """Check and time each contender."""
    compare(case, name)
