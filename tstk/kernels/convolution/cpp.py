"""C++ backend for AVX2 and AVX-512: minimal filtering (Winograd), half to two thirds of the products (`winograd.cpp`).

Outputs agree with torch's up to rounding, and the rounding of an output depends on some samples around those that it
covers: up to three more on either side.
"""

from __future__ import annotations

from ctypes import Array, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tstk.kernels.convolution import convolution_op
from tstk.kernels.cpp import Library
from tstk.kernels.eager import is_traced
from tstk.kernels.threads import map_row_slices

_SERIES = (c_void_p, c_void_p, c_void_p)
"""Types of samples, of the outputs of ReLU that gate them, and of their layout."""
LIBRARY = Library(
    Path(__file__).with_name("winograd.cpp"),
    {
        "scratch_size": (c_int64, (c_int64, c_int64)),
        "convolve": (
            None,
            (c_int64, *_SERIES, c_void_p, c_void_p, c_int64, c_void_p, c_void_p, *(c_int64,) * 3, c_void_p),
        ),
        "find_weight_gradient": (None, (c_int64, *_SERIES, *_SERIES, *(c_int64,) * 3, c_void_p, c_void_p)),
        "add_samples": (None, (*_SERIES, c_int64, c_int64, c_void_p, c_void_p)),
    },
)


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, stride: int, padding: int, transposed: bool, relu: bool
) -> Tensor:
    """See `tstk.kernels.convolution`."""
    y: Tensor = _Convolution.apply(x, weight, bias, _Call(stride, padding, transposed, relu))
    return y


class _Call(NamedTuple):
    """Options of a call."""

    stride: int
    padding: int
    transposed: bool
    relu: bool


class _Samples(NamedTuple):
    """Samples [B, L, C] whose channels are adjacent, as rows of `group` samples that begin `pad` before the first.

    Where `gate`, of the same shape, is not positive, the samples count as 0.
    """

    x: Tensor
    group: int
    pad: int
    gate: Tensor | None = None

    @property
    def width(self) -> int:
        return self.group * self.x.shape[2]

    @property
    def pointers(self) -> tuple[int, int, Array[c_int64]]:
        _, samples, channels = self.x.shape
        layout = (c_int64 * 4)(samples, channels, self.group, self.pad)
        return self.x.data_ptr(), 0 if self.gate is None else self.gate.data_ptr(), layout


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, call: _Call) -> Tensor:
        x, size = _make_readable(x), weight.shape[-1]
        b, samples, _ = x.shape
        if call.transposed:
            y = x.new_empty(b, (samples - 1) * call.stride + size - 2 * call.padding, weight.shape[1])
            _spread(_Samples(x, 1, 0), weight, bias, y, call)
        else:
            y = x.new_empty(b, (samples + 2 * call.padding - size) // call.stride + 1, weight.shape[0])
            _gather(_Samples(x, call.stride, call.padding), weight, bias, y, call)
        ctx.save_for_backward(x, weight, bias, y if call.relu else None)
        ctx.call = call
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled() or is_traced(grad):  # the gradient will be differentiated in turn, or is one of many
            return *_differentiate(ctx, grad), None
        x, weight, _, y = ctx.saved_tensors
        call, (needs_x, needs_weight, needs_bias, _) = ctx.call, ctx.needs_input_grad
        x, grad, gate = _make_readable(x), _make_readable(grad), None if y is None else _make_readable(y)
        x_grad = torch.empty_like(x) if needs_x else None
        if call.transposed:
            rows, gradients = _Samples(grad, call.stride, call.padding, gate), _Samples(x, 1, 0)
            if x_grad is not None:
                _gather(rows, weight, None, x_grad, call._replace(relu=False))
        else:
            rows, gradients = _Samples(x, call.stride, call.padding), _Samples(grad, 1, 0, gate)
            if x_grad is not None:
                _spread(gradients, weight, None, x_grad, call._replace(relu=False))
        weight_grad = _find_weight_gradient(rows, gradients, weight) if needs_weight else None
        bias_grad = _add_samples(_Samples(grad, 1, 0, gate)) if needs_bias else None
        return x_grad, weight_grad, bias_grad, None


def _make_readable(x: Tensor) -> Tensor:
    return x.resolve_neg().contiguous()


def _gather(rows: _Samples, weight: Tensor, bias: Tensor | None, y: Tensor, call: _Call) -> None:
    """Convolve rows of `stride` samples to y [B, M, D] with weights [D, C, K]."""
    taps = weight.shape[2] // call.stride
    _run(rows, weight.unflatten(2, (taps, -1)).permute(2, 3, 1, 0), bias, _Samples(y, 1, 0), y.shape[1], call)


def _spread(samples: _Samples, weight: Tensor, bias: Tensor | None, y: Tensor, call: _Call) -> None:
    """Convolve samples to rows of `stride` samples of y [B, M, D] with weights [C, D, K], the transposed of `_gather`.

    Row i of y begins `call.padding` samples earlier than the i-th group, and is the sum of the products of samples i,
    i - 1 and so on. Of these rows, those that lie in the padding are left out.
    """
    stride, taps = call.stride, weight.shape[2] // call.stride
    hidden, pad = divmod(call.padding, stride)
    weight = weight.unflatten(2, (taps, -1)).flip(2).permute(2, 0, 3, 1)
    count = -(-(y.shape[1] + pad) // stride)
    bias = bias if bias is None else bias.repeat(stride)
    _run(samples._replace(pad=taps - 1 - hidden), weight, bias, _Samples(y, stride, pad), count, call)


def _run(rows: _Samples, weight: Tensor, bias: Tensor | None, out: _Samples, count: int, call: _Call) -> None:
    """Convolve rows to `count` rows of `out` for each series with weights [taps, ...] of a row to a row."""
    taps, library = len(weight), LIBRARY.load()
    maps = _map_weights(*weight.reshape(taps, -1))
    bias = bias if bias is None else bias.float().contiguous()
    x, y, size = rows.pointers, out.pointers, library.scratch_size(rows.width, out.width)
    bias_pointer, b = 0 if bias is None else bias.data_ptr(), len(rows.x)

    def compute(series: slice) -> None:
        scratch = maps.new_empty(size)
        arguments = (maps.data_ptr(), bias_pointer, call.relu, y[0], y[2], count, series.start, series.stop)
        library.convolve(taps, *x, *arguments, scratch.data_ptr())

    map_row_slices(compute, b, b * count * rows.width * out.width, maps.device)


def _find_weight_gradient(rows: _Samples, gradients: _Samples, weight: Tensor) -> Tensor:
    """Return the gradient of weights [D, C, K] of `_gather`, of rows and gradients of its outputs."""
    stride, library, b, count = rows.group, LIBRARY.load(), len(rows.x), gradients.x.shape[1]
    weight_map = _get_weight_map(weight.shape[2] // stride)
    points, taps = weight_map.shape
    size = library.scratch_size(rows.width, gradients.width)
    x, g = rows.pointers, gradients.pointers

    def compute(series: slice) -> Tensor:
        total, scratch = weight_map.new_empty(points, rows.width * gradients.width), weight_map.new_empty(size)
        library.find_weight_gradient(
            taps, *x, *g, count, series.start, series.stop, total.data_ptr(), scratch.data_ptr()
        )
        return total

    parts = map_row_slices(compute, b, b * count * rows.width * gradients.width, weight.device)
    total = weight_map.T @ (parts[0] if len(parts) == 1 else torch.stack(parts).sum(0))
    return total.view(taps, stride, *weight.shape[1::-1]).permute(3, 2, 0, 1).reshape(weight.shape)


def _add_samples(samples: _Samples) -> Tensor:
    """Return the sums [C] of the samples."""
    library, (b, _, channels) = LIBRARY.load(), samples.x.shape
    x = samples.pointers

    def compute(series: slice) -> Tensor:
        total, buffer = samples.x.new_empty(2, channels)
        library.add_samples(*x, series.start, series.stop, total.data_ptr(), buffer.data_ptr())
        return total

    parts = map_row_slices(compute, b, samples.x.numel(), samples.x.device)
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)


_LOW, _HIGH = 0.5**0.5, 2**0.5
"""Points of F(4, 3), as in `winograd.cpp`."""


def _map_weights(*taps: Tensor) -> Tensor:
    """Map the taps of a kernel to the weights [points, ...] of its tiles.

    Number by number: matrix products round in a way that depends on the number of threads.
    """
    first, second, last = taps[0], taps[1], taps[-1]
    if len(taps) == 2:
        return torch.stack([first, (first + second) / 2, (first - second) / 2, second])
    low, odd_low = (first + last / 2) / -1.5, second * (_LOW / -1.5)
    high, odd_high = (first + 2 * last) / 6, second * (_HIGH / 6)
    return torch.stack([first, low + odd_low, low - odd_low, high + odd_high, high - odd_high, last])


@cache
def _get_weight_map(taps: int) -> Tensor:
    """Return the matrix [points, taps] of `_map_weights`."""
    return _map_weights(*torch.eye(taps, dtype=torch.float32, device="cpu"))


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Compute the gradients by operations of torch."""
    inputs, call = ctx.saved_tensors[:3], ctx.call
    with torch.enable_grad():
        y = convolution_op(*inputs, backend="torch", **call._asdict())
    needed = [t for t, is_needed in zip(inputs, ctx.needs_input_grad, strict=False) if is_needed]
    found = iter(torch.autograd.grad(y, needed, grad, create_graph=torch.is_grad_enabled()))
    return tuple(next(found) if is_needed else None for is_needed in ctx.needs_input_grad[:3])
