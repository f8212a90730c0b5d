"""VQShape's quantiser, forward and backward: search, both commitment terms, and the entropy of soft assignments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from benchmarks import shapes
from benchmarks.harness import (
    Case,
    Contender,
    ContenderUnavailableError,
    OutputCheck,
    Verdict,
    draw_output_gradient,
    expand_thread_counts,
    make_compiled_contender,
    make_contender,
    why_triton_unsupported,
)
from benchmarks.shapes import Codes
from tstk.kernels.nearest_code import assignment_entropy, quantize, soft_assignment_op

TAU, GAMMA, ENTROPY, COMMIT, FLOOR = 0.01, 1.0, 0.1, 0.25, 1e-5
"""Temperature, weight of the second entropy, of both, of the codebook's term; where the published logarithm is cut."""
TOLERANCE = 1e-4
"""Relative, of the loss and (in norm) of the gradients."""


def inputs(shape: Codes, seed: int, device: str) -> tuple[Tensor, Tensor]:
    """Rows close to codes, as late in training: most soft assignments are tiny."""
    draw = torch.Generator(device).manual_seed(seed)
    codes = torch.randn(shape.codes, shape.width, generator=draw, device=device) * 0.3
    rows = codes[torch.randint(shape.codes, (shape.rows,), generator=draw, device=device)]
    rows = rows + 0.05 * torch.randn(shape.rows, shape.width, generator=draw, device=device)
    return rows, codes


def entropy(p: Tensor) -> Tensor:
    """As published, with the logarithm cut."""
    return -(p * p.clamp(min=FLOOR).log()).sum(-1)


def published(z: Tensor, codes: Tensor) -> Tensor:
    """Every N x K matrix is made. Returns the loss, and the straight-through output as part of it."""
    distance = z.square().sum(1, keepdim=True) + codes.square().sum(1) - 2 * z @ codes.T
    quantized = codes[distance.argmin(1)]
    p = torch.softmax(-distance / TAU, -1)
    spread = entropy(p).mean() - GAMMA * entropy(p.mean(0))
    return total(z, quantized, z + (quantized - z).detach(), spread)


def total(z: Tensor, quantized: Tensor, straight: Tensor, spread: Tensor) -> Tensor:
    """What is differentiated: the quantiser's loss, and something that the straight-through output leads to."""
    near = (quantized.detach() - z).square().mean() + COMMIT * (quantized - z.detach()).square().mean()
    return near + ENTROPY * spread + (straight * draw_output_gradient(z)).mean()


def ours(z: Tensor, codes: Tensor) -> Tensor:
    """The same without an N x K matrix."""
    straight, _, quantized = quantize(z, codes)
    each, of_mean = assignment_entropy(z, codes, temperature=TAU, log_floor=FLOOR)
    return total(z, quantized, straight, each - GAMMA * of_mean)


def gate(z: Tensor, codes: Tensor) -> OutputCheck:
    """The loss and both gradients against the published form in float64."""
    leaves = [x.detach().double().requires_grad_() for x in (z, codes)]
    loss = published(*leaves)
    true = [loss.detach(), *torch.autograd.grad(loss, leaves, draw_output_gradient(loss))]

    def judge(answer: Sequence[Tensor]) -> Verdict:
        pairs = zip(("loss", "gradient of z", "gradient of the codes"), answer, true, strict=True)
        errors = {part: ((mine - best).norm() / best.norm()).item() for part, mine, best in pairs}
        faults = [f"{part} off by {error:.1e}" for part, error in errors.items() if not error <= TOLERANCE]
        return Verdict(max(errors.values()), "; ".join(faults))

    return judge


def flushed(contender: Contender) -> Contender:
    """The same with denormals flushed to zero, which changes results elsewhere in the process too."""

    def prepare(*given: Tensor) -> Callable[..., Tensor]:
        if torch.get_num_threads() > 1:
            raise ContenderUnavailableError("the flag is of one thread; others keep the one they were started with")
        call = contender.prepare(*given)

        def with_flag(*given: Tensor) -> Tensor:
            torch.set_flush_denormal(True)
            try:
                return call(*given)
            finally:
                torch.set_flush_denormal(False)

        return with_flag

    return replace(
        contender, prepare=prepare, setting=f"{contender.setting}; torch.set_flush_denormal(True)".lstrip("; ")
    )


def cases(full: bool, device: str) -> list[Case]:
    """Forward with backward; nobody needs the one without the other."""
    eager, fused = (
        make_contender(published, "as published"),
        make_compiled_contender(published, full or device == "cuda", "as published"),
    )
    table = {"tstk": make_contender(ours), "eager": eager, "compiled": fused}
    if device == "cpu":
        table |= {"eager, flushed": flushed(eager), "compiled, flushed": flushed(fused)}
    return expand_thread_counts(
        Case(
            "quantizer_step",
            shape.name,
            str(shape),
            partial(inputs, shape),
            table,
            gate,
            limit=("the product alone", make_contender(lambda z, codes: z @ codes.T)),
            why_unsupported=lambda z, codes: why_triton_unsupported(soft_assignment_op, z, codes, None, device=device),
            gradients=(0, 1),
            flops=6 * shape.rows * shape.codes * shape.width,
            bytes=4 * 3 * (shape.rows + shape.codes) * shape.width,
            device=device,
        )
        for shape in shapes.list_step_shapes(full, device)
    )


def test_quantizer_step(duel, case, name):
    """Gate, time, and show beside the others."""
    duel(case, name)
