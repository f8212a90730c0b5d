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
from tstk.kernels.nearest_code import assignment_entropy, quantize, soft_assignment_op

TAU, GAMMA, ENTROPY, COMMIT, FLOOR = 0.01, 1.0, 0.1, 0.25, 1e-5
"""Temperature; weights of the second entropy, of both, and of the commitment; floor of the published logarithm."""
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
    return -(p * p.clamp(min=FLOOR).log()).sum(-1)


def quantize_as_published(z: Tensor, codes: Tensor) -> Tensor:
    """Return the loss as published, which materializes every N x K matrix."""
    distance = z.square().sum(1, keepdim=True) + codes.square().sum(1) - 2 * z @ codes.T
    quantized = codes[distance.argmin(1)]
    p = torch.softmax(-distance / TAU, -1)
    spread = compute_entropy(p).mean() - GAMMA * compute_entropy(p.mean(0))
    return compute_loss(z, quantized, z + (quantized - z).detach(), spread)


def compute_loss(z: Tensor, quantized: Tensor, straight: Tensor, spread: Tensor) -> Tensor:
    """Return the loss of the quantizer plus a scalar that depends on the straight-through output."""
    near = (quantized.detach() - z).square().mean() + COMMIT * (quantized - z.detach()).square().mean()
    return near + ENTROPY * spread + (straight * draw_output_gradient(z)).mean()


def quantize_fused(z: Tensor, codes: Tensor) -> Tensor:
    """Return the same loss without materializing an N x K matrix."""
    straight, _, quantized = quantize(z, codes)
    each, of_mean = assignment_entropy(z, codes, temperature=TAU, log_floor=FLOOR)
    return compute_loss(z, quantized, straight, each - GAMMA * of_mean)


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
            why_unsupported=lambda z, codes: why_triton_unsupported(soft_assignment_op, z, codes, None, device=device),
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
