"""TimeMAE's decoupled encoder, here a decoder: it predicts masked tokens, apart from the encoder of visible tokens."""

from __future__ import annotations

from torch import nn

from tstk.builtin.decoders.cross import Cross
from tstk.core.types import Spec
from tstk.plugins.ranges import Depth, Fraction, PositiveInt
from tstk_plugins_timemae.init import double_mlp_dropout, init_xavier


class TimeMAEDecoder(Cross):
    """Cross-attention from mask tokens to visible tokens (TimeMAE section 3.3), with the published initialization.

    The decoder `cross` with the published sizes and initial values: mask token normal with standard deviation 1,
    linear layers Xavier-normal with biases 0.1, residual scales near 0.

    Args:
        depth: number of cross-attention blocks
        heads: attention heads; divides the encoder's width
        dropout: dropout on attention and on both sub-layers
        double_dropout: drop the output of the MLP twice in a row, as the published code does
        residual_scale: initial value of a learned factor on each sub-layer; none for no factor
    """

    def __init__(
        self,
        spec: Spec,
        *,
        depth: Depth = 4,
        heads: PositiveInt = 4,
        dropout: Fraction = 0.1,
        double_dropout: bool = False,
        residual_scale: float | None = 1e-8,
    ) -> None:
        super().__init__(spec, depth=depth, heads=heads, dropout=dropout, residual_scale=residual_scale)
        if double_dropout:
            double_mlp_dropout(self.blocks)
        init_xavier(self)
        nn.init.normal_(self.mask_token)
