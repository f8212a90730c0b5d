"""Series of any length on one scale: resampled, normalised, and convolved to a fixed number of tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tstk.core.interfaces import Tokenizer
from tstk.core.types import Series, Spec, Tokens
from tstk.errors import OptionError
from tstk.nn.resample import fill_gaps, lengths, sample_at


class Resampled(Tokenizer):
    """The same tokens for series of any length: resample, normalise, convolve (after Mantis, arXiv:2502.15637).

    Each series is interpolated linearly, from its first sample to its last, and normalised by its own mean and
    deviation. Two strided convolutions read the normalised series, its normalised differences and the series as it
    came, through asinh, which keeps level and scale; they make one token of `samples / tokens` resampled samples.
    Targets are the normalised samples of a token.

    Unlike the paper, convolutions are strided instead of pooled, and level and scale are an input of the convolution
    instead of encoded statistics of each patch.

    Args:
        dim: width of a token
        samples: samples after resampling; a multiple of 4 tokens
        tokens: number of tokens
        width: channels between the two convolutions
        eps: added to the variance of a series
    """

    any_length = True

    def __init__(
        self,
        spec: Spec,
        *,
        dim: int = 128,
        samples: int = 512,
        tokens: int = 32,
        width: int = 64,
        eps: float = 1e-4,
    ) -> None:
        super().__init__(spec)
        if min(samples, tokens, width) < 1 or samples % (4 * tokens):
            raise OptionError(
                f"tokenizer.samples={samples} and tokenizer.tokens={tokens}: expected a multiple of {4 * tokens} "
                "samples, four strides of the first convolution to each token"
            )
        self.samples, self.tokens, self.eps = samples, tokens, eps
        self.patch = samples // tokens
        self.stride = self.patch // 4
        self.first = nn.Conv1d(3 * spec.channels, width, 4 * self.stride, self.stride)
        self.second = nn.Conv1d(width, dim, 8, 4)
        self.norm = nn.LayerNorm(dim)
        self.out = spec.but(dim=dim, grid=(tokens,), step=None, span=None, target=spec.channels * self.patch)

    def forward(self, series: Series) -> Tokens:
        """Tokens [B, tokens, dim]; a token is valid if a sample that it was interpolated from was observed."""
        x, observed = self._resampled(series)
        mean = x.mean(2, keepdim=True)
        deviation = ((x - mean).square().mean(2, keepdim=True) + self.eps).sqrt()
        raw = x.asinh()
        x = (x - mean) / deviation
        change = F.pad(x.diff(dim=2), (1, 0))
        change = change / (change.square().mean(2, keepdim=True) + self.eps).sqrt()
        stride = self.stride
        y = F.gelu(self.first(F.pad(torch.cat([x, change, raw], 1), (3 * stride // 2, 3 * stride - 3 * stride // 2))))
        values = self.norm(self.second(F.pad(y, (2, 2))).transpose(1, 2))
        index = torch.arange(self.tokens, device=x.device).expand(x.shape[0], -1)

        def patches(t: Tensor) -> Tensor:
            return t.unflatten(2, (self.tokens, self.patch)).transpose(1, 2).flatten(2)

        weight = patches(observed)
        return Tokens(
            values,
            index[..., None].to(x.dtype),
            index,
            weight.any(-1),
            target=patches(x),
            weight=weight,
        )

    def _resampled(self, series: Series) -> tuple[Tensor, Tensor]:
        """Samples [B, C, samples] with gaps bridged, and where one beside them was observed."""
        share = torch.linspace(0, 1, self.samples, device=series.x.device)
        places = (lengths(series) - 1).clamp(min=0)[:, None] * share
        if series.observed is None:
            x = sample_at(series.x, places)
            return x, torch.ones_like(x, dtype=torch.bool)
        observed = sample_at(series.observed.to(series.x.dtype), places) > 0
        return sample_at(fill_gaps(series.x, series.observed), places), observed
