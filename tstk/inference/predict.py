"""Score, predict, forecast and embed with a trained run, on its own test split or on other data.

from tstk.inference.predict import embed, predict, score
score("runs/a")
predict("runs/a", "new.csv")["predicted"]
embed("runs/a", "new.csv")["embedding"]      # [N, E]
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tstk.config.records import Calibration, RunConfig
from tstk.config.resolve import Config
from tstk.core.pipeline import Pipeline
from tstk.core.prediction import Prediction, map_batches, predict_batches
from tstk.core.repr import ShortRepr
from tstk.core.task import Baselines
from tstk.core.types import Split
from tstk.data.catalog import DEFAULT_VAL_FRACTION
from tstk.data.columns import Reader
from tstk.data.config import DataConfig
from tstk.data.data_module import DataModule, compute_mean_std
from tstk.data.datasets import SeriesDataset, WindowDataset, name_series
from tstk.data.identity import locate_run_data
from tstk.data.lazy_array import LazyArray
from tstk.data.load import load_data, load_split
from tstk.data.times import continue_rows
from tstk.errors import DataError, DataNoteWarning, OptionError, TstkError, warn_user
from tstk.evaluation.baselines import score_baselines
from tstk.evaluation.calibration import parse_rate
from tstk.evaluation.evaluate import evaluate, iter_batches
from tstk.evaluation.features import Features, Pool, feature_extractor
from tstk.evaluation.probabilities import (
    apply_threshold,
    compare_calibration,
    evaluate_classifier,
    get_temperature,
    is_classifier,
    score_classifier,
)
from tstk.evaluation.segments import join_windows
from tstk.evaluation.tasks.multilabel import name_true_labels
from tstk.evaluation.token_order import evaluate_token_order, why_order_undefined
from tstk.inference.frames import forecast_last_windows
from tstk.inference.identity import Arrays, identify_series
from tstk.inference.recordings import get_data_options, warn_of_other_scale
from tstk.nn.devices import default_device
from tstk.runs.checkpoint import load
from tstk.training.small_data import read_data


@dataclass(repr=False)
class Forecast(ShortRepr):
    """Forecast after the last row of a table, or of a series of a set.

    Args:
        values: [C, H] in the units of the data; the mean over sample paths if there are any
        channels: C names
        dates: H times, as the table writes them, if its times are evenly spaced
        forecast_samples: [S, C, H] sample paths, if the run is probabilistic
        id: name of the series; None for a table
    """

    values: NDArray[np.floating[Any]]
    channels: tuple[str, ...]
    dates: list[str] | None = None
    forecast_samples: NDArray[np.floating[Any]] | None = None
    id: str | None = None


def score(
    run: str | Path,
    data: str | None = None,
    *,
    data_root: str | None = None,
    reader: Reader | None = None,
    label_column: str | None = None,
    batch_size: int = 256,
    shuffle_tokens: bool = False,
    threshold_for: str | None = None,
) -> dict[str, Any]:
    """Score a run and the baselines.

    Baselines are fitted on the training data of the run, which are loaded again; if that is not possible, only the
    majority class or the last value is scored.

    Args:
        run: run directory
        data: name or path of labelled data; the test split of the run if None
        data_root: folder to look up data sets by name in
        reader: name of the reader of these data, or a table of its name and options; if None that of the run, or of the
            suffix
        label_column: column or array with the labels, if it has an unusual name
        batch_size: series at a time; fewer where they are long
        shuffle_tokens: also score with the tokens of each series shuffled in time
        threshold_for: `sensitivity=0.95` or `specificity=0.9`: also score the decisions of a threshold that reaches
            this on the validation split of the run

    Returns:
        "data", "size", "notes", "scores", "baselines", "baselines_skipped" and "baselines_details"; of a classifier
        "classification", the fields of `ClassificationScores`, and if it is calibrated "calibration", those of
        `Calibration`; with `threshold_for` "threshold", those of `ThresholdScores`; with `shuffle_tokens` "order",
        those of `TokenOrderResult` with "uses_order" and "reading" (its summary)

    Raises:
        CheckpointError: the run cannot be loaded
        OptionError: the temporal order test or a threshold does not apply to the run
        DataError: the data do not fit the run, have no labels, or a score is not finite
    """
    pipeline, run_config = load_run(run)
    _check_applies(pipeline, shuffle_tokens, threshold_for)
    rate = None if threshold_for is None else parse_rate(threshold_for)
    name, split = _load_split(pipeline, run_config, data, data_root, label_column, reader)
    if pipeline.head is not None and pipeline.spec.horizon is None:
        split = _select_labelled(split, name, pipeline, run)
    seed = run_config.options("train")["seed"]
    extra: dict[str, Any] = {}
    if is_classifier(pipeline):
        scores, logits = evaluate_classifier(pipeline, split, seed=seed, batch_size=batch_size, source=name)
        if rate is not None:
            val, options = _load_validation_split(run_config, data_root), {"batch_size": batch_size, "seed": seed}
            extra["threshold"] = asdict(apply_threshold(pipeline, val, split, logits, *rate, **options))
        extra |= _score_classes(pipeline, split, logits, seed, name)
    else:
        scores = evaluate(pipeline, split, seed=seed, batch_size=batch_size, source=name)
    extra |= _score_baselines(pipeline, run_config, split, data_root).to_dict()
    if shuffle_tokens:
        batches = iter_batches(split, batch_size, pipeline.mean.device)
        extra["order"] = evaluate_token_order(pipeline, batches, seed=seed, groups=split.groups).to_dict()
    return {"data": name, "size": len(split), "notes": _describe_one_class(pipeline), "scores": scores, **extra}


def _check_applies(pipeline: Pipeline, shuffle_tokens: bool, threshold_for: str | None) -> None:
    """Raise OptionError if the temporal order test or a threshold is requested and does not apply to a run."""
    if shuffle_tokens and (reason := why_order_undefined(pipeline)) is not None:
        raise OptionError(f"--shuffle-tokens: {reason}")
    if threshold_for is not None and not is_classifier(pipeline):
        raise OptionError(f"--threshold-for {threshold_for}: only a classifier decides by a threshold")


def _select_labelled(split: Split, name: str, pipeline: Pipeline, run: str | Path) -> Split:
    """Return the series whose class is known; of other targets all, since their metrics leave out unknown ones.

    Raises:
        DataError: no target is known
    """
    y = split.y
    if y is None or not (~y.isnan() if y.is_floating_point() else y >= 0).any():
        kind = "targets" if pipeline.target_names else "labels"
        raise DataError(f"{name}: these series have no {kind}, so there is nothing to score; try tstk predict {run}")
    if not isinstance(split, SeriesDataset) or split.y is None or split.y.ndim > 1 or not bool((split.y < 0).any()):
        return split
    return split.select((split.y >= 0).nonzero().flatten())


def _score_classes(pipeline: Pipeline, split: Split, logits: NDArray[Any], seed: int, name: str) -> dict[str, Any]:
    """Score the probabilities of a classifier, and if it is calibrated, compare them with the uncalibrated ones."""
    scores = score_classifier(pipeline, split, logits, seed=seed)
    result: dict[str, Any] = {"classification": None if scores is None else asdict(scores)}
    if pipeline.temperature is not None:
        calibration = Calibration(temperature=get_temperature(pipeline))
        result["calibration"] = asdict(compare_calibration(calibration, name, split, logits))
    return result


def _load_validation_split(run_config: RunConfig, data_root: str | None) -> Split:
    """Load the validation split that the run was not trained on."""
    table = locate_run_data(run_config, data_root)
    data = read_data(Config({**run_config.values, "data": table}), data_root)
    if not len(data.val) or data.val is data.test:
        reason = "has no validation split" if not len(data.val) else "has no validation split but its test split"
        raise OptionError(
            f"--threshold-for: a threshold is chosen on validation, but {data.name} {reason} in this run; train with "
            f"--val-fraction {DEFAULT_VAL_FRACTION}"
        )
    return data.val


def predict(
    run: str | Path,
    data: str | None = None,
    *,
    data_root: str | None = None,
    reader: Reader | None = None,
    label_column: str | None = None,
    batch_size: int = 256,
) -> Arrays:
    """Predict every series, or every window of a table.

    Args:
        run: run directory
        data: name or path; the test split of the run if None
        data_root: folder to look up data sets by name in
        reader: name of the reader of these data, or a table of its name and options; if None that of the run, or of the
            suffix
        label_column: column or array with the labels, if it has an unusual name
        batch_size: series at a time; fewer where they are long

    Returns:
        classes and labels: "predicted" [N] names, "probability" [N, K], "classes" K names, and "truth" [N] names if
        any is known, empty where a class is unknown, of labels with NAME? where it is; numbers: "predicted" and, if
        known, "truth", each [N, K] in the units of the data, and "targets" K names; forecasting: "forecast" and
        "truth", each [N, C, H] in the units of the data, and "channels" C names; a class per sample: "predicted" and,
        if known, "truth", each [N, T] names, empty beyond the end and where unknown, "probability" [N, K, T],
        "classes", "recording" [N], equal for windows that follow each other, and "start" [N], the place of their first
        sample in the recording; all with "row", "id"
        and "group" as from `identify_series`

    Raises:
        CheckpointError: the run cannot be loaded
        OptionError: it was pretrained without a task
        DataError: the data do not fit the run, or a prediction is not finite
    """
    pipeline, run_config = load_run(run)
    name, split = _load_split(pipeline, run_config, data, data_root, label_column, reader)
    prediction = predict_batches(
        pipeline, iter_batches(split, batch_size, "cpu"), source=name, name_series=partial(name_series, split)
    )
    if prediction.forecast is not None:
        targets = [series.y for series in iter_batches(split, batch_size, "cpu") if series.y is not None]
        return {
            "forecast": prediction.forecast,
            "truth": pipeline.add_offset(torch.cat(targets)).numpy(),
            "channels": np.array(prediction.channels),
            **identify_series(split),
        }
    if prediction.values is not None:
        result = {"predicted": prediction.values, "targets": np.array(prediction.target_names)}
        result |= identify_series(split)
        return result if split.y is None else result | {"truth": split.y.numpy()}
    assert prediction.labels is not None
    if prediction.labels.ndim == 1:
        return _describe_classes(prediction, split)
    if pipeline.resize is not None:
        note = f"samples are those of series resampled to {pipeline.resize}, as in training, not of the file"
        warn_user(note, DataNoteWarning)
    return _describe_samples(prediction, split, pipeline.spec.length)


def _describe_classes(prediction: Prediction, split: Split) -> Arrays:
    """Return the classes or labels of each series."""
    assert prediction.labels is not None
    assert prediction.probabilities is not None
    classes = np.array(prediction.classes)
    result = {"predicted": prediction.labels, "probability": prediction.probabilities, "classes": classes}
    result |= identify_series(split)
    if split.y is None:
        return result
    if split.y.ndim == 2:
        return result | {"truth": name_true_labels(split.y, prediction.classes)}
    return result | {"truth": np.array([*prediction.classes, ""])[split.y.numpy()]}  # the last is that of -1


def _describe_samples(prediction: Prediction, split: Split, length: int) -> Arrays:
    """Return the classes of samples of each series, or of each window of a recording."""
    assert prediction.labels is not None
    assert prediction.probabilities is not None
    count, num_samples = prediction.labels.shape
    is_sample = torch.arange(num_samples) < split.lengths[:, None]
    recording = np.zeros(count, np.int64)
    for number, rows in enumerate(join_windows(split, count, length)):
        recording[rows] = number
    identity = identify_series(split)
    is_whole = not isinstance(split, SeriesDataset) or split.recordings is None
    result = {
        "predicted": np.where(is_sample.numpy(), prediction.labels, ""),
        "probability": prediction.probabilities,
        "classes": np.array(prediction.classes),
        "recording": recording,
        "start": np.zeros(count, np.int64) if is_whole else identity["row"],
        **identity,
    }
    if split.y is None:
        return result
    names = np.array([*prediction.classes, ""])  # the last is that of -1
    return result | {"truth": names[split.y[:, :num_samples].numpy()]}


def describe_targets(pipeline: Pipeline, split: Split) -> Arrays:
    """Return "y", the targets as in `Series.y`, if known, and their names as "classes" or "targets"."""
    if split.y is None:
        return {}
    kind, names = ("targets", pipeline.target_names) if pipeline.target_names else ("classes", pipeline.classes)
    return {"y": split.y.numpy(), kind: np.array(names)}


def forecast(
    run: str | Path,
    data: str | None = None,
    *,
    data_root: str | None = None,
    reader: Reader | None = None,
    horizon: int | None = None,
    samples: int | None = None,
) -> list[Forecast]:
    """Forecast the rows that follow the last row of a table, or of each series of a set.

    Args:
        run: run directory
        data: name or path of a table or of series; those that the run was trained on if None
        data_root: folder to look up data sets by name in
        reader: name of the reader of these data, or a table of its name and options; if None that of the run, or of the
            suffix
        horizon: number of rows to forecast; the horizon of the run if None
        samples: number of sample paths; the default of the loss if None

    Returns:
        one forecast of a table; of series one for each, in their order, but for those shorter than the context, which
        a warning names

    Raises:
        CheckpointError: the run cannot be loaded
        OptionError: the run does not forecast, not this far, or is not probabilistic
        DataError: the data do not fit the run
    """
    pipeline, run_config = load_run(run)
    if pipeline.spec.horizon is None:
        raise OptionError(f"{run} was not trained to forecast, so it cannot continue a table")
    name, folder = (data, data_root) if data is not None else _resolve_run_data(run_config, data_root)
    roles, regularize = get_data_options(run_config, data, reader=reader)
    split = load_split(
        name,
        input_schema=run_config.input_schema,
        data_root=folder,
        roles=roles,
        regularize=regularize,
        include_targets=False,
    )
    if data is not None:
        warn_of_other_scale(pipeline, run_config, _get_samples(split), name)
    assert isinstance(split, WindowDataset)
    prediction = forecast_last_windows(pipeline, split, name, horizon, samples)
    values, sample_paths = prediction.forecast, prediction.forecast_samples
    assert values is not None
    forecasts = []
    for k, row in enumerate(split.last_windows.tolist()):
        segment, paths = split.get_segment(row), None if sample_paths is None else sample_paths[:, k]
        dates = None if segment.times is None else continue_rows(segment.times, values.shape[-1])
        forecasts.append(Forecast(values[k], prediction.channels, dates, paths, segment.name))
    return forecasts


def embed(
    run: str | Path,
    data: str | None = None,
    *,
    data_root: str | None = None,
    reader: Reader | None = None,
    label_column: str | None = None,
    features: Features = "pooled",
    pool: Pool = "mean",
    batch_size: int = 256,
) -> Arrays:
    """Compute one feature vector per series, or per window of a table.

    Args:
        run: run directory
        data: name or path; the test split of the run if None
        data_root: folder to look up data sets by name in
        reader: name of the reader of these data, or a table of its name and options; if None that of the run, or of the
            suffix
        label_column: column or array with the labels, if it has an unusual name
        features: pooled, tokens (concatenated), codes (relative frequency of each) or counts (occurrences of each)
        pool: how pooled features reduce the tokens: mean, max, cls or statistics
        batch_size: series at a time; fewer where they are long

    Returns:
        "embedding" [N, E]; "row", "id" and "group" as from `identify_series`; "y", the targets as in `Series.y`, if
        known; and "classes" or "targets", their names

    Raises:
        CheckpointError: the run cannot be loaded
        DataError: the data do not fit the run, or an embedding is not finite
    """
    pipeline, run_config = load_run(run)
    name, split = _load_split(pipeline, run_config, data, data_root, label_column, reader)
    extract = feature_extractor(pipeline, features, pool)
    # targets must not leak into the features of their context
    batches = iter_batches(split, batch_size, "cpu")
    vectors = map_batches(
        pipeline,
        batches,
        lambda series: extract(series.replace(y=None)),
        source=name,
        name_series=partial(name_series, split),
    )
    return {"embedding": vectors.numpy(), **identify_series(split), **describe_targets(pipeline, split)}


def open_run(
    run: str | Path,
    data: str | None = None,
    *,
    data_root: str | None = None,
    reader: Reader | None = None,
    label_column: str | None = None,
) -> tuple[Pipeline, Split, RunConfig]:
    """Return the pipeline of a run, the split to apply it to, and the config of the run; arguments as of `predict`."""
    pipeline, run_config = load_run(run)
    return pipeline, _load_split(pipeline, run_config, data, data_root, label_column, reader)[1], run_config


def load_run(run: str | Path) -> tuple[Pipeline, RunConfig]:
    """Return the pipeline of a run, on the best device there is, and its config."""
    pipeline = load(run)
    return pipeline.to(default_device()), RunConfig.read(run)


def _resolve_run_data(run_config: RunConfig, data_root: str | None) -> tuple[str, str | None]:
    """Return name and root folder of the data of a run."""
    table = locate_run_data(run_config, data_root)
    return table["use"], table["data_root"]


def _load_split(
    pipeline: Pipeline,
    run_config: RunConfig,
    data: str | None,
    data_root: str | None,
    label_column: str | None,
    reader: Reader | None,
) -> tuple[str, Split]:
    """Load other data as a single split, or the test split of the run; return the name of the data with it."""
    if data is not None:
        input_schema = {**run_config.input_schema, "any_length": pipeline.tokenizer.accepts_any_length}
        roles, regularize = get_data_options(run_config, data, label_column, reader)
        other_split = load_split(
            data, input_schema=input_schema, data_root=data_root, roles=roles, regularize=regularize
        )
        if run_config.split_channels:
            assert isinstance(other_split, SeriesDataset)
            pipeline.set_channels(*compute_mean_std(other_split.x))
        else:
            warn_of_other_scale(pipeline, run_config, _get_samples(other_split), data)
        return data, other_split
    get_data_options(run_config, data, reader=reader)
    run_data = _load_run_data(run_config, data_root, label_column)
    if run_data.test is None:
        raise DataError(
            f"{run_data.name}: the data of the run have no test split, which --test-fraction in training holds out; "
            "give other data with --data"
        )
    return str(run_config.component("data")), run_data.test


def _get_samples(split: Split) -> Tensor | LazyArray:
    """Return the samples [N, C, T] of a split that was read from a file, or those of its table."""
    assert isinstance(split, SeriesDataset | WindowDataset)
    return split.table[None] if isinstance(split, WindowDataset) else split.x


def _load_run_data(run_config: RunConfig, data_root: str | None, label_column: str | None = None) -> DataModule:
    """Load the data of a run with the options it was trained with."""
    table = locate_run_data(run_config, data_root)
    table["label_column"] = label_column or table["label_column"]
    return load_data(table.pop("use"), DataConfig(**table))


def _score_baselines(pipeline: Pipeline, run_config: RunConfig, split: Split, data_root: str | None) -> Baselines:
    """Score the baselines; if the training data are not available, only those that need none."""
    has_targets = pipeline.spec.horizon is not None or split.y is not None
    if pipeline.task is None or not pipeline.makes_predictions or not has_targets:
        return Baselines()
    try:
        data = _load_run_data(run_config, data_root)
        names = tuple(run_config.classes), pipeline.target_names
        if (data.classes, data.target_names) != names or len(data.channels) != pipeline.spec.channels:
            raise DataError(f"{data.name}: the data have changed since the run was trained")
    except TstkError as e:
        reason = f"needs the training data of the run: {' '.join(str(e).split())}"
        return pipeline.task.score_fitted_baselines(pipeline, split, reason)
    return score_baselines(pipeline, data, split)


def _describe_one_class(pipeline: Pipeline) -> list[str]:
    if pipeline.task is None or "class" not in pipeline.task.target_type or len(pipeline.classes) != 1:
        return []
    return [f"the run was trained on class {pipeline.classes[0]} alone, so its accuracy says nothing"]
