"""Masked autoencoding of wavelet images: reconstruct the masked patches, and the series."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from tstk.core.interfaces import Decoder, Loss
from tstk.core.masking import POLICIES
from tstk.core.rng import SampleRNG
from tstk.core.types import Spec, StepOutput, Tokens
from tstk.errors import IncompatibleError
from tstk.nn.linear import Linear
from tstk.nn.reduce import masked_mean
from tstk.plugins.ranges import NonNegativeFloat, Ratio


class SpectrumTime(Loss):
    """Mean squared error of the masked patches of the image, and of the whole series (CWT-MAE-RoPE, 1.3 C).

    Three output layers are applied to the decoder's states: a linear layer to patches; a convolution over all scales of
    a column; and a linear layer from its output to the samples of the column. They are used in pretraining only.
    Wavelets of large scale are wide, and patches of the same time are similar, so a patch masked at random is easily
    interpolated from its neighbours; masking whole columns (`policy = "column"`) is harder.

    Args:
        ratio: share of patches to mask, rounded down
        policy: patches to mask: random for each series, or column, all scales and channels of a time together
        time: weight of the mean squared error of the series
    """

    needs = ("target_dim", "stride")
    default_decoder = "transformer"
    reconstructs_series = True

    def __init__(
        self,
        spec: Spec,
        *,
        ratio: Ratio = 0.75,
        policy: Literal["random", "column"] = "random",
        time: NonNegativeFloat = 1.0,
    ) -> None:
        super().__init__(spec)
        if spec.num_axes != 2 or spec.grid_size[1] % spec.channels or spec.stride != spec.patch_len:
            raise IncompatibleError(
                f"{self.display_name()} needs a tokenizer with a grid of time and scale, such as --tokenizer cwt; "
                f"this one has the grid {spec.grid_size}"
            )
        self.ratio, self.policy, self.time = ratio, policy, time
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
        masked = POLICIES[self.policy](tokens, self.ratio, rng)
        return tokens.replace(target=None, target_mask=None).select(tokens.valid & ~masked), tokens

    def reconstruct(self, step_output: StepOutput) -> tuple[Tensor, Tensor]:
        """Reconstruct the patches [B, M, K], and the series [B, C, columns * samples of a patch]."""
        assert step_output.predictions is not None
        return self.to_patch(step_output.predictions), self.reconstruct_series(step_output)

    def reconstruct_series(self, step_output: StepOutput) -> Tensor:
        """Reconstruct the series, [B, C, columns * samples of a patch]."""
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
        assert step_output.predictions is not None
        assert queries.target is not None
        rows = step_output.masked.flatten().nonzero()[:, 0]

        def select_masked(values: Tensor) -> Tensor:  # ten times faster than with a mask as index
            return values.flatten(0, 1).index_select(0, rows)

        patches = self.to_patch(select_masked(step_output.predictions))
        observed = None if queries.target_mask is None else select_masked(queries.target_mask)
        errors = self.reconstruct_series(step_output)[..., : x.shape[-1]] - x
        return {
            "spectrum": masked_mean((patches - select_masked(queries.target)).square(), observed),
            "time": self.time * masked_mean(errors.square(), step_output.series.observed),
        }
