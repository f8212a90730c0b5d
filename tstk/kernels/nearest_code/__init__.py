"""Search of the nearest code of each vector, and statistics per code; no N x K matrix is held in memory."""

# Once loaded, the module `torch.py` of this package takes the name `torch`, hence no `import torch` here.
from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, bfloat16, float16, float32

from tstk.kernels.dispatch import Backend, Operation, is_triton_interpreted, why_triton_unavailable
from tstk.kernels.eager import is_traced
from tstk.kernels.nearest_code.duplicates import map_to_first_duplicate
from tstk.kernels.nearest_code.statistics import count_codes, sum_by_code

if TYPE_CHECKING:
    from tstk.kernels.cpp import Library

__all__ = ["count_codes", "nearest_code", "sum_by_code"]


def nearest_code(z: Tensor, codes: Tensor, *, backend: str | None = None) -> tuple[Tensor, Tensor]:
    """Return the nearest code of each vector by squared Euclidean distance; no gradient.

    Of codes that are identical in float32 the first is returned, on every device. Distances are computed in float32,
    also under autocast, relative to the mean m of the codes: the result equals that of float64 unless the distances of
    the two nearest codes differ by less than 8 units in the last place of |z - m|^2 + |c - m|^2 (squares below 1e-37
    may count as 0). A second run gives the same bits.

    A vector that is not finite, or farther than 2^62.5 (6.5e18) from m, gets code 0 and distance NaN. So do all vectors
    if this holds for a code, or if m is not finite in float32.

    Args:
        z: [..., d] vectors
        codes: [K, d] codebook
        backend: triton, cpp, torch or reference; the first that supports the call if None

    Returns:
        ids [...] int64 in [0, K), and squared distances [...] float32, accurate to about 8 of these units

    Raises:
        ValueError: the widths differ or are 0, or there are no codes
        IncompatibleError: `backend` does not support this call
    """
    check_shapes(z, codes)
    selected = nearest_code_op.select(backend, z, codes)
    ids, squares = selected.function(z, codes)
    # These compute every column alike, so that of equal codes the first has been selected already.
    if selected.name == "cpp" or (selected.name == "triton" and not is_triton_interpreted()):
        return ids, squares
    return map_to_first_duplicate(ids, codes), squares


def check_shapes(z: Tensor, codes: Tensor) -> None:
    """Raise ValueError unless z is [..., d] and codes [K, d], neither K nor d 0."""
    if codes.ndim != 2 or not codes.numel() or z.shape[-1:] != codes.shape[1:]:
        raise ValueError(f"z is {list(z.shape)} and codes {list(codes.shape)}; expected [..., d] and [K, d], not empty")


TABLE_COLUMNS = 128
"""Columns of the table that a search by Triton makes, at most, per 64 numbers of a code."""


def why_triton_unsupported(z: Tensor, codes: Tensor) -> str:
    """Return why the Triton kernels cannot read these vectors and codes, or an empty string."""
    if reason := why_triton_unavailable(z.device):
        return reason
    if not {z.dtype, codes.dtype} <= {float32, float16, bfloat16}:
        return f"it takes float32, float16 or bfloat16, not {z.dtype} and {codes.dtype}"
    k, d = codes.shape
    if k * TABLE_COLUMNS * -(-d // 64) >= 2**31 - 2**20:
        return (
            f"it indexes its table of codes in 32 bits, and that of {list(codes.shape)} has nearly 2^31 values or more"
        )
    return ""


MIN_CPP_WORK = 2**21
"""Products of numbers, rows x codes x width, from which on a search in C++ is worth its preparation."""
MIN_COMPILED_WORK = 2**28
"""Products from which on a search starts the compiler, if the kernel is not compiled yet: some 10 ms of torch."""


def _why_cpp_unsupported(z: Tensor, codes: Tensor) -> str:
    if is_traced(z, codes):
        return "a compiler or transform of torch cannot trace it"
    if z.device.type != "cpu":
        return f"the tensors are on {z.device.type}"
    return _why_cpp_unavailable()


def _why_cpp_unavailable() -> str:
    return _get_library().why_unavailable()


def _get_library() -> Library:
    from tstk.kernels.nearest_code.cpp import LIBRARY

    return LIBRARY


def _why_cpp_not_automatic(z: Tensor, codes: Tensor) -> str:
    from tstk.kernels.nearest_code.cpp import LIBRARY, why_rounding_differs

    rows, (num_codes, width) = z.shape[:-1].numel(), codes.shape
    work = rows * num_codes * width
    if work < MIN_CPP_WORK:
        return "the search is too small to be worth its preparation"
    if work < MIN_COMPILED_WORK and not LIBRARY.is_built():
        return "it is not compiled yet: `tstk kernels --build` compiles it, or the first search that is large enough"
    return LIBRARY.why_not_loaded() or why_rounding_differs(rows, num_codes, width)


_HERE = "tstk.kernels.nearest_code"
nearest_code_op = Operation(
    "nearest_code",
    Backend(
        "triton",
        f"{_HERE}.triton:nearest_code",
        why_triton_unsupported,
        why_triton_unavailable,
        self_test="tstk.kernels.self_test:check_nearest_code",
    ),
    Backend(
        "cpp",
        f"{_HERE}.cpp:nearest_code",
        _why_cpp_unsupported,
        _why_cpp_unavailable,
        why_not_automatic=_why_cpp_not_automatic,
        get_library=_get_library,
    ),
    Backend("torch", f"{_HERE}.torch:nearest_code"),
    Backend("reference", f"{_HERE}.reference:nearest_code"),
)
