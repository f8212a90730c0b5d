"""Probes: fit a classifier on the frozen features of a run and score it on the test split.

    tstk.evaluation.probe.probe("runs/a", label_fraction=(1.0, 0.1), seeds=(0, 1, 2), untrained=True)["results"]

Hyperparameters are selected on the validation split, then the classifier is refitted on train and validation together
and scored on test once. The margin over the features of an untrained network shows what pretraining contributes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tstk.config.records import RunConfig
from tstk.config.resolve import Config
from tstk.core.pipeline import Pipeline
from tstk.core.prediction import map_batches
from tstk.core.task import TARGET_DESCRIPTIONS, Baselines, get_task
from tstk.core.types import Series, Split
from tstk.data.catalog import is_readable, locate, split_names
from tstk.data.columns import Reader
from tstk.data.config import DataConfig
from tstk.data.data_module import DataModule
from tstk.data.datasets import SeriesDataset, name_series
from tstk.data.identity import locate_run_data
from tstk.data.load import load_data
from tstk.data.scale import describe_other_data
from tstk.data.splits import subsample_per_class
from tstk.data.targets import get_strata
from tstk.errors import DataError, NotFiniteError, OptionError
from tstk.evaluation.classification import classification_metrics
from tstk.evaluation.evaluate import iter_batches
from tstk.evaluation.features import Features, Pool, feature_extractor
from tstk.evaluation.probe_classifiers import Array, FeatureSet, LinearProbe, ProbeClassifier, SelectOn
from tstk.nn.devices import default_device
from tstk.plugins.registry import get_registry
from tstk.runs.build import build_pipeline
from tstk.runs.checkpoint import load

_KEPT_OPTIONS = (
    *("resize", "regularize", "task", "label_separator", "label_column", "target_columns", "group_column"),
    *("id_column", "time_column", "channel_columns", "drop_columns"),
)
"""Options of the data of a run that also apply to other data that it is probed on."""


def probe(
    run: str | Path,
    data: str | None = None,
    *,
    data_root: str | None = None,
    reader: Reader | None = None,
    label_column: str | None = None,
    classifier: str | None = None,
    features: Features = "pooled",
    pool: Pool = "mean",
    label_fraction: Sequence[float] = (1.0,),
    seeds: Sequence[int] = (0,),
    param: float | None = None,
    select_on: SelectOn = "val",
    untrained: bool = False,
    batch_size: int = 256,
    print_fn: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Fit classifiers on frozen features and score them on the test split.

    Args:
        run: run directory
        data: name or path of labelled data with a training and a test split; the data of the run if None
        data_root: folder to look up data sets by name in
        reader: name of the reader of these data, or a table of its name and options; if None that of the run, if it
            reads them
        label_column: column or array with the labels, if it has an unusual name
        classifier: linear (logistic regression), knn (nearest neighbours), svm (with an RBF kernel), ridge (regression,
            for numbers), multilabel (a logistic regression for each label) or another entry of the kind `probe`; that
            of the task if None
        features: pooled (one vector per series), tokens (all tokens concatenated), codes (relative frequency of each
            code) or counts (occurrences of each code)
        pool: how pooled features reduce the tokens: mean, max, cls, or statistics (mean and standard deviation, with
            independent channels concatenated)
        label_fraction: fractions of the labels to learn from, stratified by class; at least two training series and
            one validation series per class are kept, where the class has them
        seeds: seeds of the choice of labels (fractions below 1) and of untrained weights
        param: hyperparameter of the classifier instead of a grid search: C of linear, svm and multilabel, neighbours of
            knn, alpha of ridge; papers that mention none mean 1
        select_on: split on which hyperparameters are selected: val; folds (five-fold cross-validation over train and
            validation: less noisy with few series, invalid if one subject's series fall into different folds); or test
            (as some papers do; biased upwards)
        untrained: also score the same architecture with random weights
        batch_size: series at a time; fewer where they are long
        print_fn: called with notes for the user

    Returns:
        "run", "data", "classifier", "features", "pool", "select_on", "width", "classes", "sizes" and "results". The
        latter has an entry per label fraction and kind of weights with the metrics of the task, such as "accuracy" and
        "f1_macro", means over seeds, their standard deviations, their margins over untrained weights, "baselines"
        fitted on the same labels (means over seeds), "baselines_skipped", and "trials", one per seed

    Raises:
        CheckpointError: the run cannot be loaded
        DataError: the data are not labelled or do not fit the run
        IncompatibleError: the run has no such features
        OptionError: an option has no valid value
        UnknownNameError: there is no such classifier
    """
    _check_options(label_fraction, seeds)
    if classifier is not None:
        get_registry().find("probe", classifier)  # to refuse an unknown name before anything is loaded
    if select_on == "test":
        print_fn("hyperparameters are selected on the test split, as in some papers, so these scores are too high")
    pipeline, run_config = load(run), RunConfig.read(run)
    labelled_data = _load_labelled_data(run_config, data, data_root, label_column, reader, print_fn)
    classifier = classifier or get_task(str(labelled_data.task)).default_probe
    probe_classifier = _build_classifier(classifier, labelled_data)(param, select_on, features)
    if run_config.split_channels:
        pipeline.set_channels(labelled_data.mean, labelled_data.std)
    if _has_seen_labels(run_config, data):
        print_fn(f"{run} was trained with the labels of these data, so this does not measure unsupervised features")

    def extract_splits(model: Pipeline) -> dict[str, FeatureSet]:
        return _extract_splits(model, labelled_data, features, pool, batch_size)

    trained = extract_splits(pipeline)
    fresh = {seed: extract_splits(_build_untrained(pipeline, run_config, seed)) for seed in seeds} if untrained else {}
    results = [
        row
        for fraction in label_fraction
        for row in _probe_fraction(probe_classifier, fraction, seeds, trained, fresh, (pipeline, labelled_data))
    ]
    return {
        "run": str(run),
        "data": labelled_data.name,
        "classifier": classifier,
        "features": features,
        "pool": pool if features == "pooled" else None,
        "select_on": select_on,
        "width": trained["train"].x.shape[1],
        "classes": list(labelled_data.classes or labelled_data.target_names),
        "sizes": {name: len(rows.y) for name, rows in trained.items()},
        "results": results,
    }


def _build_classifier(name: str, data: DataModule) -> type[ProbeClassifier]:
    """Return the class of a probe, if it is for the task of these data."""
    probe_class: type[ProbeClassifier] = get_registry().load(get_registry().find("probe", name))
    task = get_task(str(data.task))
    if task.target_type not in probe_class.target_types:
        served = " and ".join(TARGET_DESCRIPTIONS[t] for t in probe_class.target_types)
        raise OptionError(
            f"--classifier {name}: is for {served}, and {data.name} is for {data.task}; "
            f"use --classifier {task.default_probe}"
        )
    return probe_class


def _check_options(label_fraction: Sequence[float], seeds: Sequence[int]) -> None:
    if not label_fraction or not all(0 < fraction <= 1 for fraction in label_fraction):
        raise OptionError(
            f"label_fraction={list(label_fraction)}: expected fractions above 0 and at most 1, such as 1.0,0.1"
        )
    if not seeds or min(seeds) < 0:
        raise OptionError(f"seeds={list(seeds)}: expected at least one seed, none negative, such as 0,1,2")


def linear_probe_accuracy(pipeline: Pipeline, train: Split, val: Split) -> float:
    """Fit a linear probe on the pooled features of `train` and return its accuracy on `val`.

    Args:
        pipeline: its weights and mode are left unchanged
        train: labelled split to fit on
        val: labelled split to score
    """
    train_features, val_features = (
        _extract_features(pipeline, split, "linear probe", feature_extractor(pipeline, "pooled"), 256)
        for split in (train, val)
    )
    classifier = LinearProbe().fit({"C": 1.0}, train_features)
    predictions = torch.from_numpy(classifier.predict(val_features.x))
    return classification_metrics(torch.from_numpy(val_features.y), predictions)["accuracy"]


def _load_labelled_data(
    run_config: RunConfig,
    data: str | None,
    data_root: str | None,
    label_column: str | None,
    reader: Reader | None,
    print_fn: Callable[[str], None],
) -> DataModule:
    """Load the labelled data to probe with, such that train, validation and test are disjoint."""
    run_options = run_config.options("data")
    if data is None and reader is not None:
        raise OptionError("--reader is for other data (--data): those of the run are read as in training")
    if data is None:
        options = locate_run_data(run_config, data_root)
        name = options.pop("use")
        if options.get("train_data") == "test":
            options["train_data"] = None
            print_fn(
                "the run was trained on the unlabelled test split (transductive); the probe fits on the training split"
            )
        if options["val_data"] == "test":
            options["val_data"] = None
            print_fn("the run was validated on its test split; the probe splits validation data off the training split")
        options["val_fraction"] = options["val_fraction"] or None  # the grid search needs held-out series
    else:
        own = DataConfig(**run_options)  # a run that an earlier version wrote lacks the options that came after it
        name, options = data, {key: getattr(own, key) for key in _KEPT_OPTIONS}
        options["reader"] = reader or _keep_reader(own, data, data_root)
        if own.has_class_per_sample:  # for which there is no probe
            options["task"] = None
    options = {
        **options,
        "data_root": data_root or options.get("data_root") or run_options["data_root"],
        "label_column": label_column or options.get("label_column"),
    }
    labelled_data = load_data(name, DataConfig(**options))
    task = labelled_data.task
    if task is None or not get_task(task).default_probe:
        problem = "without labels" if task is None else f"for {task}"
        problem = "a table to forecast" if labelled_data.spec.horizon is not None else problem
        raise DataError(
            f"{labelled_data.name}: these data are {problem}, and a probe needs classes, labels or numbers; "
            "give labelled series with the same channels with --data"
        )
    if labelled_data.test is None:
        raise DataError(
            f"{labelled_data.name}: these data have no test split to score a probe on; give labelled series that have "
            "one with --data, or train with --test-fraction 0.2"
        )
    expected, count = run_config.channels, len(labelled_data.channels)
    if not run_config.split_channels and count != len(expected):
        raise DataError(f"{labelled_data.name}: {count} channels; the run has {len(expected)}: {', '.join(expected)}")
    consequence = "both are standardized by those of the run; if the units differ, convert the data"
    difference = describe_other_data(run_config, labelled_data, run_options["standardize"], consequence)
    if data is not None and difference:
        print_fn(f"{run_config.run_dir} was trained on other data than {labelled_data.name}: {difference}")
    return labelled_data


def _keep_reader(own: DataConfig, data: str, data_root: str | None) -> Reader | None:
    """Return the reader of the data of a run, with its options, if it reads other data too."""
    paths = [path for name in split_names(data) for path in locate(name, data_root or own.data_root).files.values()]
    table = own.roles.reader
    return table if table and all(is_readable(path, table["use"], is_optional=True) for path in paths) else None


def _has_seen_labels(run_config: RunConfig, data: str | None) -> bool:
    """Whether the features of a run were trained with the labels of these data."""
    name = str(run_config.component("data"))
    is_same_data = (
        data is None or data == name or Path(data).expanduser().resolve() == Path(name).expanduser().resolve()
    )
    is_frozen = {"tokenizer", "encoder"} <= set(run_config.options("pipeline")["freeze"])
    return is_same_data and "head" in run_config.values and run_config.horizon is None and not is_frozen


def _build_untrained(pipeline: Pipeline, run_config: RunConfig, seed: int) -> Pipeline:
    """Build the same architecture with random weights and the standardization of the run."""
    torch.manual_seed(seed)
    fresh = build_pipeline(
        Config(run_config.values),
        pipeline.spec,
        channels="independent" if pipeline.channel_independent else "mixed",
        instance_norm=pipeline.instance_norm,
        unbiased_norm=pipeline.unbiased_norm,
    )
    fresh.mean.copy_(pipeline.mean)
    fresh.std.copy_(pipeline.std)
    fresh.bind()
    return fresh


# ------------------------------------------------------------------ features


def _extract_splits(
    pipeline: Pipeline, data: DataModule, features: Features, pool: Pool, batch_size: int
) -> dict[str, FeatureSet]:
    pipeline.to(default_device())
    extract = feature_extractor(pipeline, features, pool)
    return {
        name: _extract_features(pipeline, split, f"{data.name}, {name}", extract, batch_size)
        for name, split in data.splits.items()
    }


def _extract_features(
    pipeline: Pipeline,
    split: Split,
    description: str,
    extract: Callable[[Series], Tensor],
    batch_size: int,
) -> FeatureSet:
    x = map_batches(
        pipeline,
        iter_batches(split, batch_size, "cpu"),
        lambda series: extract(series.replace(y=None)),
        source=description,
        name_series=partial(name_series, split),
        quantity="features",
    )
    assert split.y is not None
    return FeatureSet(x.double().numpy(), split.y.numpy())


# ------------------------------------------------------------------ classifiers


def _probe_fraction(
    classifier: ProbeClassifier,
    label_fraction: float,
    seeds: Sequence[int],
    trained: dict[str, FeatureSet],
    fresh: dict[int, dict[str, FeatureSet]],
    pipeline_and_data: tuple[Pipeline, DataModule],
) -> list[dict[str, Any]]:
    """Return the row of the trained weights and, if there are any, that of untrained ones.

    Args:
        classifier: the classifier
        label_fraction: fraction of the labels to learn from
        seeds: seeds of the choice of labels
        trained: split -> features of the run
        fresh: seed -> split -> features of untrained weights
        pipeline_and_data: the run's pipeline, and the data that the features are of, for the baselines
    """
    pipeline, data = pipeline_and_data
    # with all labels, all seeds give the same result unless the classifier is random
    trial_seeds = seeds if label_fraction < 1 or classifier.is_random else seeds[:1]
    trials = [_run_trial(trained, classifier, label_fraction, seed, data) for seed in trial_seeds]
    baselines = _score_baselines(pipeline, data, label_fraction, trial_seeds)
    row = _summarize_trials("trained", label_fraction, trials) | baselines
    if not fresh:
        return [row]
    fresh_trials = [_run_trial(splits, classifier, label_fraction, seed, data) for seed, splits in fresh.items()]
    fresh_row = _summarize_trials("untrained", label_fraction, fresh_trials)
    names = _get_metric_names(trials + fresh_trials)
    margins = {f"margin_{score}": row[score] - fresh_row[score] for score in names}
    return [row | margins, fresh_row]


def _run_trial(
    splits: dict[str, FeatureSet], classifier: ProbeClassifier, label_fraction: float, seed: int, data: DataModule
) -> dict[str, Any]:
    """Subsample the labels, select hyperparameters, refit on train and validation, and score on test."""
    train, val = splits["train"], splits["val"]
    if label_fraction < 1:
        subsets = _subsample_labels(train.y, val.y, label_fraction, seed)
        train, val = train.subset(subsets[0]), val.subset(subsets[1])
    params, predictions = classifier.predict(train, val, splits["test"], seed)
    metrics = _compute_metrics(splits["test"].y, predictions, data)
    return {"seed": seed, "count": len(train.y) + len(val.y), "chosen": params, **metrics}


def _subsample_labels(y_train: Array, y_val: Array, label_fraction: float, seed: int) -> tuple[Array, Array]:
    """Draw the rows of the training and validation splits that keep their labels, stratified by class."""
    rng = np.random.default_rng(seed)
    train, val = (get_strata(torch.from_numpy(y), len(y)) for y in (y_train, y_val))
    return subsample_per_class(train, label_fraction, 2, rng), subsample_per_class(val, label_fraction, 1, rng)


def _score_baselines(
    pipeline: Pipeline, data: DataModule, label_fraction: float, seeds: Sequence[int]
) -> dict[str, Any]:
    """Score the baselines on the labels that the probe is fitted on; return means over seeds.

    Args:
        pipeline: the run's
        data: labelled data with all three splits
        label_fraction: fraction of the labels to learn from
        seeds: seeds of the choice of labels
    """
    train, val, test = data.train, data.val, data.test
    assert isinstance(train, SeriesDataset)
    assert isinstance(val, SeriesDataset)
    assert train.y is not None
    assert val.y is not None
    assert test is not None
    per_seed: list[Baselines] = []
    for seed in seeds if label_fraction < 1 else seeds[:1]:
        labelled_splits = [train, val]
        if label_fraction < 1:
            subsets = _subsample_labels(train.y.numpy(), val.y.numpy(), label_fraction, seed)
            labelled_splits = [
                split.select(torch.from_numpy(rows)) for split, rows in zip(labelled_splits, subsets, strict=True)
            ]
        subset = replace(data, train=labelled_splits[0], val=labelled_splits[1], val_from_train=True)
        per_seed.append(get_task(str(data.task)).score_baselines(pipeline, subset, test))
    skipped = {name: reason for baselines in per_seed for name, reason in baselines.skipped.items()}
    means = {
        name: {
            metric: float(np.mean([baselines.scores[name][metric] for baselines in per_seed]))
            for metric in scores
            if all(metric in baselines.scores[name] for baselines in per_seed)
        }
        for name, scores in per_seed[0].scores.items()
        if name not in skipped
    }
    return {"baselines": means, "baselines_skipped": skipped}


def _compute_metrics(targets: Array, predictions: Array, data: DataModule) -> dict[str, float]:
    """Score the classes [N], or the logits or numbers [N, K], that a probe predicts for the test split.

    Raises:
        NotFiniteError: one of the logits or numbers is not finite
    """
    if predictions.ndim == 2 and (rows := np.flatnonzero(~np.isfinite(predictions).all(1)).tolist()):
        assert data.test is not None
        raise NotFiniteError(
            f"{data.name}, test: the probe's predictions of {len(rows)} of {len(predictions)} series are not finite, "
            f"{name_series(data.test, rows[0])} first",
            "give another --classifier or --param",
        )
    if data.has_classes:
        return classification_metrics(torch.from_numpy(targets), torch.from_numpy(predictions))
    task = get_task(str(data.task))
    names = data.classes or data.target_names
    return task.score(torch.from_numpy(predictions), torch.from_numpy(targets), names)


def _get_metric_names(trials: list[dict[str, Any]]) -> list[str]:
    """Return the metrics that all trials have; F1 of a label that is absent from test depends on the predictions."""
    names = [name for name in trials[0] if name not in ("seed", "count", "chosen")]
    return [name for name in names if all(name in trial for trial in trials)]


def _summarize_trials(weights: str, label_fraction: float, trials: list[dict[str, Any]]) -> dict[str, Any]:
    """Compute mean and standard deviation over trials; the latter is None for a single trial."""
    row: dict[str, Any] = {"weights": weights, "label_fraction": label_fraction, "count": trials[0]["count"]}
    for score in _get_metric_names(trials):
        values = [trial[score] for trial in trials]
        row[score] = float(np.mean(values))
        row[score + "_deviation"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {**row, "trials": trials}
