"""Initial values and dropout of the published code, shared by encoder, decoder and loss."""

from __future__ import annotations

from torch import nn

from tstk.nn.blocks import Block, CrossBlock


def init_xavier(module: nn.Module) -> None:
    """Initialize every linear layer in `module`: weights Xavier-normal, biases 0.1."""
    for submodule in module.modules():
        if isinstance(submodule, nn.Linear):
            nn.init.xavier_normal_(submodule.weight)
            if submodule.bias is not None:
                nn.init.constant_(submodule.bias, 0.1)


def double_mlp_dropout(blocks: nn.ModuleList) -> None:
    """Set the dropout rate p of each block's MLP to 1 - (1 - p)^2, that of two dropouts of rate p in a row."""
    for block in blocks:
        assert isinstance(block, Block | CrossBlock)
        block.mlp.dropout.p = 1 - (1 - block.mlp.dropout.p) ** 2
