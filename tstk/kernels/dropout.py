"""Dropout from few random numbers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 1 << 16
"""Rates are rounded to multiples of 1 / LEVELS; the output is scaled by the rounded one, so its mean is exact.

In half precision the scale itself is rounded, as in torch."""

_are_transforms_active = getattr(torch._C, "_are_functorch_transforms_active", lambda: False)


def draw_bits(count: int, slack: int = 0) -> Tensor:
    """Draw `count` int16 numbers from torch's global generator of the CPU; `slack` more, not drawn, follow them."""
    num_draws = -(-count // 4)
    numbers = torch.empty(num_draws + -(-slack // 4), dtype=torch.int64, device="cpu")
    numbers[:num_draws].random_(-(1 << 63), None)
    return numbers.view(torch.int16)[: count + slack]


def apply_dropout(x: Tensor, rate: float) -> Tensor:
    """Set a share `rate` of the elements of x [...] to zero at random, and scale the others by 1 / (1 - rate).

    On a CPU torch draws a number of 53 bits for each element, which takes longer than a matrix product of few columns.
    Here each element has 16 bits of torch's global generator.
    """
    if not rate:
        return x
    threshold = round(rate * LEVELS)
    is_left_to_torch = torch.compiler.is_compiling() or _are_transforms_active()  # vmap has its own kinds of draws
    if x.device.type != "cpu" or is_left_to_torch or threshold >= LEVELS:
        return F.dropout(x, rate)
    bits = draw_bits(x.numel()).view(x.shape)
    # contiguous, whatever the layout of x, so that the draws do not depend on it
    kept = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    torch.ge(bits, threshold - LEVELS // 2, out=kept)
    return x * kept.mul_(LEVELS / (LEVELS - threshold))
