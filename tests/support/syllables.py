"""A tokenizer with a codebook and a decoder, the minimum that `next-code` and `own` need."""

import torch
from torch.nn import functional as F

from tstk.core.interfaces import Tokenizer
from tstk.core.types import Spec, Tokens


class Syllables(Tokenizer):
    """Hash windows of four samples to codes; not differentiable in the samples.

    Args:
        codes: number of codes
        dim: width of a token
    """

    has_decoder = True

    def __init__(self, spec: Spec, *, codes: int = 5, dim: int = 16) -> None:
        super().__init__(spec)
        self.book = torch.nn.Embedding(codes, dim)
        self.voice = torch.nn.Linear(dim, spec.channels * 4)
        self.steps = 0
        self.out = spec.replace(dim=dim, grid_size=(-(-spec.length // 4),), vocab_size=codes, stride=4.0, patch_len=4.0)

    def forward(self, series):
        short = -series.x.shape[-1] % 4
        x, mask = (
            F.pad(t, (0, short)).unfold(-1, 4, 4).transpose(1, 2).flatten(2) for t in (series.x, series.observed_mask)
        )
        ids = x.sum(-1).mul(3).round().long() % self.book.num_embeddings
        index = torch.arange(x.shape[1]).expand(ids.shape)
        values = self.embed(ids)
        miss = ((self.voice(values) - x) * mask).square().sum() / mask.sum().clamp(min=1)
        return Tokens(values, index[..., None].float(), index, mask.any(-1), ids=ids, aux_losses={"commit": miss})

    def embed(self, ids):
        return self.book(ids)

    def decode(self, values, length):
        spoken = self.voice(values).unflatten(-1, (self.spec.channels, 4))
        return spoken.permute(0, 2, 1, 3).flatten(2)[..., :length]

    def after_step(self, step_outputs):
        self.steps += 1
