"""The initialization of the published code, shared by all components with linear layers."""

from __future__ import annotations

from torch import nn


def init_xavier(module: nn.Module) -> None:
    """Initialize every linear layer in `module`: weights Xavier-normal, biases 0.1."""
    for submodule in module.modules():
        if isinstance(submodule, nn.Linear):
            nn.init.xavier_normal_(submodule.weight)
            if submodule.bias is not None:
                nn.init.constant_(submodule.bias, 0.1)
