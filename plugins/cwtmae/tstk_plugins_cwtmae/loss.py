"""Hide patches of a wavelet image; ask for the hidden patches, and for the series itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from tstk.builtin.heads.linear import laid_out
from tstk.core.interfaces import Decoder, Loss
from tstk.core.masking import POLICIES
from tstk.core.rng import Draws
from tstk.core.types import Flow, Spec, Tokens
from tstk.errors import NeedsError, OptionError
from tstk.nn.reduce import mean

if TYPE_CHECKING:
    from tstk.report.context import Known
    from tstk.report.page import Section


class SpectrumTime(Loss):
    """Mean square of the hidden patches of the image, and of the whole series read off the grid (CWT-MAE-RoPE, 1.3 C).

    Three layers of its own read the decoder's states: a linear map to patches; a convolution over all scales of a
    column; and a linear map from its result to the column's samples. They are part of pretraining alone. The patches of
    large scales reach far in time and those of one time resemble each other, so that neighbours tell much of a patch
    hidden at random; whole columns (`policy = "column"`) tell less.

    Args:
        ratio: share of patches to hide, rounded down
        policy: which: random for each series, or column, all scales and channels of a time together
        time: weight of the series' mean square
    """

    needs = ("target", "step")
    decoder = "transformer"

    def __init__(
        self, spec: Spec, *, ratio: float = 0.75, policy: Literal["random", "column"] = "random", time: float = 1.0
    ) -> None:
        super().__init__(spec)
        if not 0 < ratio < 1:
            raise OptionError(f"loss.ratio={ratio}: expected a share between 0 and 1")
        if time < 0:
            raise OptionError(f"loss.time={time}: expected 0 or more")
        if spec.axes != 2 or spec.grid[1] % spec.channels or spec.step != spec.span:
            raise NeedsError(
                f"{self.called()} reads columns of scales, so it needs a tokenizer with a grid of time and scale, such "
                f"as --tokenizer cwt; this one has the grid {spec.grid}"
            )
        self.ratio, self.policy, self.time = ratio, policy, time
        self.out = spec.but(target=None, aligned=False)

    def attach(self, decoder: Decoder) -> None:
        """Build the output layers for states as wide as the decoder's."""
        spec, dim = self.spec, decoder.out.dim or 0
        self.to_patch = nn.Linear(dim, spec.target or 0)
        self.reduce = nn.Conv2d(dim, dim, (spec.grid[1] // spec.channels, 1))
        self.to_samples = nn.Linear(dim, int(spec.step or 0))
        for layer in (self.to_patch, self.reduce, self.to_samples):
            nn.init.xavier_uniform_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def split(self, tokens: Tokens, draws: Draws) -> tuple[Tokens, Tokens]:
        """Seen: what the policy leaves; asked: everything, since a series is read off whole columns."""
        hidden = POLICIES[self.policy](tokens, self.ratio, draws)
        return tokens.but(target=None, weight=None).keep(tokens.valid & ~hidden), tokens

    def answers(self, flow: Flow) -> tuple[Tensor, Tensor]:
        """What the decoder's states say: patches [B, M, K], and the series [B, C, columns * samples of a patch]."""
        assert flow.decoded is not None
        spec = self.spec
        grid = laid_out(flow.asked.but(values=flow.decoded), spec.tokens)
        grid = grid.unflatten(1, (spec.grid[0], spec.channels, -1))  # [B, columns, C, rows, D]
        columns = self.reduce(grid.permute(0, 2, 4, 3, 1).flatten(0, 1))[:, :, 0]  # [B C, D, columns]
        samples = self.to_samples(F.gelu(columns).transpose(1, 2)).flatten(1)
        return self.to_patch(flow.decoded), samples.unflatten(0, (-1, spec.channels))

    def section(self, known: Known) -> Section | None:
        """Some images, what was hidden of them, and what the model says."""
        from tstk_plugins_cwtmae.pictures import answers

        return answers(known, self)

    def forward(self, flow: Flow) -> dict[str, Tensor]:
        """`spectrum`, over hidden patches, and `time`, over the observed series, weighted."""
        asked, x = flow.asked, flow.series.x
        assert asked.target is not None
        patches, series = self.answers(flow)
        where = flow.hidden[..., None] if asked.weight is None else asked.weight & flow.hidden[..., None]
        return {
            "spectrum": mean((patches - asked.target).square(), where),
            "time": self.time * mean((series[..., : x.shape[-1]] - x).square(), flow.series.mask),
        }
