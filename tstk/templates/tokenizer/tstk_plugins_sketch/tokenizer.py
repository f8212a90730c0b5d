"""A tokenizer with one token per window of samples."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tstk import PositiveInt, Series, Spec, Tokenizer, Tokens


class Sketch(Tokenizer):
    """Linear projection of non-overlapping windows over all channels.

    Args:
        dim: width of a token
        window: samples per token
    """

    invertible = True  # implements `targets_to_series`

    # The Spec describes the input. Options are keyword-only, with a literal default and a line in the docstring; they
    # become the flags --tokenizer.dim and --tokenizer.window.
    def __init__(self, spec: Spec, *, dim: PositiveInt = 64, window: PositiveInt = 8) -> None:
        super().__init__(spec)
        self.window = window
        self.proj = nn.Linear(spec.channels * window, dim)
        self.out = spec.replace(
            dim=dim,
            grid_size=(-(-spec.length // window),),  # number of tokens: windows, the last of which may be incomplete
            stride=float(window),  # samples from one token to the next
            patch_len=float(window),  # samples that a token covers
            target_dim=spec.channels * window,  # numbers that a decoder predicts per token
        )

    def _unfold_windows(self, x: Tensor) -> Tensor:
        """Return windows [B, N, C * window] of [B, C, T], padded with zeros (or False) at the end."""
        x = F.pad(x, (0, -x.shape[-1] % self.window))
        return x.unfold(-1, self.window, self.window).transpose(1, 2).flatten(2)

    def forward(self, series: Series) -> Tokens:
        """Return tokens [B, N, dim]."""
        target, target_mask = self._unfold_windows(series.x), self._unfold_windows(series.observed_mask)
        index = torch.arange(target.shape[1], device=target.device).expand(target.shape[:2])
        return Tokens(
            values=self.proj(target),
            pos=index[..., None].to(target.dtype),  # position in time, in tokens
            grid_index=index,  # index in the grid
            valid=target_mask.any(-1),  # a token is valid if any of its samples is observed
            target=target,
            target_mask=target_mask,
        )

    def targets_to_series(self, targets: Tensor, length: int) -> Tensor:
        """Return the series [B, C, length] from the targets [B, N, C * window] of all tokens."""
        return targets.unflatten(-1, (self.spec.channels, -1)).transpose(1, 2).flatten(2)[..., :length]
