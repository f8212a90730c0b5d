"""Wavelet images as tokens: wavelet transforms of a series and its differences, cut into patches of (scale, time)."""

from __future__ import annotations

from math import ceil
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor, nn
from torch.nn import functional as F

from tstk.core.interfaces import Tokenizer
from tstk.core.types import Series, Spec, Tokens
from tstk.errors import DataError, OptionError
from tstk.kernels import ricker_cwt
from tstk.nn.linear import Linear
from tstk.plugins.ranges import PositiveFloat, PositiveInt

VIEWS = ("signal", "first difference", "second difference")
"""The channels of an image."""


class CWT(Tokenizer):
    """Patches of a three-channel wavelet image, one token each (CWT-MAE-RoPE, section 1.1).

    The channels of the image are the Ricker wavelet transforms of the series and of its first and second differences,
    each normalized over scales and time by its own mean and standard deviation. Missing samples are set to zero before
    the transform, as are differences across a gap; they are excluded from the statistics and set to zero in the image.
    The grid has two axes, time and scale; each channel of a series has its own rows, after those of the channel before.

    Unlike the original, the series may end within a patch (the samples beyond are unobserved), and tokens are numbered
    column by column, so that axis 0 is time as everywhere in tstk; `rope = "flat-bf16"` of encoder and decoder gives
    the rotary positions of the original.

    Args:
        dim: width of a token
        patch_time: samples per patch; none for a sixteenth of the longest series, at most 50
        patch_freq: scales per patch; divides scales
        scales: number of scales, the height of the image
        spacing: spacing of the scales, linear or logarithmic
        min_scale: smallest scale, in samples; below 1 (0.1 in the original) a sampled wavelet is little but a spike
        max_scale: largest scale, in samples; none for min_scale + scales - 1
        kernel: odd, exactly sampled wavelets of odd length; published, those of the original, off by half a sample
    """

    def __init__(
        self,
        spec: Spec,
        *,
        dim: PositiveInt = 128,
        patch_time: PositiveInt | None = None,
        patch_freq: PositiveInt = 4,
        scales: Annotated[int, Ge(1), Le(4096)] = 64,
        spacing: Literal["linear", "log"] = "linear",
        min_scale: PositiveFloat = 1.0,
        max_scale: float | None = None,
        kernel: Literal["odd", "published"] = "odd",
    ) -> None:
        super().__init__(spec)
        if patch_time is None:
            patch_time = max(1, min(50, round(spec.length / 16)))
        largest = min_scale + scales - 1 if max_scale is None else max_scale
        if min_scale > largest:
            raise OptionError(f"tokenizer.min_scale={min_scale}: expected at most {largest:g}")
        if scales % patch_freq:
            divisors = [n for n in range(1, scales + 1) if scales % n == 0]
            nearby = [n for n in divisors if n < patch_freq][-1:] + [n for n in divisors if n > patch_freq][:1]
            raise OptionError(
                f"tokenizer.patch_freq={patch_freq} does not divide tokenizer.scales={scales}; "
                f"nearby: {', '.join(map(str, nearby))}"
            )
        if patch_time > spec.length:
            raise DataError(
                f"--tokenizer.patch-time {patch_time} is longer than the longest series, {spec.length} samples; "
                f"choose at most {spec.length}"
            )
        space = np.linspace if spacing == "linear" else np.geomspace
        self.scales = tuple(float(a) for a in space(min_scale, largest, scales))
        self.kernel, self.patch_size = kernel, (patch_freq, patch_time)
        self.rows, self.columns = scales // patch_freq, ceil(spec.length / patch_time)
        width = len(VIEWS) * patch_freq * patch_time
        self.out = spec.replace(
            dim=dim,
            grid_size=(self.columns, spec.channels * self.rows),
            stride=float(patch_time),
            patch_len=float(patch_time),
            target_dim=width,
        )
        self.project = Linear(width, dim)
        self.norm = nn.LayerNorm(dim)
        # the view has the fan-in and fan-out of the original, a convolution over the image
        nn.init.xavier_uniform_(self.project.weight.detach().view(dim, len(VIEWS), *self.patch_size))
        nn.init.zeros_(self.project.bias)

    def forward(self, series: Series) -> Tokens:
        """Return tokens [B, columns * channels * rows, dim]; targets are image patches, ordered (view, scale, time)."""
        image, observed = self.compute_image(series)
        b, columns, rows = image.shape[:3]
        target = image.flatten(1, 2).flatten(2)
        time, row = torch.meshgrid(
            torch.arange(columns, device=image.device), torch.arange(rows, device=image.device), indexing="ij"
        )
        pos = torch.stack([time, row], -1).flatten(0, 1).to(target.dtype)
        index = torch.arange(columns * rows, device=image.device).expand(b, -1)
        valid, target_mask = torch.ones_like(index, dtype=torch.bool), None
        if observed is not None:
            valid = observed.any(-1)[..., None].expand(-1, -1, -1, self.rows).flatten(1)
            target_mask = observed[:, :, :, None, None, None].expand(-1, -1, -1, self.rows, *image.shape[3:5], -1)
            target_mask = target_mask.flatten(2, 3).flatten(1, 2).flatten(2)
        values = self.norm(self.project(target))
        return Tokens(values, pos.expand(b, -1, -1), index, valid, target=target, target_mask=target_mask)

    def unpatchify(self, patches: Tensor) -> Tensor:
        """Assemble the patches of a whole grid, [B, N, 3 * scales * samples], to images [B, C, 3, scales, T]."""
        grid = patches.unflatten(-1, (len(VIEWS), *self.patch_size)).unflatten(1, (-1, self.spec.channels, self.rows))
        return grid.permute(0, 2, 4, 3, 5, 1, 6).flatten(5, 6).flatten(3, 4)

    def token_image(self, tokens: Tokens) -> tuple[Tensor, str, list[str]]:
        """Return the wavelet coefficients of the series, the first of the views, and the scales."""
        assert tokens.target is not None
        return self.unpatchify(tokens.target)[:, :, 0], "scale", [f"{scale:.3g}" for scale in self.scales]

    def compute_image(self, series: Series) -> tuple[Tensor, Tensor | None]:
        """Compute the normalized image in patches.

        Args:
            series: x [B, C, T]

        Returns:
            image [B, columns, C * rows, views, scales of a patch, samples of a patch], float32; and a mask of observed
            samples, [B, columns, C, samples of a patch] bool, None if all are observed
        """
        (b, c, length), (patch_scales, patch_len) = series.x.shape, self.patch_size
        columns = ceil(length / patch_len)
        # the published kernel depends on the length of its input, which must not vary with the batch
        padded = (self.columns if self.kernel == "published" else columns) * patch_len
        x = F.pad(series.x.to(torch.promote_types(series.x.dtype, torch.float32)), (0, padded - length))
        observed = patch_observed = None
        if series.observed is not None or length % patch_len:
            observed = F.pad(series.observed_mask, (0, padded - length))
            patch_observed = observed[..., : columns * patch_len].unflatten(-1, (columns, patch_len))
        image = x.new_empty(b, columns, c, self.rows, len(VIEWS), patch_scales * patch_len)
        for k, view in enumerate(_compute_views(x, observed, length)):
            patches = ricker_cwt(view, self.scales, kernel=self.kernel, patch=self.patch_size)[:, :, :, :columns]
            image[..., k, :] = _normalize(patches, patch_observed).permute(0, 3, 1, 2, 4)
        image = image.unflatten(-1, self.patch_size).flatten(2, 3)
        return image, None if patch_observed is None else patch_observed.transpose(1, 2)


def _compute_views(x: Tensor, observed: Tensor | None, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the series, its backward difference, and its second difference with the ends repeated, [B, C, T] each.

    Differences with a missing sample, or beyond the end of the series, are zero.
    """
    difference = F.pad(x[..., 1:] - x[..., :-1], (1, 1))
    if observed is not None:
        x = x * observed
        difference = difference * F.pad(observed[..., 1:] & observed[..., :-1], (1, 1))
    elif length < x.shape[-1]:
        difference = difference * (torch.arange(difference.shape[-1], device=x.device) < length)
    return x, difference[..., :-1], difference[..., 1:] - difference[..., :-1]


def _normalize(patches: Tensor, observed: Tensor | None) -> Tensor:
    """Normalize to mean 0 and standard deviation 1 over scales and time; zero where nothing was observed.

    Args:
        patches: [B, C, rows, columns, scales * samples of a patch]
        observed: [B, C, columns, samples of a patch] bool
    """
    dims = (2, 3, 4)
    if observed is None:
        # in two passes, which is as accurate as torch.var_mean and ten times faster on a CPU
        centered = patches - patches.mean(dims, keepdim=True)
        variance = centered.square().sum(dims, keepdim=True) / max(patches[0, 0].numel() - 1, 1)
        return centered / variance.sqrt().clamp(min=1e-5)
    patch_scales = patches.shape[4] // observed.shape[-1]
    mask = observed[:, :, None, :, None].expand(-1, -1, patches.shape[2], -1, patch_scales, -1).flatten(4)
    count = mask.sum(dims, keepdim=True).clamp(min=1)
    mean = torch.where(mask, patches, 0).sum(dims, keepdim=True) / count
    centered = torch.where(mask, patches - mean, 0)
    std = (centered.square().sum(dims, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
    return centered / std.clamp(min=1e-5)
