"""Vector quantisation: nearest codes, straight-through values, statistics and soft assignments.

No N x K matrix is held in memory.
"""

# Once loaded, the module `torch.py` of this package takes the name `torch`, hence no `import torch` here.
from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, bfloat16, float16, float32
from torch import bool as boolean
from torch.nn.functional import embedding

from tstk.kernels.dispatch import Backend, Operation, is_traced, is_triton_interpreted, why_triton_unavailable
from tstk.kernels.nearest_code.duplicates import map_to_first_duplicate
from tstk.kernels.nearest_code.statistics import count_codes, sum_by_code

if TYPE_CHECKING:
    from tstk.kernels.cpp import Library

__all__ = ["assignment_entropy", "sum_by_code", "entropy", "nearest_code", "quantize", "soft_assignment", "count_codes"]


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
        ValueError: the widths differ, or there are no codes
        IncompatibleError: `backend` does not support this call
    """
    _check_shapes(z, codes)
    selected = nearest_code_op.select(backend, z, codes)
    ids, squares = selected.function(z, codes)
    # These compute every column alike, so that of equal codes the first has been selected already.
    if selected.name == "cpp" or (selected.name == "triton" and not is_triton_interpreted()):
        return ids, squares
    return map_to_first_duplicate(ids, codes), squares


def quantize(z: Tensor, codes: Tensor, *, backend: str | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Replace each vector by its nearest code, with a straight-through gradient (van den Oord et al. 2017, 3.2).

    Args:
        z: [..., d] vectors
        codes: [K, d] codebook
        backend: as for `nearest_code`

    Returns:
        values [..., d] in the dtype of z: exactly the codes, with gradients passed to z unchanged and none to `codes`;
        ids [...] int64; and the selected codes [..., d], differentiable in `codes`, for the codebook loss
    """
    ids, _ = nearest_code(z, codes, backend=backend)
    selected = embedding(ids, codes)
    return selected.detach().to(z.dtype) + (z - z.detach()), ids, selected


def soft_assignment(
    z: Tensor,
    codes: Tensor,
    *,
    temperature: float,
    log_floor: float = 0.0,
    valid: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the mean entropy and the mean of soft assignments p = softmax(-|z - c|^2 / temperature).

    Computed in float32, also under autocast, and differentiable in z and codes. Exponents below -60 count as -60.

    Args:
        z: [..., d] vectors
        codes: [K, d] codebook
        temperature: in units of squared distances
        log_floor: lower bound of probabilities in logarithms, as in `log(max(p, 1e-5))` of VQShape's code; 0 for exact
            entropies
        valid: [...] bool, False at vectors to ignore
        backend: as for `nearest_code`

    Returns:
        the mean over vectors of the entropy of p, in nats, scalar float32; and the mean of p, [K] float32; both 0
        if no vector is valid
    """
    _check_shapes(z, codes)
    if valid is not None:
        if valid.shape != z.shape[:-1] or valid.dtype != boolean:
            raise ValueError(f"valid is {list(valid.shape)}, {valid.dtype}; expected {list(z.shape[:-1])}, bool")
        z = z.where(valid[..., None], 0)
    rows = z.reshape(-1, z.shape[-1])
    weight = rows.new_ones(rows.shape[0], dtype=float32) if valid is None else valid.reshape(-1).to(float32)
    weight = weight / weight.sum().clamp(min=1)
    out: tuple[Tensor, Tensor] = soft_assignment_op(rows, codes, weight, temperature, log_floor, backend=backend)
    return out


def assignment_entropy(
    z: Tensor,
    codes: Tensor,
    *,
    temperature: float,
    log_floor: float = 0.0,
    valid: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the two entropies of VQShape's codebook loss (Wen et al. 2024); takes the arguments of `soft_assignment`.

    The first is small if vectors are close to one code each, the second large if all codes are used.

    Returns:
        the mean over vectors of the entropy of p, and the entropy of the mean of p; in nats, scalars float32
    """
    mean_entropy, mean_probs = soft_assignment(
        z, codes, temperature=temperature, log_floor=log_floor, valid=valid, backend=backend
    )
    return mean_entropy, entropy(mean_probs, log_floor)


def entropy(probs: Tensor, log_floor: float = 0.0) -> Tensor:
    """Compute -sum p log(max(p, log_floor)), in nats."""
    return -(probs * probs.clamp(min=log_floor or 1e-37).log()).sum()


def _check_shapes(z: Tensor, codes: Tensor) -> None:
    if codes.ndim != 2 or not len(codes) or z.shape[-1:] != codes.shape[1:]:
        raise ValueError(f"z is {list(z.shape)} and codes {list(codes.shape)}; expected [..., d] and [K, d]")


TABLE_COLUMNS = 128
"""Columns of the table that a search by Triton makes, at most, per 64 numbers of a code."""


def _why_triton_unsupported(z: Tensor, codes: Tensor, *soft: object) -> str:
    if reason := why_triton_unavailable(z.device):
        return reason
    if not {z.dtype, codes.dtype} <= {float32, float16, bfloat16}:
        return f"it takes float32, float16 or bfloat16, not {z.dtype} and {codes.dtype}"
    k, d = codes.shape
    if k * (d if soft else TABLE_COLUMNS * -(-d // 64)) >= 2**31 - 2**20:
        return (
            f"it indexes its table of codes in 32 bits, and that of {list(codes.shape)} has nearly 2^31 values or more"
        )
    if soft and z.shape[-1] > 64:
        return f"it keeps whole vectors in registers, up to 64 wide; these are {z.shape[-1]}"
    return ""


MAX_CPP_WIDTH = 128
"""Largest width of the kernel in C++. From 192 channels on, a matrix product by MKL is a sum of several sums."""
MIN_CPP_WORK = 2**21
"""Products of numbers, rows x codes x width, from which on a search in C++ is worth its preparation."""
MIN_COMPILED_WORK = 2**28
"""Products from which on a search starts the compiler, if the kernel is not compiled yet: some 10 ms of torch."""


def _why_cpp_unsupported(z: Tensor, codes: Tensor) -> str:
    if is_traced(z, codes):
        return "a compiler or transform of torch cannot trace it"
    if z.device.type != "cpu":
        return f"the tensors are on {z.device.type}"
    if not 1 <= z.shape[-1] <= MAX_CPP_WIDTH:
        return f"it takes vectors up to {MAX_CPP_WIDTH} wide, not {z.shape[-1]}"
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
        _why_triton_unsupported,
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
soft_assignment_op = Operation(
    "soft_assignment",
    Backend(
        "triton",
        f"{_HERE}.triton:soft_assignment",
        _why_triton_unsupported,
        why_triton_unavailable,
        self_test="tstk.kernels.self_test:check_soft_assignment",
    ),
    Backend("torch", f"{_HERE}.torch:soft_assignment"),
    Backend("reference", f"{_HERE}.reference:soft_assignment"),
)
