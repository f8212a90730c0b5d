"""A tokenizer of patches of convolutional features instead of samples."""

from __future__ import annotations

import torch
from torch import Tensor

from tstk.builtin.tokenizers.patch import BasePatch
from tstk.core.types import Series, Spec, StepOutput
from tstk.errors import OptionError
from tstk.nn.convolution import InceptionNetwork
from tstk.plugins.ranges import Depth, PositiveInt


class Inception(BasePatch):
    """Linear projection of patches of InceptionTime features (Ismail Fawaz et al., arXiv:1909.04939).

    A small Inception network computes features at each sample, and windows of them become tokens as windows of samples
    do in `patch`. Convolutions are translation-equivariant, which a linear projection cannot learn from few series. A
    token depends on samples outside its patch, so use `patch` for masked pretraining, where visible neighbours would
    leak the masked samples.

    Args:
        dim: width of a token
        window: samples per patch; if none, chosen for about 16 patches per series, at most 16 samples
        stride: samples from one patch to the next; if none, patches do not overlap
        width: channels of the network; a multiple of 4
        depth: number of Inception modules
    """

    def __init__(
        self,
        spec: Spec,
        *,
        dim: PositiveInt = 128,
        window: PositiveInt | None = None,
        stride: PositiveInt | None = None,
        width: int = 32,
        depth: Depth = 3,
    ) -> None:
        if width < 4 or width % 4 or depth < 1:
            raise OptionError(
                f"tokenizer.width={width} and tokenizer.depth={depth}: expected a width that is a multiple of 4, such "
                "as 32, and a depth of at least 1"
            )
        super().__init__(spec, dim, window, stride, width)
        self.network = InceptionNetwork(spec.channels, width, depth)

    def extract_features(self, series: Series) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the features of each sample, [B, width, T], and in training the statistics of the batch norms."""
        x, statistics = self.network(series.x, series.observed_mask.any(1, keepdim=True))
        return x, {"norms": statistics} if self.training else {}

    def after_step(self, step_outputs: list[StepOutput]) -> None:
        """Update the running statistics of the batch norms with those of the step."""
        self.network.update(torch.stack([output.tokens.statistics["norms"] for output in step_outputs]).mean(0))
