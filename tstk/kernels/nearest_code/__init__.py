"""The nearest entry of a codebook, and what quantizers take from it: values, statistics, soft assignments.

No N x K matrix is held in memory.
"""

# `torch` in this namespace is the module beside this one once that is loaded, hence no `import torch` here.
from __future__ import annotations

from torch import Tensor, bfloat16, float16, float32
from torch import bool as boolean
from torch.nn.functional import embedding

from tstk.kernels.dispatch import Backend, Operation, no_triton
from tstk.kernels.nearest_code.duplicates import first_of_identical
from tstk.kernels.nearest_code.statistics import code_sums, usage

__all__ = ["assignment_entropy", "code_sums", "entropy", "nearest_code", "quantize", "soft_assignment", "usage"]


def nearest_code(z: Tensor, codes: Tensor, *, backend: str | None = None) -> tuple[Tensor, Tensor]:
    """Return the nearest code of each vector by squared Euclidean distance; no gradient.

    Of codes that are identical in float32 the first is returned, whatever the processor. Distances are computed in
    float32, also under autocast, relative to the mean m of the codes: the answer is that of float64 unless the two best
    are closer than 8 units in the last place of |z - m|^2 + |c - m|^2 (squares below 1e-37 may count as 0). A second
    run gives the same bits.

    A vector that is not finite, or farther than 2^62.5 (6.5e18) from m, gets code 0 and distance NaN. So does every
    vector if that is true of a code, or if m is not finite in float32.

    Args:
        z: [..., d] vectors
        codes: [K, d] the codebook
        backend: triton, torch or reference; the first that can unless given

    Returns:
        ids [...] int64 in [0, K), and the squared distances [...] float32, right to about as many units

    Raises:
        ValueError: the widths differ, or there are no codes
        NeedsError: `backend` cannot serve this call
    """
    _check(z, codes)
    ids, squares = operation(z, codes, backend=backend)
    return first_of_identical(ids, codes), squares


def quantize(z: Tensor, codes: Tensor, *, backend: str | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Each vector replaced by its nearest code, with a straight-through gradient (van den Oord et al. 2017, 3.2).

    Args:
        z: [..., d] vectors
        codes: [K, d] the codebook
        backend: as for `nearest_code`

    Returns:
        values [..., d] as z: exactly the codes, but their gradient goes to z unchanged and not to the codes;
        ids [...] int64; and chosen [..., d]: the codes again, differentiable in `codes`, for the codebook's loss
    """
    ids, _ = nearest_code(z, codes, backend=backend)
    chosen = embedding(ids, codes)
    return chosen.detach().to(z.dtype) + (z - z.detach()), ids, chosen


def soft_assignment(
    z: Tensor,
    codes: Tensor,
    *,
    temperature: float,
    log_floor: float = 0.0,
    valid: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """How firmly vectors choose, and what share each code gets, with p = softmax(-|z - c|^2 / temperature).

    Computed in float32, whatever autocast says, and differentiable in z and codes. Exponents below -60 count as -60.

    Args:
        z: [..., d] vectors
        codes: [K, d] the codebook
        temperature: in the units of squared distances
        log_floor: least value under a logarithm, as in `log(max(p, 1e-5))` of published code; 0 for exact entropies
        valid: [...] bool, False for vectors that do not count
        backend: as for `nearest_code`

    Returns:
        the mean over vectors of the entropy of p, in nats, scalar float32; and the mean of p, [K] float32; both 0
        if no vector counts
    """
    _check(z, codes)
    if valid is not None:
        if valid.shape != z.shape[:-1] or valid.dtype != boolean:
            raise ValueError(f"valid is {list(valid.shape)}, {valid.dtype}; expected {list(z.shape[:-1])}, bool")
        z = z.where(valid[..., None], 0)
    rows = z.reshape(-1, z.shape[-1])
    weight = rows.new_ones(rows.shape[0], dtype=float32) if valid is None else valid.reshape(-1).to(float32)
    weight = weight / weight.sum().clamp(min=1)
    out: tuple[Tensor, Tensor] = soft_operation(rows, codes, weight, temperature, log_floor, backend=backend)
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
    """The two entropies of VQShape's codebook loss (Wen et al. 2024): small and large if assignments are good.

    Args:
        z: [..., d] vectors
        codes: [K, d] the codebook
        temperature: as for `soft_assignment`, and so the others

    Returns:
        the mean over vectors of the entropy of p, and the entropy of the mean of p; in nats, scalars float32
    """
    each, share = soft_assignment(z, codes, temperature=temperature, log_floor=log_floor, valid=valid, backend=backend)
    return each, entropy(share, log_floor)


def entropy(share: Tensor, log_floor: float = 0.0) -> Tensor:
    """-sum share log(max(share, log_floor)), in nats."""
    return -(share * share.clamp(min=log_floor or 1e-37).log()).sum()


def _check(z: Tensor, codes: Tensor) -> None:
    if codes.ndim != 2 or not len(codes) or z.shape[-1:] != codes.shape[1:]:
        raise ValueError(f"z is {list(z.shape)} and codes {list(codes.shape)}; expected [..., d] and [K, d]")


def _no_triton(z: Tensor, codes: Tensor, *soft: object) -> str:
    if reason := no_triton(z.device):
        return reason
    if not {z.dtype, codes.dtype} <= {float32, float16, bfloat16}:
        return f"it takes float32, float16 or bfloat16, not {z.dtype} and {codes.dtype}"
    if codes.numel() >= 2**31:
        return f"it counts the numbers of a codebook in 32 bits, and {list(codes.shape)} are 2^31 or more"
    if soft and z.shape[-1] > 64:
        return f"it keeps whole vectors in registers, up to 64 wide; these are {z.shape[-1]}"
    return ""


_HERE = "tstk.kernels.nearest_code"
operation = Operation(
    "nearest_code",
    Backend("triton", f"{_HERE}.triton:nearest_code", _no_triton, no_triton),
    Backend("torch", f"{_HERE}.torch:nearest_code"),
    Backend("reference", f"{_HERE}.reference:nearest_code"),
)
soft_operation = Operation(
    "soft_assignment",
    Backend("triton", f"{_HERE}.triton:soft_assignment", _no_triton, no_triton),
    Backend("torch", f"{_HERE}.torch:soft_assignment"),
    Backend("reference", f"{_HERE}.reference:soft_assignment"),
)
