"""TimeMAE's two questions about every hidden token: which codeword was it, and what would a teacher make of it?

The codeword is drawn from one linear map of the token's content, before positions; the same map reads the codeword
off the decoder's answer. The teacher is a copy of the encoder that follows it slowly and is given the hidden tokens.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tstk.core.interfaces import Decoder, Encoder, Loss
from tstk.core.masking import POLICIES
from tstk.core.pipeline import Pipeline
from tstk.core.rng import Draws
from tstk.core.types import Flow, Spec, Tokens
from tstk.errors import NeedsError, OptionError
from tstk.nn.reduce import mean
from tstk_plugins_timemae.init import xavier_with_bias


class TimeMAE(Loss):
    """Masked codeword classification and masked representation regression (TimeMAE, sections 3.4 and 3.5).

    Codewords are drawn anew in every pass and carry no gradient: the map that assigns them learns as the classifier
    of the decoder's answers. Unlike the published code, each series has its own mask and the teacher runs without
    dropout; `policy` and `teacher_dropout` restore that. A teacher that starts from the initial weights, not from
    those after the first step, is the third difference.

    Args:
        codes: number of codewords
        ratio: share of valid tokens to hide, rounded down
        policy: which: random for each series, or per_batch, the same slots for the whole batch
        align: weight of the mean square between answers and the teacher's representations
        classify: weight of the cross-entropy of the codewords
        smoothing: label smoothing of that cross-entropy
        momentum: share of itself that the teacher keeps in each step
        temperature: of the codeword draw; 1 draws from the softmax, 0 takes the likeliest
        teacher_dropout: the teacher drops like the encoder while training
    """

    decoder = "cross"
    transient = ("teacher",)

    def __init__(
        self,
        spec: Spec,
        *,
        codes: int = 192,
        ratio: float = 0.6,
        policy: Literal["random", "per_batch"] = "random",
        align: float = 5.0,
        classify: float = 1.0,
        smoothing: float = 0.2,
        momentum: float = 0.99,
        temperature: float = 1.0,
        teacher_dropout: bool = False,
    ) -> None:
        super().__init__(spec)
        for fine, fault in (
            (codes >= 2, f"loss.codes={codes}: expected at least 2"),
            (0 < ratio < 1, f"loss.ratio={ratio}: expected a share between 0 and 1"),
            (align >= 0 and classify >= 0, f"loss.align={align}, loss.classify={classify}: expected 0 or more"),
            (0 <= smoothing < 1, f"loss.smoothing={smoothing}: expected 0 or more and less than 1"),
            (0 <= momentum <= 1, f"loss.momentum={momentum}: expected a share from 0 to 1"),
            (temperature >= 0, f"loss.temperature={temperature}: expected 0 or more"),
        ):
            if not fine:
                raise OptionError(fault)
        if spec.content != spec.dim:
            raise NeedsError(
                f"{self.called()} reads codewords off the tokenizer's tokens and off answers of the encoder's width by "
                "one matrix, so --tokenizer.dim and --encoder.dim must be equal; they are "
                f"{spec.content} and {spec.dim}"
            )
        self.ratio, self.policy, self.align, self.classify = ratio, policy, align, classify
        self.smoothing, self.momentum, self.temperature = smoothing, momentum, temperature
        self.teacher_dropout = teacher_dropout
        self.center = nn.Linear(spec.content or 0, codes)
        xavier_with_bias(self.center)
        self.teacher: Encoder | None = None
        self.out = spec.but(target=None, aligned=False)

    def attach(self, decoder: Decoder) -> None:
        """Refuse a decoder whose answers have another width than the encoder's."""
        if decoder.out.dim != self.spec.dim:
            raise NeedsError(
                f"{self.called()} compares answers with the encoder's representations, which are {self.spec.dim} wide, "
                f"but {decoder.called()} answers {decoder.out.dim} wide; use --decoder.dim {self.spec.dim} or "
                "--decoder cross"
            )

    def bind(self, pipeline: Pipeline) -> None:
        """Make the teacher: a copy of the encoder's blocks that shares the encoder's places."""
        self._student = [pipeline.encoder]
        shared = {id(p): p for p in place_parameters(pipeline.encoder)}
        self.teacher = deepcopy(pipeline.encoder, dict(shared))
        for p in self.teacher.parameters():
            if id(p) not in shared:
                p.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> TimeMAE:
        """As `nn.Module.train`, except that the teacher stays in eval mode unless `teacher_dropout`."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.train(mode and self.teacher_dropout)
        return self

    def after_step(self, flows: list[Flow]) -> None:
        """The teacher moves towards the encoder: xi <- m xi + (1 - m) theta."""
        assert self.teacher is not None
        student = self._student[0]
        for mine, theirs in zip(self.teacher.parameters(), student.parameters(), strict=True):
            if mine is not theirs:
                mine.lerp_(theirs, 1 - self.momentum)
        for held, current in zip(self.teacher.buffers(), student.buffers(), strict=True):
            held.copy_(current)

    def split(self, tokens: Tokens, draws: Draws) -> tuple[Tokens, Tokens]:
        """Seen: what the policy leaves; asked: what it hides, with the codewords drawn for it."""
        hidden = POLICIES[self.policy](tokens, self.ratio, draws)
        asked = tokens.keep(hidden)
        asked = asked.but(attrs={**asked.attrs, "codeword": self._drawn(asked, draws)})
        return tokens.keep(tokens.valid & ~hidden), asked

    @torch.no_grad()
    def _drawn(self, asked: Tokens, draws: Draws) -> Tensor:
        """A codeword for each token, [B, M], drawn from softmax(logits / temperature) by the Gumbel trick."""
        logits = self.center(asked.values).float()
        uniform = draws.uniform(*logits.shape[1:]).clamp(min=2**-25)
        return (logits - self.temperature * (-uniform.log()).log()).argmax(-1)

    def forward(self, flow: Flow) -> dict[str, Tensor]:
        """`align` and `classify`, weighted, over hidden tokens; accuracy and use of codewords go into the logs."""
        assert self.teacher is not None
        assert flow.decoded is not None
        asked, answer = flow.asked, flow.decoded
        codewords, where = asked.attrs["codeword"], asked.valid
        with torch.no_grad():
            target = self.teacher(asked).values
        logits = self.center(answer)
        each = F.cross_entropy(logits.transpose(1, 2), codewords, reduction="none", label_smoothing=self.smoothing)
        flow.logs |= watched(logits.detach(), codewords, where)
        return {
            "align": self.align * mean((answer - target).square(), where[..., None]),
            "classify": self.classify * mean(each, where),
        }


def place_parameters(encoder: Encoder) -> list[nn.Parameter]:
    """The learning parameters that an encoder's `place` is made of, such as its position table; autograd knows.

    Where `place` leads through an output map, that map is among them.
    """
    learning = [p for p in encoder.parameters() if p.requires_grad]
    device = learning[0].device if learning else torch.device("cpu")
    index = torch.zeros(1, 1, dtype=torch.long, device=device)
    values = torch.zeros(1, 1, encoder.spec.dim or 0, device=device)
    pos = torch.zeros(1, 1, encoder.spec.axes, device=device)
    with torch.enable_grad():
        place = encoder.place(Tokens(values, pos, index, index == 0))
    if not place.requires_grad:
        return []
    found = torch.autograd.grad(place.sum(), learning, allow_unused=True)
    return [p for p, gradient in zip(learning, found, strict=True) if gradient is not None]


def watched(logits: Tensor, codewords: Tensor, where: Tensor) -> dict[str, Tensor]:
    """How well codewords are told, and how many are in use.

    Args:
        logits: [B, M, codes]
        codewords: [B, M]
        where: [B, M] bool, which count

    Returns:
        `hits`, share told right; `ndcg@10`; `perplexity`, exp of the entropy of the drawn codewords; `usage`, the
        share of codewords drawn at least once in this batch
    """
    rank = (logits > logits.gather(-1, codewords[..., None])).sum(-1)
    gain = torch.where(rank < 10, 1 / (rank + 2.0).log2(), 0.0)
    counts = torch.zeros(logits.shape[-1], device=logits.device)
    counts = counts.scatter_add(0, codewords.flatten(), where.flatten().to(counts.dtype))
    share = counts / counts.sum().clamp(min=1)
    return {
        "hits": mean(1.0 * (rank == 0), where),
        "ndcg@10": mean(gain, where),
        "perplexity": torch.special.entr(share).sum().exp(),
        "usage": (counts > 0).float().mean(),
    }
