"""The next-token prediction loss over a codebook."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tstk.core.interfaces import Decoder, Loss
from tstk.core.rng import SampleRNG
from tstk.core.types import Spec, StepOutput, Tokens
from tstk.errors import IncompatibleError
from tstk.nn.reduce import masked_mean


class NextCode(Loss):
    """Next-token prediction over a codebook: cross-entropy of the code that follows, from a causal encoder."""

    needs = ("vocab_size", "causal", "ordered")

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.out = spec.replace(target_dim=spec.vocab_size, predicts_in_place=True)

    def split(self, tokens: Tokens, rng: SampleRNG) -> tuple[Tokens, Tokens]:
        """Return all tokens but the last of each series, and all but the first as queries."""
        batch, num_tokens = tokens.grid_index.shape
        index = torch.arange(num_tokens - 1, device=tokens.grid_index.device).expand(batch, -1)
        queries = tokens.gather(index + 1)
        return tokens.gather(index, queries.valid), queries

    def bind_decoder(self, decoder: Decoder) -> None:
        """Check that the decoder cannot leak later codes.

        Raises:
            IncompatibleError: it attends across tokens
        """
        if decoder.attends_across:
            raise IncompatibleError(
                f"{self.display_name()} predicts the next token at every position, but {decoder.display_name()} "
                "attends to later positions; use --decoder linear"
            )

    def forward(self, step_output: StepOutput) -> dict[str, Tensor]:
        """Return the mean over valid next tokens; about ln(vocab_size) for an untrained model."""
        assert step_output.predictions is not None
        assert step_output.queries.ids is not None
        losses = F.cross_entropy(step_output.predictions.transpose(1, 2), step_output.queries.ids, reduction="none")
        return {"next_code": masked_mean(losses, step_output.queries.valid)}
