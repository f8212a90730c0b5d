"""Convolutions of the VQ-VAE on a CPU, plain and transposed, against torch's."""

from __future__ import annotations

from collections.abc import Sequence
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
from benchmarks.shapes import Convolution
from tstk.kernels import convolve, use_backend

TOLERANCE = 1e-5
"""Largest error, as a fraction of the largest number."""


def make_inputs(shape: Convolution, seed: int, device: str) -> tuple[Tensor, ...]:
    """Return samples of unit variance, weights for outputs of unit variance, and a bias."""
    draw = torch.Generator(device).manual_seed(seed)
    x = torch.randn(shape.batch, shape.samples, shape.channels, generator=draw, device=device)
    sizes = (shape.channels, shape.outputs) if shape.transposed else (shape.outputs, shape.channels)
    weight = torch.randn(*sizes, shape.size, generator=draw, device=device)
    return x, weight * (shape.channels * shape.size) ** -0.5, torch.randn(shape.outputs, generator=draw, device=device)


def make_check(*inputs: Tensor, shape: Convolution, gradients: bool) -> OutputCheck:
    """Return a check against float64."""
    leaves = [x.detach().double().requires_grad_(gradients) for x in inputs]
    options = {"stride": shape.stride, "padding": 1, "transposed": shape.transposed}
    out = convolve(*leaves, backend="reference", **options)
    expected = [out.detach()]
    if gradients:
        expected += torch.autograd.grad(out, leaves, draw_output_gradient(out.float()).double())

    def check(outputs: Sequence[Tensor]) -> CheckResult:
        errors = [float((a - e).abs().max() / e.abs().max()) for a, e in zip(outputs, expected, strict=True)]
        parts = zip(("output", "gradient of x", "of the weight", "of the bias"), errors, strict=False)
        return CheckResult(max(errors), "; ".join(f"{p} off by {e:.1e}" for p, e in parts if not e <= TOLERANCE))

    return check


def make_contenders(shape: Convolution) -> dict[str, Contender]:
    """Return the contenders: ours first."""
    options = {"stride": shape.stride, "padding": 1, "transposed": shape.transposed}
    apply = F.conv_transpose1d if shape.transposed else F.conv1d

    def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return convolve(x, weight, bias, **options)

    def transposed(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return apply(x.transpose(1, 2), weight, bias, shape.stride, 1).transpose(1, 2)

    torch_backend = use_backend("torch")(ours)
    return {
        "tstk": make_contender(ours),
        "tstk, torch backend": make_contender(torch_backend, "conv2d with channels last, torch's fastest layout"),
        "conv1d": make_contender(transposed, "torch's conv1d or conv_transpose1d of the transposed samples"),
    }


def list_cases(full: bool, device: str) -> list[Case]:
    """Return the cases, forward, and forward with backward; on a GPU torch's convolution is the only backend."""
    return expand_thread_counts(
        make_case(shape, gradients)
        for shape in (shapes.list_convolution_shapes(full) if device == "cpu" else [])
        for gradients in (False, True)
    )


def make_case(shape: Convolution, gradients: bool) -> Case:
    """Return the case of one shape."""
    products = shape.batch * shape.count * shape.channels * shape.outputs * shape.size
    return Case(
        "convolution",
        shape.name,
        str(shape),
        partial(make_inputs, shape),
        make_contenders(shape),
        partial(make_check, shape=shape, gradients=gradients),
        gradients=(0, 1, 2) if gradients else (),
        flops=2 * products * (1 + 2 * gradients),
        bytes=4 * shape.batch * shape.samples * (shape.channels + shape.outputs) * (1 + 2 * gradients),
    )


def test_convolution(compare, case, name):
    """Check and time each contender."""
    compare(case, name)
