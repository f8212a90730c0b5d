"""One-dimensional convolutions, plain and transposed, of samples whose channels are next to each other in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

# By name: the module beside this one takes the name `torch` in this package.
from torch import Tensor, float32

from tstk.kernels.dispatch import Backend, Operation
from tstk.kernels.eager import runs_eagerly

if TYPE_CHECKING:
    from tstk.kernels.cpp import Library


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    padding: int = 0,
    transposed: bool = False,
    relu: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Convolve [B, L, C] to [B, (L + 2 padding - K) // stride + 1, D], as `torch.nn.functional.conv1d`.

    The transposed convolution, as `conv_transpose1d`, has the outputs [B, (L - 1) stride + K - 2 padding, D].

    Args:
        x: samples
        weight: [D, C, K], or [C, D, K] if transposed
        bias: [D]
        stride: samples from one output to the next; if transposed, outputs from one sample to the next
        padding: zeros on both sides; if transposed, outputs to leave out on both sides
        transposed: whether the convolution is transposed
        relu: apply ReLU to the outputs
        backend: cpp, torch or reference; the first that supports the call if None

    Raises:
        ValueError: shapes do not match, or there would be no output
        IncompatibleError: `backend` does not support this call
    """
    channels = weight.shape[0 if transposed else 1]
    if x.ndim != 3 or weight.ndim != 3 or x.shape[-1] != channels:
        kind = "[C, D, K]" if transposed else "[D, C, K]"
        raise ValueError(f"convolve: x {list(x.shape)}, weight {list(weight.shape)}; expected [B, L, C] and {kind}")
    samples, size = x.shape[1], weight.shape[2]
    if (samples - 1) * stride + size - 2 * padding < 1 if transposed else samples + 2 * padding < size:
        raise ValueError(f"convolve: no output of {samples} samples with a kernel of {size} and a padding of {padding}")
    options = {"stride": stride, "padding": padding, "transposed": transposed, "relu": relu}
    y: Tensor = convolution_op(x, weight, bias, backend=backend, **options)
    return y


MAX_LANES = 16
"""Numbers in the longest vector register, of which the kernel in C++ takes multiples as channels."""
MIN_CPP_PRODUCTS, MIN_CPP_OUTPUTS, MIN_CPP_CHANNELS = 1 << 24, 8, 32
"""Products of a call, outputs of a series, and channels, from which on the kernel in C++ is selected.

Smaller calls use torch even if the kernel has been compiled: rounding must not depend on that.
"""


def _why_cpp_unsupported(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, stride: int, padding: int, **options: object
) -> str:
    if not runs_eagerly(x, weight):
        return "a compiler or transform of torch cannot trace it, autocast changes dtypes, or the tensors are on a GPU"
    if not x.dtype == weight.dtype == float32:
        return f"it takes float32 throughout, not {x.dtype}, {weight.dtype}"
    if weight.shape[0] % MAX_LANES or weight.shape[1] % MAX_LANES or not x.numel():
        return f"it takes multiples of {MAX_LANES} channels"
    if weight.shape[2] not in (2 * stride, 3 * stride):
        return "it takes kernels two or three times as long as the stride"
    if not 0 <= padding < weight.shape[2]:
        return "it takes a padding smaller than the kernel"
    return _why_cpp_unavailable()


def _why_cpp_unavailable() -> str:
    return _get_library().why_unavailable()


def _get_library() -> Library:
    from tstk.kernels.convolution.cpp import LIBRARY

    return LIBRARY


def _why_cpp_not_automatic(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, stride: int, transposed: bool, **options: object
) -> str:
    samples = x.shape[1] if transposed else x.shape[1] // stride
    if min(weight.shape[:2]) < MIN_CPP_CHANNELS or samples < MIN_CPP_OUTPUTS:
        return f"it is selected from {MIN_CPP_CHANNELS} channels and {MIN_CPP_OUTPUTS} outputs of a series on"
    if x.shape[0] * samples * weight.numel() < MIN_CPP_PRODUCTS:
        return f"it is selected from {MIN_CPP_PRODUCTS} products on"
    return _get_library().why_not_loaded()


_HERE = "tstk.kernels.convolution"
convolution_op = Operation(
    "convolution",
    Backend(
        "cpp",
        f"{_HERE}.cpp:convolve",
        _why_cpp_unsupported,
        _why_cpp_unavailable,
        why_not_automatic=_why_cpp_not_automatic,
        get_library=_get_library,
    ),
    Backend("torch", f"{_HERE}.torch:convolve"),
    Backend("reference", f"{_HERE}.reference:convolve"),
)
