"""Initialization of weights from the training series, before the first step."""

from __future__ import annotations

from typing import Literal

from tstk.config.resolve import Config
from tstk.core.pipeline import Pipeline
from tstk.data.data_module import DataModule
from tstk.data.datasets import WindowDataset
from tstk.errors import OptionError
from tstk.evaluation.linear_forecast import fit_linear_map, why_linear_map_too_large


def init_pipeline_from_data(pipeline: Pipeline, config: Config, data: DataModule) -> list[str]:
    """Initialize the linear map, and each slot that does not start from another run, from the training series.

    Args:
        pipeline: about to be trained, with the mean and standard deviation of the data
        config: resolved
        data: the data to train on

    Returns:
        notes for the user

    Raises:
        OptionError: the linear map is too large, or there is no validation split to select it by
    """
    notes = []
    if pipeline.linear_map is not None:
        notes.append(_init_linear_map(pipeline, data, config.options("pipeline")["linear_map"]))
    notes += [
        part.init_from_data(pipeline, data.train)
        for name, part in pipeline.named_slots()
        if name not in config.init_from
    ]
    return [note for note in notes if note]


def _init_linear_map(pipeline: Pipeline, data: DataModule, kind: Literal["auto", "shared", "per-channel"]) -> str:
    """Fit the linear map to which the head's forecasts are added.

    Args:
        pipeline: receives the map
        data: windows of a table
        kind: see `tstk.evaluation.linear_forecast.fit_linear_map`

    Returns:
        a note for the user

    Raises:
        OptionError: the map is too large, or there is no validation split to select it by
    """
    assert isinstance(data.train, WindowDataset)
    assert isinstance(data.val, WindowDataset)
    reason = why_linear_map_too_large(data.spec, kind)
    if data.val is data.test:
        reason = "it is selected on the validation split, which is the test split here"
    if reason:
        raise OptionError(f"--linear-map {kind}: {reason}; use --linear-map none")
    fit = fit_linear_map(data.train, data.val, data.std[:, None], kind)
    pipeline.linear_map = fit.forecaster
    return f"forecasts start from a linear map ({fit.description})"
