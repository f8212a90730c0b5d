"""Components with state outside gradients: an EMA codebook, and a loss with an EMA teacher."""

from copy import deepcopy

import torch
from torch.nn import functional as F

from tstk.builtin.losses.cross_entropy import CrossEntropy
from tstk.core.interfaces import Tokenizer
from tstk.core.types import Spec, Tokens
from tstk.nn.codebook import Codebook
from tstk.plugins.hooks import Entry
from tstk.plugins.registry import get_registry


class StatefulTokenizer(Tokenizer):
    """A quantizer of windows of four samples.

    Args:
        codes: number of codes
        dim: width of a token
        adaptive: initialize codes by k-means and reset dead ones
    """

    def __init__(self, spec: Spec, *, codes: int = 12, dim: int = 16, adaptive: bool = True) -> None:
        super().__init__(spec)
        self.project = torch.nn.Linear(spec.channels * 4, dim)
        self.codebook = Codebook(
            codes, dim, update="ema", decay=0.9, kmeans_iters=2 * adaptive, dead_code_threshold=0.3 * adaptive
        )
        self.out = spec.replace(dim=dim, grid_size=(-(-spec.length // 4),), vocab_size=codes, stride=4.0, patch_len=4.0)

    def forward(self, series):
        short = -series.x.shape[-1] % 4
        x, mask = (
            F.pad(t, (0, short)).unfold(-1, 4, 4).transpose(1, 2).flatten(2) for t in (series.x, series.observed_mask)
        )
        z = self.project(x)
        quantized = self.codebook(z, mask.any(-1))
        index = torch.arange(x.shape[1]).expand(x.shape[:2])
        return Tokens(
            quantized.values,
            index[..., None].float(),
            index,
            mask.any(-1),
            ids=quantized.ids,
            aux_losses=quantized.aux_losses,
            attrs={"z": z},
        )

    def after_step(self, step_outputs):
        self.codebook.after_step([(f.tokens.attrs["z"], f.tokens.ids, f.tokens.valid) for f in step_outputs])


class TeacherLoss(CrossEntropy):
    """Cross-entropy, and the distance to the tokens of an EMA teacher with dropout."""

    non_persistent = ("teacher",)

    def bind(self, pipeline):
        self._student = [pipeline.encoder]
        self.teacher = deepcopy(pipeline.encoder).requires_grad_(False)

    def after_step(self, step_outputs):
        for averaged, current in zip(self.teacher.parameters(), self._student[0].parameters(), strict=True):
            averaged.lerp_(current, 0.05)

    def forward(self, step_output):
        target = self.teacher(step_output.visible).values
        return {**super().forward(step_output), "teacher": 0.1 * F.mse_loss(step_output.encoded.values, target)}


def register_components():
    """Register both components."""
    table = get_registry()._table
    table["tokenizer", "stateful"] = [
        Entry("tokenizer", "stateful", "stateful:StatefulTokenizer", "Codes", frozenset({"vocab_size"}), dist="made-up")
    ]
    table["loss", "with-teacher"] = [Entry("loss", "with-teacher", "stateful:TeacherLoss", "A teacher", dist="made-up")]
