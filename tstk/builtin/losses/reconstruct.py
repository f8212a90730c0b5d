"""Say again what you saw."""

from __future__ import annotations

from torch import Tensor

from tstk.core.interfaces import Decoder, Loss
from tstk.core.types import Flow, Spec
from tstk.errors import NeedsError
from tstk.nn.reduce import mean


class Reconstruct(Loss):
    """Mean square between the series and its reconstruction, with nothing hidden: an autoencoder.

    It marks a decoder that answers per token, or one that answers with the whole series (`own`).
    """

    series_answers = True

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.out = spec.but(aligned=True)

    def attach(self, decoder: Decoder) -> None:
        """Refuse a tokenwise decoder over tokens that have nothing to reproduce."""
        if not decoder.whole and self.spec.target is None:
            raise NeedsError(self.refusal("target"))
        self.whole = decoder.whole

    def forward(self, flow: Flow) -> dict[str, Tensor]:
        """Over observed samples."""
        assert flow.decoded is not None
        tokens, series = flow.asked, flow.series
        if self.whole:
            length = series.x.shape[-1]
            return {"reconstruction": mean((flow.decoded[..., :length] - series.x).square(), series.mask)}
        assert tokens.target is not None
        where = tokens.valid[..., None] if tokens.weight is None else tokens.weight & tokens.valid[..., None]
        return {"reconstruction": mean((flow.decoded - tokens.target).square(), where)}
