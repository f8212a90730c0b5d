"""Distillation from a model with text to one without: losses on z, the vector before quantization."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from tstk.builtin.losses.reconstruct import Reconstruct
from tstk.core.interfaces import BasePipeline, Tokenizer
from tstk.core.types import Spec, StepOutput
from tstk.errors import CheckpointError, IncompatibleError, OptionError
from tstk.nn.reduce import masked_mean
from tstk.plugins.ranges import PositiveFloat


class Distill(Reconstruct):
    """Reconstruction, and distillation of z from a teacher with the text; the student gets the series only.

    The teacher is a run with a guided tokenizer (`--tokenizer.guide`); the data provide its text (`--conditioning`)
    during training. Start from the teacher and keep its codes: `--init-from TEACHER --freeze tokenizer.codebook`. The
    losses of the codebook then train z only. A trained student needs neither the teacher nor a text.

    Args:
        teacher: run directory of the teacher
        weight: weight of the distillation loss
        distance: z, mean squared error of the vectors; codes, cross-entropy of the soft assignments to codes
        temperature: temperature of the soft assignments, softmax(-distance^2 / temperature)
    """

    non_persistent = ("teacher",)
    source_options = {"teacher": ""}

    def __init__(
        self,
        spec: Spec,
        *,
        teacher: str | None = None,
        weight: float = 1.0,
        distance: Literal["z", "codes"] = "z",
        temperature: PositiveFloat = 0.1,
    ) -> None:
        super().__init__(spec)
        if teacher is None:
            raise OptionError("--loss distill needs a teacher: --loss.teacher RUN")
        self.teacher_path, self.weight, self.distance, self.temperature = teacher, weight, distance, temperature
        self.teacher: Tokenizer | None = None

    def init_from_pretrained(self) -> None:
        """Check that the teacher exists when training starts; a trained student does not need it.

        Raises:
            CheckpointError: the teacher does not exist
        """
        if not self.teacher_path or not Path(self.teacher_path).is_dir():
            raise CheckpointError(f"--loss.teacher {self.teacher_path}: there is no such run")

    def bind(self, pipeline: BasePipeline) -> None:
        """Load the teacher, if there is one and it still exists.

        Raises:
            IncompatibleError: its tokens differ from the student's in number, codes, width or length
        """
        from tstk.runs.checkpoint import load

        if not self.teacher_path or not Path(self.teacher_path).is_dir():
            return
        teacher, student = load(self.teacher_path).tokenizer, pipeline.tokenizer
        if _describe_output(teacher) != _describe_output(student):
            raise IncompatibleError(
                f"--loss.teacher {self.teacher_path}: its tokens differ from the student's "
                f"({_describe_output(teacher)} and {_describe_output(student)}); "
                f"start with --init-from {self.teacher_path}"
            )
        self.teacher = teacher.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Distill:
        """Set the mode as `nn.Module.train` does, but keep the teacher in eval mode."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def forward(self, step_output: StepOutput) -> dict[str, Tensor]:
        """Return the losses `reconstruction` and `distill`; log `agreement`, the share of codes equal to the teacher's.

        Raises:
            CheckpointError: the teacher no longer exists
        """
        if self.teacher is None:
            raise CheckpointError(f"--loss.teacher {self.teacher_path}: the run no longer exists, so there is no loss")
        with torch.no_grad():
            teacher_tokens = self.teacher(step_output.series)
        tokens = step_output.tokens
        student_z, teacher_z, valid = tokens.attrs["z"], teacher_tokens.attrs["z"], tokens.valid
        if self.distance == "z":
            distance = (student_z - teacher_z).square().mean(-1)
        else:
            codes: Tensor = self.teacher.codebook.codes  # type: ignore[union-attr, assignment]
            student_logits, teacher_logits = (
                (-torch.cdist(z, codes).square() / self.temperature).flatten(0, 1) for z in (student_z, teacher_z)
            )
            distance = F.cross_entropy(student_logits, teacher_logits.softmax(-1), reduction="none").view_as(valid)
        step_output.metrics["agreement"] = masked_mean((tokens.ids == teacher_tokens.ids).float(), valid)
        return {**super().forward(step_output), "distill": self.weight * masked_mean(distance, valid)}


def _describe_output(tokenizer: Tokenizer) -> str:
    out = tokenizer.out
    return f"{out.num_tokens} tokens of {out.vocab_size} codes, {out.dim} wide, for {out.length} samples"


class Consistent(Reconstruct):
    """Reconstruction with the text, and consistency of z with and without the text: one model for both cases.

    Args:
        weight: weight of the consistency loss
    """

    def __init__(self, spec: Spec, *, weight: float = 1.0) -> None:
        super().__init__(spec)
        if "text" not in spec.conditioning:
            raise IncompatibleError(
                f"{self.display_name()} needs texts, which these data do not have; "
                "add them with --conditioning text=FILE (tstk text writes such a file)"
            )
        self.weight = weight

    def bind(self, pipeline: BasePipeline) -> None:
        """Check that the tokenizer is guided by the text.

        Raises:
            IncompatibleError: it is not
        """
        if not getattr(pipeline.tokenizer, "guided_attributes", ()):
            raise IncompatibleError(
                f"{self.display_name()} needs a guided tokenizer: --tokenizer vqshape --tokenizer.guide z"
            )

    def forward(self, step_output: StepOutput) -> dict[str, Tensor]:
        """Return the losses `reconstruction` and `consistency`; the latter moves z without the text to z with it."""
        attrs = step_output.tokens.attrs
        losses = super().forward(step_output)
        if "z_unguided" not in attrs:  # series without a text, for example in validation
            return losses
        distance = (attrs["z_unguided"] - attrs["z"].detach()).square().mean(-1)
        return {**losses, "consistency": self.weight * masked_mean(distance, step_output.tokens.valid)}
