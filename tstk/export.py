"""A trained pipeline as one graph, from raw samples to its answer, for programs that have no tstk."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from tstk.errors import TstkError
from tstk.pipeline import Pipeline
from tstk.records import Series

TOLERANCE = 1e-4
"""Largest difference from the pipeline, as a share of its largest answer, that a program may have."""


class Answer(nn.Module):
    """A pipeline as a function of samples alone.

    Args:
        pipeline: trained, with a head or able to forecast
    """

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__()
        self.pipeline = pipeline

    def forward(self, x: Tensor) -> Tensor:
        """Raw samples [B, C, T], none missing -> logits [B, classes], or the future [B, C, H]."""
        return self.pipeline.predict(Series(x))


def export(pipeline: Pipeline, length: int | None = None) -> ExportedProgram:
    """`Answer` as a graph for any batch of one length; save it with `torch.export.save`.

    It is compared with the pipeline on a batch of another size before it is returned.

    Args:
        pipeline: trained, in eval mode
        length: samples of a series; the longest that the pipeline takes unless given

    Raises:
        OptionError: the pipeline predicts nothing
        TstkError: the graph answers differently
    """
    answer = Answer(pipeline.eval())
    shape = (pipeline.spec.channels, length or pipeline.spec.length)
    draw = torch.Generator().manual_seed(0)
    few, more = (torch.randn(n, *shape, generator=draw).to(pipeline.mean.device) for n in (2, 5))
    want = answer(more)  # says what is wrong before a tracer would
    program = torch.export.export(answer, (few,), dynamic_shapes=({0: Dim("batch")},))
    error = float((program.module()(more) - want).abs().max())
    if not error <= TOLERANCE * float(want.abs().max()):
        raise TstkError(f"the exported graph differs from the pipeline by {error:.2g}; please report this")
    return program
