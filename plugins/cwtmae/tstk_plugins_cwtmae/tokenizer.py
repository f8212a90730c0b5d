"""Wavelet images: a series and its two differences, seen at many scales, cut into patches of (scale, time)."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tstk.core.interfaces import Tokenizer
from tstk.core.types import Series, Spec, Tokens
from tstk.errors import DataError, OptionError
from tstk.kernels import ricker_cwt

if TYPE_CHECKING:
    from tstk.report.context import Known
    from tstk.report.page import Section

VIEWS = ("signal", "first difference", "second difference")
"""The channels of an image."""


class CWT(Tokenizer):
    """Patches of a three-channel wavelet image, one token each (CWT-MAE-RoPE, section 1.1).

    The image holds the Ricker transforms of the series and of its first and second differences, each normalised over
    scales and time by its own mean and deviation. Missing samples are blanked before the transform: a difference across
    a gap is zero, and a gap is neither counted in the statistics nor shown. The grid has two axes, time and scale; each
    channel of a series has rows of its own, above those of the channel before.

    Unlike the original, the series may end within a patch (what is beyond is not counted), and tokens are numbered
    column by column, so that axis 0 is time as everywhere in tstk; rotary positions in the original's order are to be
    had with `rope = "flat"` of encoder and decoder.

    Args:
        dim: width of a token
        patch_time: samples per patch; none for a sixteenth of the longest series, 50 at most
        patch_freq: scales per patch; divides scales
        scales: number of scales, the height of the image
        spacing: of the scales, linear or logarithmic
        min_scale: smallest scale, in samples; below 1 (the original has 0.1) a sampled wavelet is little but a spike
        max_scale: largest scale, in samples; none for one more than the scale before, scales - 1 times
        kernel: odd, exactly sampled wavelets; published, those of the original code, which lie half a sample aside
    """

    def __init__(
        self,
        spec: Spec,
        *,
        dim: int = 128,
        patch_time: int | None = None,
        patch_freq: int = 4,
        scales: int = 64,
        spacing: Literal["linear", "log"] = "linear",
        min_scale: float = 1.0,
        max_scale: float | None = None,
        kernel: Literal["odd", "published"] = "odd",
    ) -> None:
        super().__init__(spec)
        if patch_time is None:
            patch_time = max(1, min(50, round(spec.length / 16)))
        largest = min_scale + scales - 1 if max_scale is None else max_scale
        for fine, fault in (
            (
                min(patch_time, patch_freq, scales) >= 1,
                f"tokenizer.patch_time={patch_time}, patch_freq={patch_freq}, scales={scales}: expected at least 1",
            ),
            (0 < min_scale <= largest, f"tokenizer.min_scale={min_scale}: expected above 0 and at most {largest:g}"),
        ):
            if not fine:
                raise OptionError(fault)
        if scales % patch_freq:
            fit = [n for n in range(1, scales + 1) if scales % n == 0]
            near = [n for n in fit if n < patch_freq][-1:] + [n for n in fit if n > patch_freq][:1]
            raise OptionError(
                f"tokenizer.patch_freq={patch_freq} does not divide tokenizer.scales={scales}; "
                f"nearby: {', '.join(map(str, near))}"
            )
        if patch_time > spec.length:
            raise DataError(
                f"--tokenizer.patch-time {patch_time} is longer than the longest series, {spec.length} samples; "
                f"choose at most {spec.length}"
            )
        spaced = np.linspace if spacing == "linear" else np.geomspace
        self.scales = tuple(float(a) for a in spaced(min_scale, largest, scales))
        self.kernel, self.patch = kernel, (patch_freq, patch_time)
        self.rows, self.columns = scales // patch_freq, ceil(spec.length / patch_time)
        width = len(VIEWS) * patch_freq * patch_time
        self.out = spec.but(
            dim=dim,
            grid=(self.columns, spec.channels * self.rows),
            step=float(patch_time),
            span=float(patch_time),
            target=width,
        )
        self.project = nn.Linear(width, dim)
        self.norm = nn.LayerNorm(dim)
        # the original is a convolution over the image, whose fans are larger
        nn.init.xavier_uniform_(self.project.weight.detach().view(dim, len(VIEWS), *self.patch))
        nn.init.zeros_(self.project.bias)

    def forward(self, series: Series) -> Tokens:
        """Tokens [B, columns * channels * rows, dim]; targets are image patches, ordered (view, scale, time)."""
        image, seen = self.image(series)
        b, columns, high = image.shape[:3]
        target = image.flatten(1, 2).flatten(2)
        time, row = torch.meshgrid(
            torch.arange(columns, device=image.device), torch.arange(high, device=image.device), indexing="ij"
        )
        pos = torch.stack([time, row], -1).flatten(0, 1).to(target.dtype)
        index = torch.arange(columns * high, device=image.device).expand(b, -1)
        valid, weight = torch.ones_like(index, dtype=torch.bool), None
        if seen is not None:
            valid = seen.any(-1)[..., None].expand(-1, -1, -1, self.rows).flatten(1)
            weight = seen[:, :, :, None, None, None].expand(-1, -1, -1, self.rows, *image.shape[3:5], -1)
            weight = weight.flatten(2, 3).flatten(1, 2).flatten(2)
        values = self.norm(self.project(target))
        return Tokens(values, pos.expand(b, -1, -1), index, valid, target=target, weight=weight)

    def section(self, known: Known) -> Section | None:
        """Some series and their images."""
        from tstk_plugins_cwtmae.pictures import scalograms

        return scalograms(known, self)

    def joined(self, patches: Tensor) -> Tensor:
        """Patches of a whole grid put together: [B, N, 3 * scales * samples] -> images [B, C, 3, scales, T]."""
        grid = patches.unflatten(-1, (len(VIEWS), *self.patch)).unflatten(1, (-1, self.spec.channels, self.rows))
        return grid.permute(0, 2, 4, 3, 5, 1, 6).flatten(5, 6).flatten(3, 4)

    def image(self, series: Series) -> tuple[Tensor, Tensor | None]:
        """The normalised image in patches, written once per view into its place.

        Args:
            series: x [B, C, T]

        Returns:
            image [B, columns, C * rows, views, scales of a patch, samples of a patch], float32; and which samples were
            observed, [B, columns, C, samples of a patch] bool, None if all
        """
        (b, c, length), (high, wide) = series.x.shape, self.patch
        columns = ceil(length / wide)
        # the published kernel depends on the length that it is given, which must not be that of the batch
        full = self.columns * wide if self.kernel == "published" else columns * wide
        x = F.pad(series.x.to(torch.promote_types(series.x.dtype, torch.float32)), (0, full - length))
        seen = None
        if series.observed is not None or length % wide:
            seen = F.pad(series.mask, (0, full - length))
        image = x.new_empty(b, columns, c, self.rows, len(VIEWS), high * wide)
        where = None if seen is None else seen[..., : columns * wide].unflatten(-1, (columns, wide))
        for k, view in enumerate(_views(x, seen, length)):
            patches = ricker_cwt(view, self.scales, kernel=self.kernel, patch=self.patch)[:, :, :, :columns]
            image[..., k, :] = _normalised(patches, where).permute(0, 3, 1, 2, 4)
        image = image.unflatten(-1, self.patch).flatten(2, 3)
        return image, None if where is None else where.transpose(1, 2)


def _views(x: Tensor, seen: Tensor | None, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """[B, C, T] each: the series, its backward difference, and its second difference with the ends repeated.

    A step to, from or over a missing sample is zero, and so is one beyond the end of the series.
    """
    step = F.pad(x[..., 1:] - x[..., :-1], (1, 1))
    if seen is not None:
        x = x * seen
        step = step * F.pad(seen[..., 1:] & seen[..., :-1], (1, 1))
    elif length < x.shape[-1]:
        step = step * (torch.arange(step.shape[-1], device=x.device) < length)
    return x, step[..., :-1], step[..., 1:] - step[..., :-1]


def _normalised(patches: Tensor, where: Tensor | None) -> Tensor:
    """Mean 0 and deviation 1 over scales and time, zeros where nothing was observed.

    Args:
        patches: [B, C, rows, columns, scales * samples of a patch]
        where: [B, C, columns, samples of a patch] bool
    """
    over = (2, 3, 4)
    if where is None:
        variance, mean = torch.var_mean(patches, over, keepdim=True)
        gain = 1 / variance.sqrt().clamp(min=1e-5)
        return torch.addcmul(-mean * gain, patches, gain)
    shown = where[:, :, None, :, None].expand(-1, -1, patches.shape[2], -1, patches.shape[4] // where.shape[-1], -1)
    shown = shown.flatten(4)
    count = shown.sum(over, keepdim=True).clamp(min=1)
    mean = torch.where(shown, patches, 0).sum(over, keepdim=True) / count
    centred = torch.where(shown, patches - mean, 0)
    deviation = (centred.square().sum(over, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
    return centred / deviation.clamp(min=1e-5)
