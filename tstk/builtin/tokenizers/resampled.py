"""A tokenizer that resamples and normalises series of any length to a fixed number of tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tstk.core.interfaces import Tokenizer
from tstk.core.types import Series, Spec, Tokens
from tstk.errors import OptionError
from tstk.nn.resample import fill_gaps, interpolate_samples, observed_lengths
from tstk.plugins.ranges import PositiveInt


class Resampled(Tokenizer):
    """A fixed number of tokens for series of any length (after Mantis, arXiv:2502.15637).

    Each series is resampled by linear interpolation and normalised by its own mean and standard deviation. Two strided
    convolutions take the normalised series, its normalised differences and the asinh of the original series, which
    keeps level and scale, and make each `samples / tokens` resampled samples one token. Targets are the normalised
    samples of a token.

    Unlike the paper, convolutions are strided instead of pooled, and level and scale are an input of the convolution
    instead of encoded statistics of each patch.

    Args:
        dim: width of a token
        samples: number of samples after resampling; a multiple of 4 tokens
        tokens: number of tokens
        width: channels between the two convolutions
        eps: added to the variance of a series
    """

    accepts_any_length = True

    def __init__(
        self,
        spec: Spec,
        *,
        dim: PositiveInt = 128,
        samples: int = 512,
        tokens: int = 32,
        width: int = 64,
        eps: float = 1e-4,
    ) -> None:
        super().__init__(spec)
        if min(samples, tokens, width) < 1 or samples % (4 * tokens):
            raise OptionError(
                f"tokenizer.samples={samples} and tokenizer.tokens={tokens}: expected samples to be a multiple of "
                f"{4 * tokens}, four strides of the first convolution per token"
            )
        self.samples, self.num_tokens, self.eps = samples, tokens, eps
        self.patch_len = samples // tokens
        self.stride = self.patch_len // 4
        self.conv1 = nn.Conv1d(3 * spec.channels, width, 4 * self.stride, self.stride)
        self.conv2 = nn.Conv1d(width, dim, 8, 4)
        self.norm = nn.LayerNorm(dim)
        self.out = spec.replace(
            dim=dim, grid_size=(tokens,), stride=None, patch_len=None, target_dim=spec.channels * self.patch_len
        )

    def forward(self, series: Series) -> Tokens:
        """Return tokens [B, tokens, dim]; a token is valid if any sample that it was interpolated from was observed."""
        x, observed = self._resample(series)
        mean = x.mean(2, keepdim=True)
        deviation = ((x - mean).square().mean(2, keepdim=True) + self.eps).sqrt()
        original = x.asinh()
        x = (x - mean) / deviation
        diff = F.pad(x.diff(dim=2), (1, 0))
        diff = diff / (diff.square().mean(2, keepdim=True) + self.eps).sqrt()
        stride = self.stride
        y = F.gelu(
            self.conv1(F.pad(torch.cat([x, diff, original], 1), (3 * stride // 2, 3 * stride - 3 * stride // 2)))
        )
        values = self.norm(self.conv2(F.pad(y, (2, 2))).transpose(1, 2))
        index = torch.arange(self.num_tokens, device=x.device).expand(x.shape[0], -1)

        def patchify(samples: Tensor) -> Tensor:
            return samples.unflatten(2, (self.num_tokens, self.patch_len)).transpose(1, 2).flatten(2)

        target_mask = patchify(observed)
        return Tokens(
            values,
            index[..., None].to(x.dtype),
            index,
            target_mask.any(-1),
            target=patchify(x),
            target_mask=target_mask,
        )

    def _resample(self, series: Series) -> tuple[Tensor, Tensor]:
        """Return resampled series [B, C, samples] with gaps filled, and where at least one neighbour was observed."""
        fraction = torch.linspace(0, 1, self.samples, device=series.x.device)
        positions = (observed_lengths(series) - 1).clamp(min=0)[:, None] * fraction
        if series.observed is None:
            x = interpolate_samples(series.x, positions)
            return x, torch.ones_like(x, dtype=torch.bool)
        observed = interpolate_samples(series.observed.to(series.x.dtype), positions) > 0
        return interpolate_samples(fill_gaps(series.x, series.observed), positions), observed
