"""Samples of preprocessed series in the units of the data."""

from __future__ import annotations

from torch import Tensor

from tstk.core.pipeline import Pipeline
from tstk.core.types import StepOutput


def to_data_units(pipeline: Pipeline, values: Tensor, step_output: StepOutput) -> Tensor:
    """Return normalized samples in the units of the file.

    Args:
        pipeline: that normalized them
        values: [B, C, T], or [B * C, 1, T] of folded channels
        step_output: of the batch

    Returns:
        [B, C, T], float64 if an offset was subtracted when the data were read
    """
    if pipeline.channel_independent:
        values = values[:, 0].unflatten(0, (-1, pipeline.spec.channels))
    if step_output.loc is not None and step_output.scale is not None:
        values = values * step_output.scale + step_output.loc
    return pipeline.add_offset((values * pipeline.std + pipeline.mean).cpu())
