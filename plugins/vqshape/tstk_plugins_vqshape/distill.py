"""What a model that reads a text can teach one that does not: losses on z, the vector that becomes a code."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from tstk.builtin.losses.reconstruct import Reconstruct
from tstk.core.interfaces import Tokenizer
from tstk.core.pipeline import Pipeline
from tstk.core.types import Flow, Spec
from tstk.errors import CheckpointError, NeedsError, OptionError
from tstk.nn.reduce import mean


class Distill(Reconstruct):
    """Reconstruction, and z as a teacher with the text has it; the student reads the series alone.

    The teacher is a run whose tokenizer is guided (`--tokenizer.guide`); the data bring its text (`--extra`) while
    training. Start from the teacher and keep its codes: `--from TEACHER --freeze tokenizer.codebook`. What remains of
    the codebook's penalties then moves z alone. A trained student needs neither the teacher nor a text.

    Args:
        teacher: the run directory of the teacher
        weight: of the term
        distance: z, mean square between vectors; codes, cross-entropy between what share of itself each code is given
        temperature: of these shares, softmax(-distance^2 / temperature)
    """

    transient = ("teacher",)

    def __init__(
        self,
        spec: Spec,
        *,
        teacher: str | None = None,
        weight: float = 1.0,
        distance: Literal["z", "codes"] = "z",
        temperature: float = 0.1,
    ) -> None:
        super().__init__(spec)
        if teacher is None:
            raise OptionError("--loss distill wants a teacher: --loss.teacher RUN")
        if temperature <= 0:
            raise OptionError(f"loss.temperature={temperature}: expected more than 0")
        self.path, self.weight, self.distance, self.temperature = teacher, weight, distance, temperature
        self.teacher: Tokenizer | None = None

    def warm_start(self) -> None:
        """The teacher must be there to learn from; a trained student does without."""
        if not Path(self.path).is_dir():
            raise CheckpointError(f"--loss.teacher {self.path}: there is no such run")

    def bind(self, pipeline: Pipeline) -> None:
        """Read the teacher, if it is still there."""
        from tstk.runs.checkpoint import load

        if not Path(self.path).is_dir():
            return
        teacher, student = load(self.path).tokenizer, pipeline.tokenizer
        if _size(teacher) != _size(student):
            raise NeedsError(
                f"--loss.teacher {self.path}: its tokens are not like the student's ({_size(teacher)} and "
                f"{_size(student)}); start with --from {self.path}"
            )
        self.teacher = teacher.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Distill:
        """As `nn.Module.train`, except that the teacher stays in eval mode."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def forward(self, flow: Flow) -> dict[str, Tensor]:
        """`reconstruction` and `distill`; into the logs goes `agreement`, the share of codes that are the teacher's."""
        if self.teacher is None:
            raise CheckpointError(f"the teacher {self.path} of this run is gone, so its loss cannot be computed")
        with torch.no_grad():
            told = self.teacher(flow.series)
        tokens = flow.tokens
        mine, theirs, where = tokens.attrs["z"], told.attrs["z"], tokens.valid
        if self.distance == "z":
            each = (mine - theirs).square().mean(-1)
        else:
            codes: Tensor = self.teacher.codebook.codes  # type: ignore[union-attr, assignment]
            said, meant = (-torch.cdist(z, codes).square() / self.temperature for z in (mine, theirs))
            each = F.cross_entropy(said.flatten(0, 1), meant.flatten(0, 1).softmax(-1), reduction="none").view_as(where)
        flow.logs["agreement"] = mean((tokens.ids == told.ids).float(), where)
        return {**super().forward(flow), "distill": self.weight * mean(each, where)}


def _size(tokenizer: Tokenizer) -> str:
    out = tokenizer.out
    return f"{out.tokens} tokens of {out.vocab} codes, {out.dim} wide, for {out.length} samples"


class Consistent(Reconstruct):
    """Reconstruction with the text, and z without it as it is with it: one model for both.

    Args:
        weight: of the second term
    """

    def __init__(self, spec: Spec, *, weight: float = 1.0) -> None:
        super().__init__(spec)
        if "text" not in spec.extra:
            raise NeedsError(
                f"{self.called()} compares z with and without a text, and these data bring none: --extra FILE"
            )
        self.weight = weight

    def bind(self, pipeline: Pipeline) -> None:
        """Refuse a tokenizer that does not read the text."""
        if not getattr(pipeline.tokenizer, "guided", ()):
            raise NeedsError(f"{self.called()} needs a guided tokenizer: --tokenizer vqshape --tokenizer.guide z")

    def forward(self, flow: Flow) -> dict[str, Tensor]:
        """`reconstruction` and `consistency`; the latter moves z without the text towards z with it."""
        attrs = flow.tokens.attrs
        terms = super().forward(flow)
        if "z_alone" not in attrs:  # series that bring no text, in validation say
            return terms
        each = (attrs["z_alone"] - attrs["z"].detach()).square().mean(-1)
        return {**terms, "consistency": self.weight * mean(each, flow.tokens.valid)}
