"""Patches of a convolution network's features instead of patches of samples."""

from __future__ import annotations

import torch
from torch import Tensor

from tstk.builtin.tokenizers.patch import Patches
from tstk.core.types import Flow, Series, Spec
from tstk.errors import OptionError
from tstk.nn.convolution import InceptionNetwork


class Inception(Patches):
    """Patches of InceptionTime's features, mapped to a token (Ismail Fawaz et al., arXiv:1909.04939).

    A small Inception network runs along the samples, and windows of its features become tokens as windows of samples do
    in `patch`. What a filter finds does not depend on where the windows begin, which few series cannot teach a linear
    map. A token depends on samples around its patch, so for masked pretraining, where neighbours would give away what
    is hidden, choose `patch`.

    Args:
        dim: width of a token
        window: samples per patch; none fits about 16 patches to the length, and at most 16 samples to a patch
        stride: samples from one patch to the next; none means patches that do not overlap
        width: channels of the network; a multiple of 4
        depth: Inception modules
    """

    def __init__(
        self,
        spec: Spec,
        *,
        dim: int = 128,
        window: int | None = None,
        stride: int | None = None,
        width: int = 32,
        depth: int = 3,
    ) -> None:
        if width < 4 or width % 4 or depth < 1:
            raise OptionError(
                f"tokenizer.width={width} and tokenizer.depth={depth}: expected a multiple of 4, such as 32, and at "
                "least 1"
            )
        super().__init__(spec, dim, window, stride, width)
        self.network = InceptionNetwork(spec.channels, width, depth)

    def features(self, series: Series) -> tuple[Tensor, dict[str, Tensor]]:
        """The network's output at each sample, [B, width, T]; while training, the statistics of its normalisation."""
        x, statistics = self.network(series.x, series.mask.any(1, keepdim=True))
        return x, {"norms": statistics} if self.training else {}

    def after_step(self, flows: list[Flow]) -> None:
        """Move the running statistics of the normalisation towards those of the step."""
        self.network.update(torch.stack([flow.tokens.statistics["norms"] for flow in flows]).mean(0))
