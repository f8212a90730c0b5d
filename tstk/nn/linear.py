"""Linear layers that use oneDNN where torch would use a slower library.

torch multiplies float32 matrices with MKL, which uses AVX2 only on processors that are not Intel's. oneDNN, which torch
contains as well and uses for convolutions, has AVX-512 kernels for all processors, twice as fast. The results agree up
to rounding.
"""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tstk.kernels.eager import runs_eagerly

MIN_PRODUCTS = 1 << 18
"""From this many products of numbers on, oneDNN's overhead of some microseconds per call pays."""


class Linear(nn.Linear):
    """A linear layer as torch's, with the same parameters and initial values, computed by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., in_features] to [..., out_features]."""
        return linear(x, self.weight, self.bias)


def is_plain(layer: nn.Module) -> bool:
    """Return whether a layer computes `linear` of its weight and bias, and nothing else.

    A layer that was replaced (LoRA), patched or hooked, or whose weight is not a plain tensor (quantized, distributed),
    must be called.
    """
    return (
        type(layer) is Linear
        and type(layer.weight) in (Tensor, nn.Parameter)
        and not (layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks)
        and "forward" not in layer.__dict__
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute x @ weight.T + bias, as `torch.nn.functional.linear`, in float32 on a CPU with the faster library.

    Args:
        x: [..., in_features]
        weight: [out_features, in_features]
        bias: [out_features]
    """
    if not (runs_eagerly(x, weight) and _is_onednn_faster(x, weight, bias)):
        return F.linear(x, weight, bias)
    y: Tensor = _OneDNNLinear.apply(x, weight, bias)
    return y


def _is_onednn_faster(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    return (
        x.dtype == weight.dtype == torch.float32
        and x.numel() * weight.shape[0] >= MIN_PRODUCTS
        and x.shape[-1] == weight.shape[1]
        and (bias is None or (bias.dtype == torch.float32 and bias.shape == weight.shape[:1]))
        and _has_slow_mkl()
    )


@cache
def _has_slow_mkl() -> bool:
    """Whether MKL uses half of the vector width that oneDNN does on this processor."""
    path = Path("/proc/cpuinfo")
    processor = path.read_text(encoding="utf-8", errors="replace") if path.exists() else platform.processor()
    return (
        "AuthenticAMD" in processor
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def _multiply(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return a @ b.T + bias of matrices with any strides."""
    bias = None if bias is None else bias.contiguous()  # of another one, oneDNN would read wrong numbers
    y: Tensor = torch.ops.mkldnn._linear_pointwise(a.contiguous(), _close_gaps(b), bias, "none", [], "")
    return y


def _close_gaps(matrix: Tensor) -> Tensor:
    """Copy a matrix unless its rows, or its columns, follow each other in memory.

    If they overlap, as the windows of a series do, oneDNN refuses the matrix as a weight; if there are gaps, such as
    between the first tokens of series, its multiplication takes fifty times as long.
    """
    return matrix if matrix.is_contiguous() or matrix.t().is_contiguous() else matrix.contiguous()


class _OneDNNLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        rows = x.reshape(-1, x.shape[-1])
        # not `view`, so that in-place operations are allowed on the output
        y: Tensor = torch.ops.aten._unsafe_view(_multiply(rows, weight, bias), [*x.shape[:-1], weight.shape[0]])
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad, rows = grad.reshape(-1, grad.shape[-1]).contiguous(), x.reshape(-1, x.shape[-1])
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            _compute_input_gradient(grad, weight).view(x.shape) if needs_x else None,
            _compute_weight_gradient(grad, rows) if needs_weight else None,
            grad.sum(0) if needs_bias else None,
        )


def _compute_input_gradient(grad: Tensor, weight: Tensor) -> Tensor:
    if torch.is_grad_enabled():  # the gradient will be differentiated in turn
        return grad @ weight
    return _multiply(grad, weight.t())


def _compute_weight_gradient(grad: Tensor, rows: Tensor) -> Tensor:
    """Return grad.T @ rows, computed as the transpose of rows.T @ grad if that has fewer rows, which is faster."""
    if torch.is_grad_enabled():
        return grad.t() @ rows
    if grad.shape[1] > rows.shape[1]:
        return _multiply(rows.t(), grad.t()).t()
    return _multiply(grad.t(), rows.t())
