"""The reconstruction loss of autoencoders."""

from __future__ import annotations

from torch import Tensor

from tstk.core.interfaces import Decoder, Loss
from tstk.core.types import Spec, StepOutput
from tstk.errors import IncompatibleError
from tstk.nn.reduce import masked_mse


class Reconstruct(Loss):
    """Mean squared error of the reconstruction with no masking, as in an autoencoder.

    Works with decoders that predict per token and with decoders that predict the whole series (`own`).
    """

    accepts_series = True

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.out = spec.replace(predicts_in_place=True)

    def bind_decoder(self, decoder: Decoder) -> None:
        """Check that there are targets for a decoder that predicts per token.

        Raises:
            IncompatibleError: the decoder predicts per token and the tokenizer has no targets
        """
        if not decoder.predicts_series and self.spec.target_dim is None:
            remedy = " A decoder that predicts whole series, --decoder own, needs no target."
            raise IncompatibleError(self.missing_message("target_dim") + remedy)
        self.predicts_series = decoder.predicts_series

    def forward(self, step_output: StepOutput) -> dict[str, Tensor]:
        """Return the mean over observed samples."""
        assert step_output.predictions is not None
        queries, series = step_output.queries, step_output.series
        if self.predicts_series:
            predictions = step_output.predictions[..., : series.x.shape[-1]]
            return {"reconstruction": masked_mse(predictions, series.x, series.observed)}
        assert queries.target is not None
        where = queries.valid[..., None]
        if queries.target_mask is not None:
            where = where & queries.target_mask
        return {"reconstruction": masked_mse(step_output.predictions, queries.target, where)}
