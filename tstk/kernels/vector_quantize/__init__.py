"""Vector quantisation as one operation: values, ids, and the losses of VQ-VAE and VQShape, forward and backward.

No N x K matrix is held in memory.
"""

# Once loaded, the module `torch.py` of this package takes the name `torch`, hence no `import torch` here.
from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, autocast, float32, promote_types
from torch import bool as boolean
from torch.nn.functional import embedding, mse_loss

from tstk.kernels.dispatch import Backend, Operation, why_triton_unavailable
from tstk.kernels.nearest_code import check_shapes, nearest_code, why_triton_unsupported

__all__ = ["LossOptions", "QuantizerOutput", "entropy", "vector_quantize"]


class LossOptions(NamedTuple):
    """Weights and constants of a quantizer's losses; see `QuantizerOutput`.

    Args:
        commitment: weight of the commitment loss
        codebook: weight of the codebook loss
        entropy: weight of the entropy loss; with 0, soft assignments are not computed
        gamma: weight of the entropy of the mean within the entropy loss
        temperature: of soft assignments, in units of squared distances, more than 0
        log_floor: lower bound of probabilities in logarithms, as in `log(max(p, 1e-5))` of VQShape's code; 0 for exact
            entropies
    """

    commitment: float = 0.25
    codebook: float = 1.0
    entropy: float = 0.0
    gamma: float = 1.0
    temperature: float = 0.01
    log_floor: float = 0.0


class QuantizerOutput(NamedTuple):
    """The output of `vector_quantize`. Means are over valid vectors, and 0 if there are none.

    Args:
        values: [..., d] the nearest codes, in the dtype of z, with gradients passed to z unchanged and none to the
            codes: the straight-through estimator
        ids: [...] int64 indices of the nearest codes
        commitment: scalar, weighted mean of (z - c)^2 over vectors and channels, with c the nearest code; its gradient
            goes to z
        codebook: scalar, the same mean, weighted; its gradient goes to the codes
        entropy: scalar, weighted difference of the mean entropy of soft assignments p and gamma times the entropy of
            `mean_probs`, in nats
        mean_probs: [K] float32 mean of p; 0 without a weight of the entropy
    """

    values: Tensor
    ids: Tensor
    commitment: Tensor
    codebook: Tensor
    entropy: Tensor
    mean_probs: Tensor


def vector_quantize(
    z: Tensor, codes: Tensor, options: LossOptions, *, valid: Tensor | None = None, backend: str | None = None
) -> QuantizerOutput:
    """Replace each vector by its nearest code and compute the losses of a codebook that learns by gradients.

    The commitment and codebook losses are those of VQ-VAE (van den Oord et al. 2017, eq. 3), the entropy loss that of
    VQShape (Wen et al. 2024, eq. 6), of soft assignments p = softmax(-|z - c|^2 / temperature). Computed in float32,
    also under autocast. Exponents below -60 count as -60.

    Args:
        z: [..., d] vectors
        codes: [K, d] codebook
        options: weights and constants of the losses
        valid: [...] bool, False for vectors to leave out of the losses; their values and ids are those of all others
        backend: triton, torch or reference; the first that supports the call if None. Without a weight of the entropy
            it is the backend of the search

    Raises:
        ValueError: the widths differ, there are no codes, or `valid` is not [...] bool
        IncompatibleError: `backend` does not support this call
    """
    check_shapes(z, codes)
    if valid is not None and (valid.shape != z.shape[:-1] or valid.dtype != boolean):
        raise ValueError(f"valid is {list(valid.shape)}, {valid.dtype}; expected {list(z.shape[:-1])}, bool")
    if not options.entropy:
        zero, mean_probs = z.new_zeros((), dtype=float32), z.new_zeros(len(codes), dtype=float32)
        return QuantizerOutput(*quantize(z, codes, valid, options, backend=backend), zero, mean_probs)
    return QuantizerOutput(*vector_quantize_op(z, codes, valid, options, backend=backend))


def quantize(
    z: Tensor, codes: Tensor, valid: Tensor | None, options: LossOptions, *, backend: str | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Search the nearest codes and compute values, ids and the losses of VQ-VAE by operations of torch."""
    with autocast(z.device.type, enabled=False):
        ids, _ = nearest_code(z, codes, backend=backend)
        selected = embedding(ids, codes)
        values = selected.detach().to(z.dtype) + (z - z.detach())
        dtype = promote_types(promote_types(z.dtype, codes.dtype), float32)
        x, selected = z.to(dtype), selected.to(dtype)
        commitment = codebook = x.new_zeros(())
        if options.commitment:
            commitment = options.commitment * _average_squared_errors(x, selected.detach(), valid)
        if options.codebook:
            codebook = options.codebook * _average_squared_errors(selected, x.detach(), valid)
        return values, ids, commitment, codebook


def _average_squared_errors(x: Tensor, targets: Tensor, valid: Tensor | None) -> Tensor:
    """Return the mean squared error over valid vectors and channels, 0 if there are none."""
    if valid is None:
        return mse_loss(x, targets, reduction="sum") / max(1, x.numel())
    errors = (x - targets).where(valid[..., None], 0)
    return errors.square().sum() / (valid.sum() * x.shape[-1]).clamp(min=1)


def entropy(probs: Tensor, log_floor: float = 0.0) -> Tensor:
    """Compute -sum p log(max(p, log_floor)), in nats."""
    return -(probs * probs.clamp(min=log_floor or 1e-37).log()).sum()


def _why_triton_unsupported(z: Tensor, codes: Tensor, valid: Tensor | None, options: LossOptions) -> str:
    if reason := why_triton_unsupported(z, codes):
        return reason
    if z.shape[-1] > 64:
        return f"it keeps whole vectors in registers, up to 64 wide; these are {z.shape[-1]}"
    return ""


_HERE = "tstk.kernels.vector_quantize"
vector_quantize_op = Operation(
    "vector_quantize",
    Backend(
        "triton",
        f"{_HERE}.triton:vector_quantize",
        _why_triton_unsupported,
        why_triton_unavailable,
        self_test="tstk.kernels.self_test:check_vector_quantize",
    ),
    Backend("torch", f"{_HERE}.torch:vector_quantize"),
    Backend("reference", f"{_HERE}.reference:vector_quantize"),
)
