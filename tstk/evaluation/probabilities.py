"""Class probabilities of a pipeline on a split: their scores, their calibration, and the threshold of a decision."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tstk.config.records import Calibration, ClassificationScores
from tstk.core.prediction import map_batches
from tstk.core.types import Series
from tstk.data.datasets import name_series
from tstk.errors import DataError, OptionError
from tstk.evaluation.calibration import (
    Rate,
    ThresholdScores,
    choose_threshold,
    fit_temperature,
    score_threshold,
    softmax,
)
from tstk.evaluation.classification import compute_scores, score_probabilities
from tstk.evaluation.evaluate import evaluate, iter_batches

if TYPE_CHECKING:
    from tstk.core.pipeline import Pipeline
    from tstk.core.types import Split

Array = NDArray[Any]
CALIBRATED_SCORES = ("log_loss", "brier", "ece")
"""Scores that a temperature changes."""


def evaluate_classifier(
    pipeline: Pipeline, split: Split, *, seed: int = 0, batch_size: int = 256, source: str = "x"
) -> tuple[dict[str, float], Array]:
    """Compute the metrics of `evaluate` and, in the same pass, the logits [N, K] of a split, not calibrated."""
    logits: list[Tensor] = []
    scores = evaluate(pipeline, split, seed=seed, batch_size=batch_size, source=source, head_outputs=logits)
    return scores, torch.cat(logits).numpy()


def predict_logits(pipeline: Pipeline, split: Split, batch_size: int = 256, *, source: str = "x") -> Array:
    """Return the logits [N, K] of a split, not calibrated.

    Args:
        pipeline: a classifier; its mode is restored afterwards
        split: the series to classify
        batch_size: series at a time; with independent channels every channel counts as a series
        source: where the series come from, for messages

    Raises:
        DataError: the logits of a series are not finite
    """

    def predict(series: Series) -> Tensor:
        output = pipeline.predict_step(series.replace(y=None)).head_output
        assert output is not None
        return output.float()

    rows = max(1, batch_size // pipeline.spec.channels) if pipeline.channel_independent else batch_size
    batches, name = iter_batches(split, rows, "cpu"), partial(name_series, split)
    return map_batches(pipeline, batches, predict, source=source, name_series=name, quantity="predictions").numpy()


def is_classifier(pipeline: Pipeline) -> bool:
    """Return whether a pipeline predicts classes."""
    return pipeline.head is not None and pipeline.task is not None and pipeline.task.target_type == "class"


def score_classifier(pipeline: Pipeline, split: Split, logits: Array, *, seed: int = 0) -> ClassificationScores | None:
    """Score the calibrated probabilities of a split; return None if no label is known.

    Args:
        pipeline: whose temperature and names of classes apply
        split: with labels and, where known, groups
        logits: [N, K], not calibrated
        seed: of the bootstrap
    """
    if split.y is None:
        return None
    names = pipeline.classes or [str(k) for k in range(logits.shape[1])]
    probabilities = softmax(logits, get_temperature(pipeline))
    return score_probabilities(split.y.numpy(), probabilities, names, split.groups, seed=seed)


def get_temperature(pipeline: Pipeline) -> float:
    """Return the temperature of a pipeline, 1 if it is not calibrated."""
    return 1.0 if pipeline.temperature is None else float(pipeline.temperature)


def calibrate(pipeline: Pipeline, val: Split) -> Calibration:
    """Set the temperature of a pipeline to the best one for a validation split.

    Labels stay as they are. Where no temperature is best, there is none, and the note of the result says why.

    Args:
        pipeline: a classifier
        val: series that it was not trained on
    """
    logits = predict_logits(pipeline, val, source="validation split")
    targets = np.full(len(val), -1) if val.y is None else val.y.numpy()
    try:
        temperature = fit_temperature(logits, targets)
    except DataError as e:
        pipeline.temperature = None
        return Calibration(temperature=1.0, note=f"not calibrated: {e}")
    pipeline.temperature = torch.tensor(temperature, dtype=torch.float32, device=pipeline.mean.device)
    return compare_calibration(Calibration(temperature=get_temperature(pipeline)), "val", val, logits)


def compare_calibration(calibration: Calibration, name: str, split: Split, logits: Array) -> Calibration:
    """Return a calibration with the scores of a split before and after it.

    Args:
        calibration: of the pipeline
        name: of the split
        split: with labels
        logits: [N, K], not calibrated
    """
    if split.y is None or calibration.note:
        return calibration
    known = split.y.numpy() >= 0
    if not known.any():
        return calibration
    targets = split.y.numpy()[known]
    before, after = (
        compute_scores(targets, softmax(logits[known], temperature)) for temperature in (1.0, calibration.temperature)
    )
    return replace(
        calibration,
        before=calibration.before | {name: {n: before[n] for n in CALIBRATED_SCORES}},
        after=calibration.after | {name: {n: after[n] for n in CALIBRATED_SCORES}},
    )


def apply_threshold(
    pipeline: Pipeline,
    val: Split,
    split: Split,
    logits: Array,
    rate: Rate,
    minimum: float,
    *,
    batch_size: int = 256,
    seed: int = 0,
) -> ThresholdScores:
    """Choose a threshold of the second class on validation, and score it on another split.

    Args:
        pipeline: a classifier of two classes
        val: labelled series that the pipeline was not trained on
        split: labelled series to score
        logits: [N, 2] of these, not calibrated
        rate: which rate to reach on validation
        minimum: its smallest value
        batch_size: series at a time
        seed: of the bootstrap

    Raises:
        OptionError: there are not two classes, or no validation series
        DataError: no threshold is possible
    """
    if pipeline.spec.num_outputs != 2:
        raise OptionError(
            f"--threshold-for {rate}={minimum:g}: a threshold separates two classes, but this run has "
            f"{pipeline.spec.num_outputs}"
        )
    assert val.y is not None
    assert split.y is not None
    temperature = get_temperature(pipeline)
    val_logits = predict_logits(pipeline, val, batch_size, source="validation split")
    val_positive, positive = (softmax(x, temperature)[:, 1] for x in (val_logits, logits))
    threshold = choose_threshold(val.y.numpy(), val_positive, rate, minimum)
    scores, intervals, resampling = score_threshold(split.y.numpy(), positive, threshold, split.groups, seed=seed)
    return ThresholdScores(
        positive_class=(pipeline.classes or ("0", "1"))[1],
        threshold=threshold,
        requested=f"{rate} of {minimum:g} on validation",
        validation=score_threshold(val.y.numpy(), val_positive, threshold)[0],
        scores=scores,
        intervals=intervals,
        resampling=resampling,
    )
