"""TimeMAE's two pretext tasks for every masked token: classify its codeword, and regress a teacher's representation.

One linear layer assigns the codeword from the token's content (before positions are added) and classifies the
decoder's prediction. The teacher is an exponential moving average of the encoder and encodes the masked tokens.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn
from torch.nn import functional as F

from tstk.core.interfaces import BasePipeline, Decoder, Encoder, Loss
from tstk.core.masking import get_masking_policy
from tstk.core.rng import SampleRNG
from tstk.core.types import Spec, StepOutput, Tokens
from tstk.errors import IncompatibleError
from tstk.nn.linear import Linear
from tstk.nn.reduce import masked_mean, masked_mse
from tstk.plugins.ranges import Fraction, MaskingName, NonNegativeFloat, Ratio
from tstk_plugins_timemae.init import init_xavier


class TimeMAE(Loss):
    """Masked codeword classification and masked representation regression (TimeMAE, sections 3.4 and 3.5).

    Codewords are sampled anew in every forward pass without gradient; the layer that assigns them is trained as the
    classifier of the decoder's predictions only. Unlike the published code, each series has its own mask and the
    teacher runs without dropout and starts from the initial weights of the encoder; `policy`, `teacher_dropout` and
    `teacher_start` restore the published behaviour.

    Args:
        codes: number of codewords
        ratio: share of valid tokens to mask, rounded down
        policy: masking policy: random for each series; per-batch, the same positions for the whole batch; or another
        align: weight of the mean squared error between predictions and the teacher's representations
        classify: weight of the cross-entropy of the codewords
        smoothing: label smoothing of that cross-entropy
        momentum: momentum of the teacher's exponential moving average
        temperature: temperature of the codeword sampling; 1 samples from the softmax, 0 takes the argmax
        teacher_dropout: apply the encoder's dropout in the teacher while training
        teacher_start: start the moving average from the encoder's initial weights; or from those after the first step,
            up to which teacher and encoder share their weights in the published code
    """

    default_decoder = "cross"
    non_persistent = ("teacher",)
    teacher_has_started: Tensor

    def __init__(
        self,
        spec: Spec,
        *,
        codes: Annotated[int, Ge(2)] = 192,
        ratio: Ratio = 0.6,
        policy: MaskingName = "random",
        align: NonNegativeFloat = 5.0,
        classify: NonNegativeFloat = 1.0,
        smoothing: Fraction = 0.2,
        momentum: Annotated[float, Ge(0), Le(1)] = 0.99,
        temperature: NonNegativeFloat = 1.0,
        teacher_dropout: bool = False,
        teacher_start: Literal["initial", "first-step"] = "initial",
    ) -> None:
        super().__init__(spec)
        if spec.tokenizer_dim != spec.dim:
            raise IncompatibleError(
                f"{self.display_name()} classifies the tokenizer's tokens and predictions of the encoder's width with "
                "one layer, so --tokenizer.dim and --encoder.dim must be equal; they are "
                f"{spec.tokenizer_dim} and {spec.dim}"
            )
        self.ratio, self.align, self.classify = ratio, align, classify
        self.mask_tokens = get_masking_policy(policy)
        self.smoothing, self.momentum, self.temperature = smoothing, momentum, temperature
        self.teacher_dropout = teacher_dropout
        self.codeword_classifier = Linear(spec.tokenizer_dim or 0, codes)
        init_xavier(self.codeword_classifier)
        self.teacher: Encoder | None = None
        if teacher_start == "first-step":
            self.register_buffer("teacher_has_started", torch.tensor(False))
        self.out = spec.replace(target_dim=None, predicts_in_place=False)

    def bind_decoder(self, decoder: Decoder) -> None:
        """Check that the decoder's predictions are as wide as the encoder's representations.

        Raises:
            IncompatibleError: they are not
        """
        if decoder.out.dim != self.spec.dim:
            raise IncompatibleError(
                f"{self.display_name()} compares predictions with the encoder's representations, which have width "
                f"{self.spec.dim}, but {decoder.display_name()} predicts width {decoder.out.dim}; "
                f"use --decoder.dim {self.spec.dim} or --decoder cross"
            )

    def bind(self, pipeline: BasePipeline) -> None:
        """Create the teacher: a copy of the encoder that shares the parameters of its position embeddings."""
        self._student = [pipeline.encoder]
        shared = {id(p): p for p in find_pos_embed_parameters(pipeline.encoder)}
        self.teacher = deepcopy(pipeline.encoder, dict(shared))
        for p in self.teacher.parameters():
            if id(p) not in shared:
                p.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> TimeMAE:
        """Set the mode as `nn.Module.train` does, but keep the teacher in eval mode unless `teacher_dropout`."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.train(mode and self.teacher_dropout)
        return self

    def after_step(self, step_outputs: list[StepOutput]) -> None:
        """Update the teacher: xi <- m xi + (1 - m) theta."""
        assert self.teacher is not None
        student, share = self._student[0], 1 - self.momentum
        if "teacher_has_started" in self._buffers:
            share = share if self.teacher_has_started else 1.0  # 1 copies the encoder
            self.teacher_has_started.fill_(True)
        pairs = zip(self.teacher.parameters(), student.parameters(), strict=True)
        averaged = [(average, weight) for average, weight in pairs if average is not weight]
        if averaged:
            averages, weights = zip(*averaged, strict=True)
            torch._foreach_lerp_(averages, weights, share)
        for teacher_buffer, student_buffer in zip(self.teacher.buffers(), student.buffers(), strict=True):
            teacher_buffer.copy_(student_buffer)

    def split(self, tokens: Tokens, rng: SampleRNG) -> tuple[Tokens, Tokens]:
        """Return the visible tokens, and the masked tokens as queries with their sampled codewords."""
        masked = self.mask_tokens(tokens, self.ratio, rng)
        queries = tokens.select(masked)
        queries = queries.replace(attrs={**queries.attrs, "codeword": self._sample_codewords(queries, rng)})
        return tokens.select(tokens.valid & ~masked), queries

    @torch.no_grad()
    def _sample_codewords(self, queries: Tokens, rng: SampleRNG) -> Tensor:
        """Sample a codeword for each token, [B, M], from softmax(logits / temperature) by the Gumbel-max trick."""
        logits = self.codeword_classifier(queries.values).float()
        uniform = rng.uniform(*logits.shape[1:]).clamp(min=2**-25)
        return (logits - self.temperature * (-uniform.log()).log()).argmax(-1)

    def forward(self, step_output: StepOutput) -> dict[str, Tensor]:
        """Return the weighted losses `align` and `classify` over masked tokens; log accuracy and use of codewords."""
        assert self.teacher is not None
        assert step_output.predictions is not None
        queries, predictions = step_output.queries, step_output.predictions
        codewords, valid = queries.attrs["codeword"], queries.valid
        with torch.no_grad():
            target = self.teacher(queries).values
        logits = self.codeword_classifier(predictions)
        cross_entropy = F.cross_entropy(
            logits.flatten(0, 1), codewords.flatten(), reduction="none", label_smoothing=self.smoothing
        ).view_as(codewords)
        step_output.metrics |= codeword_metrics(logits.detach(), codewords, valid)
        return {
            "align": self.align * masked_mse(predictions, target, valid[..., None]),
            "classify": self.classify * masked_mean(cross_entropy, valid),
        }


def find_pos_embed_parameters(encoder: Encoder) -> list[nn.Parameter]:
    """Find the trainable parameters that `encoder.pos_embed` depends on, such as a position table, by autograd.

    If `pos_embed` applies an output projection, its parameters are included.
    """
    trainable = [p for p in encoder.parameters() if p.requires_grad]
    device = trainable[0].device if trainable else torch.device("cpu")
    index = torch.zeros(1, 1, dtype=torch.long, device=device)
    values = torch.zeros(1, 1, encoder.spec.dim or 0, device=device)
    pos = torch.zeros(1, 1, encoder.spec.num_axes, device=device)
    with torch.enable_grad():
        total = encoder.pos_embed(Tokens(values, pos, index, index == 0)).sum()
    if not total.requires_grad:
        return []
    gradients = torch.autograd.grad(total, trainable, allow_unused=True)
    return [p for p, gradient in zip(trainable, gradients, strict=True) if gradient is not None]


def codeword_metrics(logits: Tensor, codewords: Tensor, valid: Tensor) -> dict[str, Tensor]:
    """Compute how well codewords are classified and how many are in use.

    Args:
        logits: [B, M, codes]
        codewords: [B, M] long
        valid: [B, M] bool; tokens to count

    Returns:
        `hits`, the accuracy; `ndcg@10`; `perplexity`, exp of the entropy of the sampled codewords; `usage`, the
        share of codewords sampled at least once in this batch
    """
    rank = (logits > logits.gather(-1, codewords[..., None])).sum(-1)
    gain = torch.where(rank < 10, 1 / (rank + 2.0).log2(), 0.0)
    counts = torch.zeros(logits.shape[-1], device=logits.device)
    counts = counts.scatter_add(0, codewords.flatten(), valid.flatten().to(counts.dtype))
    share = counts / counts.sum().clamp(min=1)
    return {
        "hits": masked_mean(1.0 * (rank == 0), valid),
        "ndcg@10": masked_mean(gain, valid),
        "perplexity": torch.special.entr(share).sum().exp(),
        "usage": (counts > 0).float().mean(),
    }
