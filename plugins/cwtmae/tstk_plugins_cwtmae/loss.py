"""Masked autoencoding of wavelet images: reconstruct the masked patches, and the series."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tstk.core.interfaces import Decoder, Loss
from tstk.core.masking import get_masking_policy
from tstk.core.rng import SampleRNG
from tstk.core.types import Series, Spec, StepOutput, Tokens
from tstk.errors import IncompatibleError
from tstk.nn.linear import Linear
from tstk.nn.reduce import masked_mse
from tstk.plugins.ranges import MaskingName, NonNegativeFloat, Ratio


class SpectrumTime(Loss):
    """Mean squared error of the masked patches of the image, and of the whole series (CWT-MAE-RoPE, 1.3 C).

    Three output layers are applied to the decoder's states: a linear layer to patches; a convolution over all scales of
    a column; and a linear layer from its output to the samples of the column. They are used in pretraining only.
    Wavelets of large scale are wide, and patches of the same time are similar, so a patch masked at random is easily
    interpolated from its neighbours; masking whole columns (`policy = "column"`) is harder.

    Args:
        ratio: share of patches to mask
        round_up: round the number of masked patches up, so that int(N (1 - ratio)) of N are visible, as in the
            original; otherwise down
        policy: masking policy: random for each series; column, all scales and channels of a time together; or another
        time: weight of the mean squared error of the series
        z_score: reconstruct each series minus its mean, divided by its unbiased standard deviation, as in the original;
            otherwise as the tokenizer receives it
    """

    needs = ("target_dim", "stride")
    default_decoder = "transformer"
    reconstructs_series = True

    def __init__(
        self,
        spec: Spec,
        *,
        ratio: Ratio = 0.75,
        policy: MaskingName = "random",
        time: NonNegativeFloat = 1.0,
        round_up: bool = False,
        z_score: bool = False,
    ) -> None:
        super().__init__(spec)
        if spec.num_axes != 2 or spec.grid_size[1] % spec.channels or spec.stride != spec.patch_len:
            raise IncompatibleError(
                f"{self.display_name()} needs a tokenizer with a grid of time and scale, such as --tokenizer cwt; "
                f"this one has the grid {spec.grid_size}"
            )
        self.ratio, self.round_up, self.mask_tokens = ratio, round_up, get_masking_policy(policy)
        self.time, self.z_score = time, z_score
        self.out = spec.replace(target_dim=None, predicts_in_place=False)

    def bind_decoder(self, decoder: Decoder) -> None:
        """Create the output layers for the decoder's width."""
        spec, dim = self.spec, decoder.out.dim or 0
        self.to_patch = Linear(dim, spec.target_dim or 0)
        self.scale_conv = nn.Conv2d(dim, dim, (spec.grid_size[1] // spec.channels, 1))
        self.to_samples = Linear(dim, int(spec.stride or 0))
        for layer in (self.to_patch, self.scale_conv, self.to_samples):
            nn.init.xavier_uniform_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def split(self, tokens: Tokens, rng: SampleRNG) -> tuple[Tokens, Tokens]:
        """Return the visible tokens, and all tokens as queries, since the series is decoded from whole columns."""
        masked = self.mask_tokens(tokens, self.ratio, rng, self.round_up)
        return tokens.replace(target=None, target_mask=None).select(tokens.valid & ~masked), tokens

    def reconstruct(self, step_output: StepOutput) -> tuple[Tensor, Tensor]:
        """Reconstruct the patches [B, M, K], and the series as the loss compares it, see `_decode_series`."""
        assert step_output.predictions is not None
        return self.to_patch(step_output.predictions), self._decode_series(step_output)

    def reconstruct_series(self, step_output: StepOutput) -> Tensor:
        """Reconstruct the series in its units, [B, C, columns * samples of a patch]."""
        samples = self._decode_series(step_output)
        if not self.z_score:
            return samples
        mean, std = _compute_moments(step_output.series)
        return samples * std + mean

    def _decode_series(self, step_output: StepOutput) -> Tensor:
        """Return the series [B, C, columns * samples of a patch]; with `z_score`, in deviations from its mean."""
        assert step_output.predictions is not None
        spec = self.spec
        grid = step_output.queries.replace(values=step_output.predictions).to_grid(spec.grid_size)
        grid = grid.unflatten(3, (spec.channels, -1))  # [B, D, columns, C, rows]
        columns = self.scale_conv(grid.permute(0, 3, 1, 4, 2).flatten(0, 1))[:, :, 0]  # [B C, D, columns]
        samples = self.to_samples(F.gelu(columns).transpose(1, 2)).flatten(1)
        return samples.unflatten(0, (-1, spec.channels))

    def forward(self, step_output: StepOutput) -> dict[str, Tensor]:
        """Return the losses `spectrum`, over masked patches, and `time`, over observed samples, weighted."""
        queries, x = step_output.queries, step_output.series.x
        if self.z_score:
            mean, std = _compute_moments(step_output.series)
            x = (x - mean) / std
        assert step_output.predictions is not None
        assert queries.target is not None
        rows = step_output.masked.flatten().nonzero()[:, 0]

        def select_masked(values: Tensor) -> Tensor:  # ten times faster than with a mask as index
            return values.flatten(0, 1).index_select(0, rows)

        patches = self.to_patch(select_masked(step_output.predictions))
        observed = None if queries.target_mask is None else select_masked(queries.target_mask)
        series = self._decode_series(step_output)[..., : x.shape[-1]]
        return {
            "spectrum": masked_mse(patches, select_masked(queries.target), observed),
            "time": self.time * masked_mse(series, x, step_output.series.observed),
        }


def _compute_moments(series: Series) -> tuple[Tensor, Tensor]:
    """Return mean and unbiased standard deviation of the observed samples, [B, C, 1]; the deviation at least 1e-5."""
    observed = series.observed_mask
    count = observed.sum(-1, keepdim=True)
    mean = torch.where(observed, series.x, 0).sum(-1, keepdim=True) / count.clamp(min=1)
    squares = torch.where(observed, series.x - mean, 0).square().sum(-1, keepdim=True)
    return mean, (squares / (count - 1).clamp(min=1)).sqrt().clamp(min=1e-5)
