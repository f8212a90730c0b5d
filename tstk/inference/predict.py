"""Score, predict, forecast and embed with a trained run, on its own test split or on other data.

from tstk.inference.predict import embed, predict, score
score("runs/a")
predict("runs/a", "new.csv")["predicted"]
embed("runs/a", "new.csv")["embedding"]      # [N, E]
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tstk.config.records import RunConfig
from tstk.core.pipeline import Pipeline
from tstk.core.prediction import map_batches, predict_batches
from tstk.core.repr import ShortRepr
from tstk.core.task import Baselines
from tstk.core.types import Split
from tstk.data.catalog import get_reader, locate
from tstk.data.columns import ColumnRoles
from tstk.data.config import DataConfig
from tstk.data.data_module import DataModule, compute_mean_std
from tstk.data.datasets import SeriesDataset
from tstk.data.identity import locate_run_data
from tstk.data.load import load_data, load_split
from tstk.errors import DataError, OptionError, TstkError
from tstk.evaluation.baselines import score_baselines
from tstk.evaluation.evaluate import evaluate, iter_batches
from tstk.evaluation.features import Features, Pool, feature_extractor
from tstk.evaluation.tasks.multilabel import join_labels
from tstk.evaluation.token_order import evaluate_token_order, why_order_undefined
from tstk.nn.devices import default_device
from tstk.runs.checkpoint import load

Arrays = dict[str, NDArray[Any]]


@dataclass(repr=False)
class Forecast(ShortRepr):
    """Forecast after the last row of a table.

    Args:
        values: [C, H] in the units of the data; the mean over sample paths if there are any
        channels: C names
        dates: H dates, if the table has regularly spaced dates
        forecast_samples: [S, C, H] sample paths, if the run is probabilistic
    """

    values: NDArray[np.floating[Any]]
    channels: tuple[str, ...]
    dates: NDArray[np.datetime64] | None = None
    forecast_samples: NDArray[np.floating[Any]] | None = None


def score(
    run: str | Path,
    data: str | None = None,
    *,
    data_root: str | None = None,
    label_column: str | None = None,
    batch_size: int = 256,
    shuffle_tokens: bool = False,
) -> dict[str, Any]:
    """Score a run and the baselines.

    Baselines are fitted on the training data of the run, which are loaded again; if that is not possible, only the
    majority class or the last value is scored.

    Args:
        run: run directory
        data: name or path of labelled data; the test split of the run if None
        data_root: folder to look up data sets by name in
        label_column: column or array with the labels, if it has an unusual name
        batch_size: series at a time
        shuffle_tokens: also score with the tokens of each series shuffled in time

    Returns:
        "data", "size", "notes", "scores", "baselines", "baselines_skipped" and "baselines_details"; with
        `shuffle_tokens` also "order", the fields of `TokenOrderResult` with "uses_order" and "reading" (its summary)

    Raises:
        CheckpointError: the run cannot be loaded
        OptionError: the temporal order test does not apply to the run
        DataError: the data do not fit the run, have no labels, or a score is not finite
    """
    pipeline, run_config = _load_run(run)
    if shuffle_tokens and (reason := why_order_undefined(pipeline)) is not None:
        raise OptionError(f"--shuffle-tokens: {reason}")
    name, split = _load_split(pipeline, run_config, data, data_root, label_column)
    if pipeline.head is not None and pipeline.spec.horizon is None and split.y is None:
        kind = "targets" if pipeline.target_names else "labels"
        raise DataError(f"{name}: these series have no {kind}, so there is nothing to score; try tstk predict {run}")
    seed = run_config.options("train")["seed"]
    baselines = _score_baselines(pipeline, run_config, split, data_root)
    extra = {}
    if shuffle_tokens:
        batches = iter_batches(split, batch_size, pipeline.mean.device)
        extra["order"] = evaluate_token_order(pipeline, batches, seed=seed, groups=split.groups).to_dict()
    return {
        "data": name,
        "size": len(split),
        "notes": _describe_one_class(pipeline),
        "scores": evaluate(pipeline, split, seed=seed, batch_size=batch_size, source=name),
        **baselines.to_dict(),
        **extra,
    }


def predict(
    run: str | Path,
    data: str | None = None,
    *,
    data_root: str | None = None,
    label_column: str | None = None,
    batch_size: int = 256,
) -> Arrays:
    """Predict every series, or every window of a table.

    Args:
        run: run directory
        data: name or path; the test split of the run if None
        data_root: folder to look up data sets by name in
        label_column: column or array with the labels, if it has an unusual name
        batch_size: series at a time

    Returns:
        classes and labels: "predicted" [N] names, "probability" [N, K], "classes" K names, and "truth" [N] names if
        known; numbers: "predicted" and, if known, "truth", each [N, K] in the units of the data, and "targets" K names;
        forecasting: "forecast" and "truth", each [N, C, H] in the units of the data, and "channels" C names

    Raises:
        CheckpointError: the run cannot be loaded
        OptionError: it was pretrained without a task
        DataError: the data do not fit the run, or a prediction is not finite
    """
    pipeline, run_config = _load_run(run)
    name, split = _load_split(pipeline, run_config, data, data_root, label_column)
    prediction = predict_batches(pipeline, iter_batches(split, batch_size, "cpu"), source=name)
    if prediction.forecast is not None:
        targets = [series.y for series in iter_batches(split, batch_size, "cpu") if series.y is not None]
        return {
            "forecast": prediction.forecast,
            "truth": _add_offset(torch.cat(targets), pipeline).numpy(),
            "channels": np.array(prediction.channels),
        }
    if prediction.values is not None:
        result = {"predicted": prediction.values, "targets": np.array(prediction.target_names)}
        return result if split.y is None else result | {"truth": split.y.numpy()}
    assert prediction.labels is not None
    assert prediction.probabilities is not None
    classes = np.array(prediction.classes)
    result = {"predicted": prediction.labels, "probability": prediction.probabilities, "classes": classes}
    if split.y is None:
        return result
    if split.y.ndim == 2:
        return result | {"truth": join_labels(split.y.numpy() == 1, prediction.classes)}
    return result | {"truth": classes[split.y.numpy()]}


def forecast(
    run: str | Path,
    data: str | None = None,
    *,
    data_root: str | None = None,
    horizon: int | None = None,
    samples: int | None = None,
) -> Forecast:
    """Forecast the rows that follow the last row of a table.

    Args:
        run: run directory
        data: name or path of a table; the table the run was trained on if None
        data_root: folder to look up data sets by name in
        horizon: number of rows to forecast; the horizon of the run if None
        samples: number of sample paths; the default of the loss if None

    Raises:
        CheckpointError: the run cannot be loaded
        OptionError: the run does not forecast, not this far, or is not probabilistic
        DataError: the table does not fit the run
    """
    pipeline, run_config = _load_run(run)
    if pipeline.spec.horizon is None:
        raise OptionError(f"{run} was not trained to forecast, so it cannot continue a table")
    name, folder = (data, data_root) if data is not None else _resolve_run_data(run_config, data_root)
    split = load_split(name, input_schema=run_config.input_schema, data_root=folder, include_targets=False)
    last = split.batch(torch.tensor([len(split) - 1]))
    prediction = predict_batches(pipeline, [last], horizon, samples or pipeline.loss.default_num_samples, source=name)
    values, sample_paths = prediction.forecast, prediction.forecast_samples
    assert values is not None
    dates = _infer_future_dates(name, folder, values.shape[-1])
    return Forecast(values[0], prediction.channels, dates, None if sample_paths is None else sample_paths[:, 0])


def embed(
    run: str | Path,
    data: str | None = None,
    *,
    data_root: str | None = None,
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
        label_column: column or array with the labels, if it has an unusual name
        features: pooled, tokens (concatenated), codes (relative frequency of each) or counts (occurrences of each)
        pool: how pooled features reduce the tokens: mean, max, cls or statistics
        batch_size: series at a time

    Returns:
        "embedding" [N, E]; "y", the targets as in `Series.y`, if known; and "classes" or "targets", their names

    Raises:
        CheckpointError: the run cannot be loaded
        DataError: the data do not fit the run, or an embedding is not finite
    """
    pipeline, run_config = _load_run(run)
    name, split = _load_split(pipeline, run_config, data, data_root, label_column)
    extract = feature_extractor(pipeline, features, pool)
    # targets must not leak into the features of their context
    batches = iter_batches(split, batch_size, "cpu")
    vectors = map_batches(pipeline, batches, lambda series: extract(series.replace(y=None)), source=name)
    result: Arrays = {"embedding": vectors.numpy()}
    if split.y is None:
        return result
    if pipeline.target_names:
        return result | {"y": split.y.numpy(), "targets": np.array(pipeline.target_names)}
    return result | {"y": split.y.numpy(), "classes": np.array(run_config.classes)}


def open_run(
    run: str | Path, data: str | None = None, *, data_root: str | None = None, label_column: str | None = None
) -> tuple[Pipeline, Split, RunConfig]:
    """Return the pipeline of a run, the split to apply it to, and the config of the run.

    Args:
        run: run directory
        data: name or path; the test split of the run if None
        data_root: folder to look up data sets by name in
        label_column: column or array with the labels, if it has an unusual name

    Raises:
        CheckpointError: the run cannot be loaded
        DataError: the data do not fit the run
    """
    pipeline, run_config = _load_run(run)
    return pipeline, _load_split(pipeline, run_config, data, data_root, label_column)[1], run_config


def _load_run(run: str | Path) -> tuple[Pipeline, RunConfig]:
    pipeline = load(run)
    return pipeline.to(default_device()), RunConfig.read(run)


def _resolve_run_data(run_config: RunConfig, data_root: str | None) -> tuple[str, str | None]:
    """Return name and root folder of the data of a run."""
    table = locate_run_data(run_config, data_root)
    return table["use"], table["data_root"]


def _load_split(
    pipeline: Pipeline, run_config: RunConfig, data: str | None, data_root: str | None, label_column: str | None
) -> tuple[str, Split]:
    """Load other data as a single split, or the test split of the run; return the name of the data with it."""
    if data is not None:
        input_schema = {**run_config.input_schema, "any_length": pipeline.tokenizer.accepts_any_length}
        other_split = load_split(data, input_schema=input_schema, data_root=data_root, roles=ColumnRoles(label_column))
        if run_config.split_channels:
            assert isinstance(other_split, SeriesDataset)
            pipeline.set_channels(*compute_mean_std(other_split.x))
        return data, other_split
    run_data = _load_run_data(run_config, data_root, label_column)
    if run_data.test is None:
        raise DataError(f"{run_data.name}: the data of the run have no test split; give other data with --data")
    return str(run_config.component("data")), run_data.test


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
    if pipeline.task is None or pipeline.task.target_type != "class" or len(pipeline.classes) != 1:
        return []
    return [f"the run was trained on class {pipeline.classes[0]} alone, so its accuracy says nothing"]


def _add_offset(values: Tensor, pipeline: Pipeline) -> Tensor:
    """Return samples [N, C, T] of a split in the units of its file."""
    return values if pipeline.offset is None else values + pipeline.offset[:, None]


def _infer_future_dates(data: str, data_root: str | None, horizon: int) -> NDArray[np.datetime64] | None:
    """Return the dates that follow the last row of a table; None unless its dates are regularly spaced."""
    path = Path(data).expanduser()
    if not path.is_file():
        files = locate(data, data_root).files
        path = files.get("test", next(iter(files.values())))
    dates = getattr(get_reader(path)(path), "dates", None)
    if dates is None or dates.dtype.kind != "M" or len(dates) < 2:
        return None
    gaps = np.diff(dates)
    return dates[-1] + gaps[-1] * np.arange(1, horizon + 1) if (gaps == gaps[-1]).all() else None
