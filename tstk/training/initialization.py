"""Initial weights that the training series give, before the first step."""

from __future__ import annotations

from typing import Literal

from tstk.config.resolve import Config
from tstk.core.pipeline import Pipeline
from tstk.data.data_module import Dataset
from tstk.data.datasets import Windows
from tstk.errors import OptionError
from tstk.evaluation.linear_forecast import fit_linear_map, why_too_large


def start(pipeline: Pipeline, config: Config, data: Dataset) -> list[str]:
    """Let the pipeline, and each slot whose weights are not those of another run, start from the training series.

    Args:
        pipeline: about to be trained, with the scaling of the data
        config: resolved
        data: to train on

    Returns:
        lines for the user

    Raises:
        OptionError: a linear map would take too long, or has no validation part to be chosen by
    """
    notes = []
    if pipeline.linear_map is not None:
        notes.append(_from_linear_map(pipeline, data, config.options("pipeline")["linear_map"]))
    notes += [part.start(pipeline, data.train) for name, part in pipeline.slots() if name not in config.mounts]
    return [note for note in notes if note]


def _from_linear_map(pipeline: Pipeline, data: Dataset, maps: Literal["auto", "shared", "per-channel"]) -> str:
    """Fit the linear map that the forecasts of a pipeline start from.

    Args:
        maps: see `tstk.evaluation.linear_forecast.fit_linear_map`

    Returns:
        what was chosen, for the user

    Raises:
        OptionError: it would take too long, or has no validation part to be chosen by
    """
    assert isinstance(data.train, Windows)
    assert isinstance(data.val, Windows)
    reason = why_too_large(data.spec, maps)
    if data.val is data.test:
        reason = "it is chosen by the validation part, which is the test part here"
    if reason:
        raise OptionError(f"--linear-map {maps}: {reason}; use --linear-map none")
    fit = fit_linear_map(data.train, data.val, data.std[:, None], maps)
    pipeline.linear_map = fit.forecaster
    return f"forecasts start from a linear map ({fit.choice})"
