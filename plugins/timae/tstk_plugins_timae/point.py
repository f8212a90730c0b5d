"""Points: every sample is a token."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tstk.core.interfaces import Tokenizer
from tstk.core.types import Series, Spec, Tokens
from tstk.errors import OptionError


class Point(Tokenizer):
    """A convolution over samples, one token per sample, all channels together (Ti-MAE, arXiv:2301.08871, section 3).

    The series is padded with zeros. A token is valid if any channel was observed there; it is asked for its
    sample, not for the neighbours that the convolution saw.

    Args:
        dim: width of a token
        kernel: samples under the convolution, an odd number; 1 keeps neighbours out of a token
    """

    invertible = True

    def __init__(self, spec: Spec, *, dim: int = 64, kernel: int = 3) -> None:
        super().__init__(spec)
        if kernel < 1 or kernel % 2 == 0:
            raise OptionError(f"tokenizer.kernel={kernel}: expected an odd number of samples, such as 1, 3 or 5")
        self.conv = nn.Conv1d(spec.channels, dim, kernel, padding=kernel // 2)
        self.out = spec.but(dim=dim, grid=(spec.length,), step=1.0, span=1.0, target=spec.channels)

    def forward(self, series: Series) -> Tokens:
        """Tokens [B, T, dim]; targets [B, T, C] are the samples."""
        values = self.conv(series.x).transpose(1, 2)
        target, weight = series.x.transpose(1, 2), series.mask.transpose(1, 2)
        index = torch.arange(values.shape[1], device=values.device).expand(values.shape[0], -1)
        pos = index[..., None].to(target.dtype)
        return Tokens(values, pos, index, weight.any(-1), target=target, weight=weight)

    def invert(self, answer: Tensor, length: int) -> Tensor:
        """[B, T, C] -> [B, C, length]."""
        return answer.transpose(1, 2)[..., :length]
