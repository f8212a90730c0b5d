"""A backend of `nearest_code` that searches the codes for a block of vectors at a time."""

import torch
from torch import Tensor

from tstk.kernels.dispatch import Backend


def why_unsupported(z: Tensor, codes: Tensor) -> str:
    """Return why this call cannot be computed, or an empty string; read devices, dtypes and shapes, never values."""
    return "" if z.dtype == torch.float32 else f"it computes in float32, not {z.dtype}"


@torch.no_grad()
def search_blocks(z: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the indices [...] and squared distances [...] of the codes [K, D] nearest to the vectors [..., D]."""
    minima = [torch.cdist(block, codes).min(-1) for block in z.reshape(-1, z.shape[-1]).split(1024)]
    ids, distances = torch.cat([m.indices for m in minima]), torch.cat([m.values for m in minima])
    return ids.reshape(z.shape[:-1]), distances.square().reshape(z.shape[:-1])


backend = Backend("sketch", "tstk_plugins_sketch.kernel:search_blocks", why_unsupported)
