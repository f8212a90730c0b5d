"""TimeMAE's decoupled encoder: it answers for hidden places, apart from the encoder of what is seen."""

from __future__ import annotations

from torch import nn

from tstk.builtin.decoders.cross import Cross
from tstk.core.types import Spec
from tstk_plugins_timemae.init import xavier_with_bias


class Decoupled(Cross):
    """Mask tokens attend to the seen tokens only (TimeMAE section 3.3), with the published sizes and initial values.

    The core's decoder `cross`, started as the published code starts: mask token normal with deviation 1, linear
    maps Xavier-normal with biases 0.1, sub-layers closed.

    Args:
        depth: number of cross-attention blocks
        heads: attention heads; divides the encoder's width
        dropout: on attention and on both sub-layers
        residual_scale: initial value of a learned factor on each sub-layer; none for no factor
    """

    def __init__(
        self,
        spec: Spec,
        *,
        depth: int = 4,
        heads: int = 4,
        dropout: float = 0.1,
        residual_scale: float | None = 1e-8,
    ) -> None:
        super().__init__(spec, depth=depth, heads=heads, dropout=dropout, residual_scale=residual_scale)
        xavier_with_bias(self)
        nn.init.normal_(self.question)
