"""Patches: a window slides over the series, each stop becomes a token."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tstk.core.interfaces import Tokenizer
from tstk.core.types import Series, Spec, Tokens
from tstk.errors import DataError, OptionError


class Patches(Tokenizer):
    """What tokenizers have in common that cut a series, or features of it, into windows.

    The series is padded at its end to a whole number of strides; a patch is valid if any of its samples was observed
    and the series goes on where the patch before it ends.

    Args:
        dim: width of a token
        window: samples per patch, or None
        stride: samples from one patch to the next, or None
        features: rows that are cut into windows
    """

    invertible = True

    def __init__(self, spec: Spec, dim: int, window: int | None, stride: int | None, features: int) -> None:
        super().__init__(spec)
        if window is not None and window > spec.length:
            raise DataError(
                f"--tokenizer.window {window} is longer than the longest series, {spec.length} samples; "
                f"choose at most {spec.length}"
            )
        self.window = fitted_window(spec.length) if window is None else window
        self.stride = self.window if stride is None else stride
        if min(self.window, self.stride) < 1 or self.stride > self.window:
            raise OptionError(
                f"tokenizer.stride={self.stride} and tokenizer.window={self.window}: expected "
                "1 <= stride <= window, or samples would be skipped"
            )
        self.out = spec.but(
            dim=dim,
            grid=(self._count(spec.length),),
            step=float(self.stride),
            span=float(self.window),
            target=spec.channels * self.window,
        )
        self.project = nn.Linear(features * self.window, dim)

    def features(self, series: Series) -> tuple[Tensor, dict[str, Tensor]]:
        """What is cut into windows, [B, features, T], and statistics of the batch that `after_step` needs."""
        raise NotImplementedError

    def _count(self, length: int) -> int:
        # rounded up with whole numbers that are never negative, as graphs cannot take others along
        return max(length - self.window + self.stride - 1, 0) // self.stride + 1

    def _windows(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, N, C, window], zero (or False) padded at the end."""
        n = self._count(x.shape[-1])
        x = F.pad(x, (0, (n - 1) * self.stride + self.window - x.shape[-1]))
        return x.unfold(-1, self.window, self.stride).transpose(1, 2)

    def forward(self, series: Series) -> Tokens:
        """Tokens [B, N, dim]; targets are the patch's samples, channel by channel."""
        features, statistics = self.features(series)
        patches = self._windows(features)
        target, weight = self._windows(series.x).flatten(2), self._windows(series.mask).flatten(2)
        index = torch.arange(target.shape[1], device=target.device).expand(target.shape[0], -1)
        # where patches overlap, one that the series' end does not call for would exist in a longer batch alone
        end = (series.mask.any(1) * torch.arange(1, series.x.shape[-1] + 1, device=target.device)).amax(1, keepdim=True)
        called_for = (index == 0) | ((index - 1) * self.stride + self.window < end)
        return Tokens(
            self.project(patches.flatten(2)),
            index[..., None].to(target.dtype),
            index,
            weight.any(-1) & called_for,
            target=target,
            weight=weight,
            statistics=statistics,
        )

    def invert(self, answer: Tensor, length: int) -> Tensor:
        """Patch samples back to a series; where patches overlap, their mean."""
        b, n, _ = answer.shape
        total = (n - 1) * self.stride + self.window
        parts = answer.reshape(b, n, self.spec.channels * self.window).transpose(1, 2)

        def lay(windows: Tensor) -> Tensor:
            return F.fold(windows, (1, total), (1, self.window), stride=(1, self.stride))[:, :, 0]

        return (lay(parts) / lay(parts.new_ones(1, self.window, n)))[..., :length]


class Patch(Patches):
    """Windows of consecutive samples, all channels together, mapped to a token (PatchTST, Nie et al. 2023).

    Args:
        dim: width of a token
        window: samples per patch; none fits about 16 patches to the length, and at most 16 samples to a patch
        stride: samples from one patch to the next; none means patches that do not overlap
    """

    def __init__(self, spec: Spec, *, dim: int = 128, window: int | None = None, stride: int | None = None) -> None:
        super().__init__(spec, dim, window, stride, spec.channels)

    def features(self, series: Series) -> tuple[Tensor, dict[str, Tensor]]:
        """The samples themselves."""
        return series.x, {}


def fitted_window(length: int) -> int:
    """Samples per patch when nothing is said: about 16 patches to the length, 16 samples at most."""
    return max(1, min(16, round(length / 16)))
