"""Initialization of weights from the training series, before the first step."""

from __future__ import annotations

from typing import Literal

import torch

from tstk.config.records import RunConfig
from tstk.config.resolve import Config
from tstk.core.pipeline import Pipeline
from tstk.core.prediction import eval_mode
from tstk.core.rng import SampleRNG
from tstk.data.data_module import DataModule
from tstk.data.datasets import WindowDataset
from tstk.data.scale import describe_other_data
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


def describe_other_sources(config: Config, data: DataModule) -> list[str]:
    """Return a note for each run that weights come from and whose data had other channels, steps or another scale.

    Args:
        config: resolved
        data: the data to train on
    """
    notes = []
    for run in dict.fromkeys(config.init_from.values()):
        run_config = RunConfig.read(run)
        standardize = config.options("data")["standardize"]
        if difference := describe_other_data(run_config, data, standardize, "each is standardized by its own"):
            notes.append(f"{run} was trained on other data than {data.name}: {difference}")
    return notes


def check_queries(pipeline: Pipeline, data: DataModule) -> list[str]:
    """Check that the loss selects tokens to predict, which a short series or a large token may not leave.

    Args:
        pipeline: about to be trained
        data: the data to train on

    Returns:
        notes for the user

    Raises:
        OptionError: no training series has a token to predict, so the loss would be 0
    """
    if pipeline.loss.consumes != "decoder":
        return []
    lengths, rows = data.train.lengths.unique(return_inverse=True)
    example_row = torch.empty_like(lengths).scatter_(0, rows, torch.arange(len(rows)))

    def count_queries(i: int) -> tuple[int, int]:
        series = data.train.batch(example_row[i : i + 1])
        assert series.sample_id is not None
        tokens = pipeline.preprocess(series, mask_future=pipeline.loss.masks_future).tokens
        rng = SampleRNG(0, 0, torch.arange(len(tokens.valid)))
        return int(pipeline.loss.split(tokens, rng)[1].valid.sum()), int(tokens.valid.sum(1).max())

    with eval_mode(pipeline):
        num_queries, num_tokens = count_queries(len(lengths) - 1)
        remedy = "choose smaller tokens (such as --tokenizer.window) or a larger --loss.ratio"
        if not num_queries:
            raise OptionError(
                f"{pipeline.loss.display_name()} finds nothing to predict: the longest series of {data.name} has "
                f"{num_tokens} token{'s' * (num_tokens != 1)}, of which it masks none; {remedy}"
            )
        bad, good = -1, len(lengths) - 1  # bisect: the shortest series have the fewest tokens
        while good - bad > 1:
            middle = (bad + good) // 2
            bad, good = (bad, middle) if count_queries(middle)[0] else (middle, good)
    if bad < 0:
        return []
    count = int((data.train.lengths <= lengths[bad]).sum())
    return [
        f"{count} of {len(data.train)} training series have too few tokens ({lengths[bad]} samples or less) for "
        f"{pipeline.loss.display_name()} to mask one, so nothing is learned from them; {remedy}"
    ]


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
