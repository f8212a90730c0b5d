"""Tokenizers that slide a window over the series and make each window a token."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tstk.core.interfaces import Tokenizer
from tstk.core.types import Series, Spec, Tokens
from tstk.errors import DataError, OptionError
from tstk.nn.linear import Linear
from tstk.nn.resample import observed_lengths
from tstk.plugins.ranges import PositiveInt


class BasePatch(Tokenizer):
    """Base class of tokenizers that cut a series, or features of it, into windows.

    The series is padded at its end to a whole number of strides. A patch is valid if any of its samples was observed
    and the series does not end within the patch before it.

    Args:
        dim: width of a token
        window: samples per patch; chosen by `choose_window` if None
        stride: samples from one patch to the next; `window` if None
        num_features: number of features per sample
    """

    invertible = True

    def __init__(self, spec: Spec, dim: int, window: int | None, stride: int | None, num_features: int) -> None:
        super().__init__(spec)
        if window is not None and window > spec.length:
            raise DataError(
                f"--tokenizer.window {window} is longer than the longest series, {spec.length} samples; "
                f"choose at most {spec.length}"
            )
        self.window = choose_window(spec.length) if window is None else window
        self.stride = self.window if stride is None else stride
        if min(self.window, self.stride) < 1 or self.stride > self.window:
            raise OptionError(
                f"tokenizer.stride={self.stride} and tokenizer.window={self.window}: expected "
                "1 <= stride <= window, or samples would be skipped"
            )
        self.out = spec.replace(
            dim=dim,
            grid_size=(self._count_patches(spec.length),),
            stride=float(self.stride),
            patch_len=float(self.window),
            target_dim=spec.channels * self.window,
        )
        self.project: nn.Module = Linear(num_features * self.window, dim)

    def extract_features(self, series: Series) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the features to cut into windows, [B, num_features, T], and batch statistics for `after_step`."""
        raise NotImplementedError

    def _count_patches(self, length: int) -> int:
        # Ceiling division without negative operands, which exported graphs with symbolic lengths cannot represent.
        return max(length - self.window + self.stride - 1, 0) // self.stride + 1

    def _unfold_windows(self, x: Tensor) -> Tensor:
        """Cut [B, C, T] into [B, N, C, window], padded at the end with zeros (or False)."""
        num_patches = self._count_patches(x.shape[-1])
        x = F.pad(x, (0, (num_patches - 1) * self.stride + self.window - x.shape[-1]))
        return x.unfold(-1, self.window, self.stride).transpose(1, 2)

    def forward(self, series: Series) -> Tokens:
        """Return tokens [B, N, dim]; targets are the samples of the patch, channel by channel."""
        features, statistics = self.extract_features(series)
        patches = self._unfold_windows(features)
        target = self._unfold_windows(series.x).flatten(2)
        target_mask = self._unfold_windows(series.observed_mask).flatten(2)
        index = torch.arange(target.shape[1], device=target.device).expand(target.shape[0], -1)
        # With overlapping patches, the last samples of a short series would also fall into patches that exist only
        # because the batch has a longer one. These are invalid, so that tokens do not depend on the batch.
        end = observed_lengths(series.observed_mask)[:, None]
        starts_in_series = (index == 0) | ((index - 1) * self.stride + self.window < end)
        return Tokens(
            self.project(patches.flatten(2)),
            index[..., None].to(target.dtype),
            index,
            target_mask.any(-1) & starts_in_series,
            target=target,
            target_mask=target_mask,
            statistics=statistics,
        )

    def targets_to_series(self, targets: Tensor, length: int) -> Tensor:
        """Reassemble a series from the samples of patches, averaged where patches overlap."""
        b, num_patches, _ = targets.shape
        padded_length = (num_patches - 1) * self.stride + self.window
        patches = targets.reshape(b, num_patches, self.spec.channels * self.window).transpose(1, 2)

        def overlap_add(windows: Tensor) -> Tensor:
            return F.fold(windows, (1, padded_length), (1, self.window), stride=(1, self.stride))[:, :, 0]

        counts = overlap_add(patches.new_ones(1, self.window, num_patches))
        return (overlap_add(patches) / counts)[..., :length]


class Patch(BasePatch):
    """Linear projection of windows of consecutive samples, all channels together (PatchTST, Nie et al. 2023).

    Args:
        dim: width of a token
        window: samples per patch; if none, chosen for about 16 patches per series, at most 16 samples
        stride: samples from one patch to the next; if none, patches do not overlap
    """

    def __init__(
        self,
        spec: Spec,
        *,
        dim: PositiveInt = 128,
        window: PositiveInt | None = None,
        stride: PositiveInt | None = None,
    ) -> None:
        super().__init__(spec, dim, window, stride, spec.channels)

    def extract_features(self, series: Series) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the samples."""
        return series.x, {}


def choose_window(length: int) -> int:
    """Return the default number of samples per patch: about 16 patches per series, at most 16 samples."""
    return max(1, min(16, round(length / 16)))
