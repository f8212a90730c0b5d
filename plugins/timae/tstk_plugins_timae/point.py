"""Point tokens: one token per sample."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tstk.core.interfaces import Tokenizer
from tstk.core.types import Series, Spec, Tokens
from tstk.errors import OptionError
from tstk.plugins.ranges import PositiveInt


class Point(Tokenizer):
    """A convolution over samples, one token per sample, all channels together (Ti-MAE, arXiv:2301.08871, section 3).

    The series is padded with zeros. A token is valid if any channel was observed at its sample. Its target is that
    sample, not the whole window of the convolution.

    Args:
        dim: width of a token
        kernel: kernel size of the convolution in samples, odd; with 1 a token depends on its own sample only
    """

    invertible = True

    def __init__(self, spec: Spec, *, dim: PositiveInt = 64, kernel: int = 3) -> None:
        super().__init__(spec)
        if kernel < 1 or kernel % 2 == 0:
            raise OptionError(f"tokenizer.kernel={kernel}: expected an odd number of samples, such as 1, 3 or 5")
        self.conv = nn.Conv1d(spec.channels, dim, kernel, padding=kernel // 2)
        self.out = spec.replace(dim=dim, grid_size=(spec.length,), stride=1.0, patch_len=1.0, target_dim=spec.channels)

    def forward(self, series: Series) -> Tokens:
        """Return tokens [B, T, dim] whose targets [B, T, C] are the samples."""
        values = self.conv(series.x).transpose(1, 2)
        target, target_mask = series.x.transpose(1, 2), series.observed_mask.transpose(1, 2)
        index = torch.arange(values.shape[1], device=values.device).expand(values.shape[0], -1)
        pos = index[..., None].to(target.dtype)
        return Tokens(values, pos, index, target_mask.any(-1), target=target, target_mask=target_mask)

    def targets_to_series(self, targets: Tensor, length: int) -> Tensor:
        """Transpose targets [B, T, C] to a series [B, C, length]."""
        return targets.transpose(1, 2)[..., :length]
