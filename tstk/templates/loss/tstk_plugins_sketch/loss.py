"""A masked-reconstruction loss."""

from torch import Tensor
from torch.nn import functional as F

from tstk import Loss, SampleRNG, Spec, StepOutput, Tokens
from tstk.core.masking import mask_random
from tstk.errors import OptionError
from tstk.nn.reduce import masked_mean


class Sketch(Loss):
    """Mask random tokens and predict their targets with the Huber loss.

    Args:
        ratio: fraction of valid tokens to mask, rounded down
        delta: absolute error above which the loss is linear
    """

    needs = ("target_dim",)  # Spec fields that must be set; otherwise building fails with a message
    default_decoder = "transformer"  # used if --decoder is not given

    # The Spec describes the input. Options are keyword-only, with a literal default and a line in the docstring; they
    # become the flags --loss.ratio and --loss.delta.
    def __init__(self, spec: Spec, *, ratio: float = 0.5, delta: float = 1.0) -> None:
        super().__init__(spec)
        if not 0 < ratio < 1:
            raise OptionError(f"loss.ratio={ratio}: expected a fraction between 0 and 1")
        self.ratio, self.delta = ratio, delta
        self.out = spec.replace(predicts_in_place=False)  # queries are masked tokens, not the visible ones

    def split(self, tokens: Tokens, rng: SampleRNG) -> tuple[Tokens, Tokens]:
        """Return the visible tokens and the queries."""
        masked = mask_random(tokens, self.ratio, rng)
        return tokens.select(tokens.valid & ~masked), tokens.select(masked)

    def forward(self, step_output: StepOutput) -> dict[str, Tensor]:
        """Return the mean over observed samples of the queries; losses are logged by name."""
        queries = step_output.queries
        observed = queries.valid[..., None]
        if queries.target_mask is not None:
            observed = observed & queries.target_mask
        errors = F.huber_loss(step_output.predictions, queries.target, reduction="none", delta=self.delta)
        return {"sketch": masked_mean(errors, observed)}
