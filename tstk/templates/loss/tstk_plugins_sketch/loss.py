"""Which question is put, and what an answer costs."""

from torch import Tensor
from torch.nn import functional as F

from tstk import Draws, Flow, Loss, Spec, Tokens
from tstk.core.masking import random
from tstk.errors import OptionError
from tstk.nn.reduce import mean


class Sketch(Loss):
    """Hides tokens at random and asks for their samples; large errors cost in proportion, not squared.

    Args:
        ratio: share of valid tokens to hide, rounded down
        delta: error from which the cost is in proportion
    """

    needs = ("target",)  # tokens that can be asked about; refused with a reason where nothing provides them
    decoder = "transformer"  # who answers if nothing is said

    # What is wired comes first: the Spec of what arrives. What a user chooses is keyword-only, with a literal default
    # and a line in the docstring; the command line makes --loss.ratio and --loss.delta of these.
    def __init__(self, spec: Spec, *, ratio: float = 0.5, delta: float = 1.0) -> None:
        super().__init__(spec)
        if not 0 < ratio < 1:
            raise OptionError(f"loss.ratio={ratio}: expected a share between 0 and 1")
        self.ratio, self.delta = ratio, delta
        self.out = spec.but(aligned=False)  # answers are read at tokens that were not seen

    def split(self, tokens: Tokens, draws: Draws) -> tuple[Tokens, Tokens]:
        """What the encoder may see, and what is asked."""
        hidden = random(tokens, self.ratio, draws)
        return tokens.keep(tokens.valid & ~hidden), tokens.keep(hidden)

    def forward(self, flow: Flow) -> dict[str, Tensor]:
        """A mean over the observed samples of the asked tokens; each term is logged by its name."""
        asked = flow.asked
        where = asked.valid[..., None] if asked.weight is None else asked.weight & asked.valid[..., None]
        each = F.huber_loss(flow.decoded, asked.target, reduction="none", delta=self.delta)
        return {"sketch": mean(each, where)}
