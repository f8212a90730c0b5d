"""The published initial values, for every part that has linear maps."""

from __future__ import annotations

from torch import nn


def xavier_with_bias(module: nn.Module) -> None:
    """Every linear map inside: weights Xavier-normal, biases 0.1."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_normal_(part.weight)
            if part.bias is not None:
                nn.init.constant_(part.bias, 0.1)
