"""Windows of samples, one token each."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tstk import Series, Spec, Tokenizer, Tokens


class Sketch(Tokenizer):
    """Windows that do not overlap, all channels together, through one matrix.

    Args:
        dim: width of a token
        window: samples per token
    """

    invertible = True  # `invert` below exists

    # What is wired comes first: the Spec of what arrives. What a user chooses is keyword-only, with a literal default
    # and a line in the docstring; the command line makes --tokenizer.dim and --tokenizer.window of these.
    def __init__(self, spec: Spec, *, dim: int = 64, window: int = 8) -> None:
        super().__init__(spec)
        self.window = window
        self.matrix = nn.Linear(spec.channels * window, dim)
        # What leaves: `tokens` of width `dim`, `step` samples apart, each with `target` numbers to be asked for.
        tokens = -(-spec.length // window)
        target = spec.channels * window
        self.out = spec.but(dim=dim, grid=(tokens,), step=float(window), span=float(window), target=target)

    def _windows(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, N, C * window], zeros (or False) after the end."""
        x = F.pad(x, (0, -x.shape[-1] % self.window))
        return x.unfold(-1, self.window, self.window).transpose(1, 2).flatten(2)

    def forward(self, series: Series) -> Tokens:
        """Tokens [B, N, dim]."""
        target, weight = self._windows(series.x), self._windows(series.mask)
        index = torch.arange(target.shape[1], device=target.device).expand(target.shape[:2])
        return Tokens(
            values=self.matrix(target),
            pos=index[..., None].to(target.dtype),  # where it is; encoders decide what to do with that
            index=index,  # which slot of the grid it fills
            valid=weight.any(-1),  # a token is real if one of its samples was observed
            target=target,
            weight=weight,
        )

    def invert(self, answer: Tensor, length: int) -> Tensor:
        """Targets of the whole grid back to samples: [B, N, C * window] -> [B, C, length]."""
        return answer.unflatten(-1, (self.spec.channels, -1)).transpose(1, 2).flatten(2)[..., :length]
