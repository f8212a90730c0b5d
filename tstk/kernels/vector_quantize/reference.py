"""Reference implementation: all distances and probabilities, in float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from tstk.kernels.nearest_code import reference
from tstk.kernels.vector_quantize import LossOptions, entropy


def vector_quantize(
    z: Tensor, codes: Tensor, valid: Tensor | None, options: LossOptions
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See `tstk.kernels.vector_quantize`."""
    ids, _ = reference.nearest_code(z, codes)
    selected = F.embedding(ids, codes)
    values = selected.detach().to(z.dtype) + (z - z.detach())
    if valid is None:
        valid = torch.ones_like(ids, dtype=torch.bool)
    x, c = z[valid].double(), selected[valid].double()
    commitment = options.commitment * (x - c.detach()).square().sum() / max(1, x.numel())
    codebook = options.codebook * (x.detach() - c).square().sum() / max(1, x.numel())
    log_p = (-reference.compute_squared_distances(x, codes) / options.temperature).log_softmax(-1)
    p = log_p.exp()
    floor = math.log(options.log_floor) if options.log_floor else -math.inf
    # exp(-inf) * -inf would be NaN, and contributes 0 to the entropy
    entropies = -(p * log_p.clamp(min=floor).where(p > 0, 0)).sum(-1)
    mean_entropy, mean_probs = entropies.sum() / max(1, len(x)), p.sum(0) / max(1, len(x))
    spread = options.entropy * (mean_entropy - options.gamma * entropy(mean_probs, options.log_floor))
    return values, ids, commitment.float(), codebook.float(), spread.float(), mean_probs.float()
