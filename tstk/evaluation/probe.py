"""Linear, kNN and SVM probes: fit a classifier on the frozen features of a run and score it on the test split.

    tstk.evaluation.probe.probe("runs/a", label_fraction=(1.0, 0.1), seeds=(0, 1, 2), untrained=True)["results"]

Hyperparameters are selected on the validation split, then the classifier is refitted on train and validation together
and scored on test once. The margin over the features of an untrained network shows what pretraining contributes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tstk.config.records import RunConfig
from tstk.config.resolve import Config
from tstk.core.pipeline import Pipeline
from tstk.core.types import Series
from tstk.data.data_module import DataModule
from tstk.data.datasets import SeriesDataset, Split
from tstk.data.load import load as load_data
from tstk.data.splits import subsample_per_class
from tstk.errors import DataError, OptionError
from tstk.evaluation import adam_probe
from tstk.evaluation.baselines import Baselines, score_classification_baselines
from tstk.evaluation.evaluate import classification_metrics, iter_batches
from tstk.evaluation.features import Features, Pool, feature_extractor
from tstk.runs.build import build_pipeline
from tstk.runs.checkpoint import load

ProbeClassifier = Literal["linear", "knn", "svm", "adam"]
SelectOn = Literal["val", "folds", "test"]
Array = NDArray[Any]


@dataclass
class _FeatureSet:
    """Features [N, W] and class indices [N] of a split."""

    x: Array
    y: Array

    def subset(self, index: Array) -> _FeatureSet:
        return _FeatureSet(self.x[index], self.y[index])

    def __add__(self, other: _FeatureSet) -> _FeatureSet:
        return _FeatureSet(np.concatenate([self.x, other.x]), np.concatenate([self.y, other.y]))


def probe(
    run: str | Path,
    data: str | None = None,
    *,
    data_root: str | None = None,
    label_column: str | None = None,
    classifier: ProbeClassifier = "linear",
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
        label_column: column or array with the labels, if it has an unusual name
        classifier: linear (logistic regression), knn (nearest neighbours), svm (with an RBF kernel) or adam (a linear
            layer with input dropout, trained by Adam; VQShape's protocol and grid of hyperparameters)
        features: pooled (one vector per series), tokens (all tokens concatenated), codes (relative frequency of each
            code) or counts (occurrences of each code)
        pool: how pooled features reduce the tokens: mean, max, cls, or statistics (mean and standard deviation, with
            independent channels concatenated)
        label_fraction: fractions of the labels to learn from, stratified by class; at least two training series and
            one validation series per class are kept, where the class has them
        seeds: seeds of the choice of labels (fractions below 1) and of untrained weights
        param: hyperparameter of the classifier instead of a grid search: C of linear and svm, neighbours of knn; papers
            that mention none mean 1
        select_on: split on which hyperparameters are selected: val; folds (five-fold cross-validation over train and
            validation: less noisy with few series, invalid if one subject's series fall into different folds); or test
            (as some papers do; biased upwards)
        untrained: also score the same architecture with random weights
        batch_size: series at a time
        print_fn: called with notes for the user

    Returns:
        "run", "data", "classifier", "features", "pool", "select_on", "width", "classes", "sizes" and "results". The
        latter has an entry per label fraction and kind of weights with "accuracy" and "f1_macro" (means over seeds),
        their standard deviations, their margins over untrained weights, "baselines" fitted on the same labels (means
        over seeds), "baselines_skipped", and "trials", one per seed

    Raises:
        CheckpointError: the run cannot be loaded
        DataError: the data are not labelled or do not fit the run
        IncompatibleError: the run has no such features
        OptionError: an option has no valid value
    """
    _check_options(classifier, label_fraction, seeds, param, select_on)
    if select_on == "test":
        print_fn("hyperparameters are selected on the test split, as in some papers, so these scores are too high")
    pipeline, run_config = load(run), RunConfig.read(run)
    labelled_data = _load_labelled_data(run_config, data, data_root, label_column, print_fn)
    if run_config.split_channels:
        pipeline.set_channels(labelled_data.mean, labelled_data.std)
    if _has_seen_labels(run_config, data):
        print_fn(f"{run} was trained with the labels of these data, so this does not measure unsupervised features")

    def extract_splits(model: Pipeline) -> dict[str, _FeatureSet]:
        return _extract_splits(model, labelled_data, features, pool, batch_size)

    trained = extract_splits(pipeline)
    fresh = {seed: extract_splits(_build_untrained(pipeline, run_config, seed)) for seed in seeds} if untrained else {}
    config = _ProbeConfig(classifier, param, select_on, "unit" if features in ("codes", "counts") else "standard")
    results = [
        row
        for fraction in label_fraction
        for row in _probe_fraction(config, fraction, seeds, trained, fresh, labelled_data)
    ]
    return {
        "run": str(run),
        "data": labelled_data.name,
        "classifier": classifier,
        "features": features,
        "pool": pool if features == "pooled" else None,
        "select_on": select_on,
        "width": trained["train"].x.shape[1],
        "classes": list(labelled_data.classes),
        "sizes": {name: len(rows.y) for name, rows in trained.items()},
        "results": results,
    }


def _check_options(
    classifier: ProbeClassifier,
    label_fraction: Sequence[float],
    seeds: Sequence[int],
    param: float | None,
    select_on: SelectOn,
) -> None:
    if not label_fraction or not all(0 < fraction <= 1 for fraction in label_fraction):
        raise OptionError(
            f"label_fraction={list(label_fraction)}: expected fractions above 0 and at most 1, such as 1.0,0.1"
        )
    if not seeds or min(seeds) < 0:
        raise OptionError(f"seeds={list(seeds)}: expected at least one seed, none negative, such as 0,1,2")
    if param is not None and (param <= 0 or (classifier == "knn" and param != int(param))):
        expected = "a whole number of neighbours" if classifier == "knn" else "C, a number above 0"
        raise OptionError(f"param={param}: expected {expected}")
    if classifier == "adam" and param is not None:
        raise OptionError("param has no effect with classifier adam, which searches a grid of its own")
    if classifier == "adam" and select_on == "folds":
        raise OptionError("select_on=folds is for linear, knn and svm; with classifier adam use val or test")


def linear_probe_accuracy(pipeline: Pipeline, train: Split, val: Split, batch_size: int = 256) -> float:
    """Fit a linear probe on the pooled features of `train` and return its accuracy on `val`.

    Args:
        pipeline: its weights and mode are left unchanged
        train: labelled split to fit on
        val: labelled split to score
        batch_size: series at a time
    """
    was_training = pipeline.training
    pipeline.eval()
    train_features, val_features = (
        _extract_features(pipeline, split, "linear probe", feature_extractor(pipeline, "pooled"), batch_size)
        for split in (train, val)
    )
    pipeline.train(was_training)
    return _compute_metrics(
        val_features.y, _fit_classifier("linear", {"C": 1.0}, train_features).predict(val_features.x)
    )["accuracy"]


def _load_labelled_data(
    run_config: RunConfig,
    data: str | None,
    data_root: str | None,
    label_column: str | None,
    print_fn: Callable[[str], None],
) -> DataModule:
    """Load the labelled data to probe with, such that train, validation and test are disjoint."""
    run_options = run_config.options("data")
    if data is None:
        name, options = str(run_config.component("data")), dict(run_options)
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
        name, options = data, {"resize": run_options["resize"]}
    options = {
        **options,
        "data_root": data_root or run_options["data_root"],
        "label_column": label_column or options.get("label_column"),
    }
    labelled_data = load_data(name, **options)
    if labelled_data.task != "classification" or labelled_data.test is None:
        problem = "a table to forecast" if labelled_data.task == "forecasting" else "without labels"
        raise DataError(
            f"{labelled_data.name}: these data are {problem}, and a probe needs classes; "
            "give labelled series with the same channels with --data"
        )
    expected, count = run_config.channels, len(labelled_data.channels)
    if not run_config.split_channels and count != len(expected):
        raise DataError(f"{labelled_data.name}: {count} channels; the run has {len(expected)}: {', '.join(expected)}")
    return labelled_data


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
    )
    fresh.mean.copy_(pipeline.mean)
    fresh.std.copy_(pipeline.std)
    fresh.bind()
    return fresh


# ------------------------------------------------------------------ features


def _extract_splits(
    pipeline: Pipeline, data: DataModule, features: Features, pool: Pool, batch_size: int
) -> dict[str, _FeatureSet]:
    pipeline.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    extract = feature_extractor(pipeline, features, pool)
    return {
        name: _extract_features(pipeline, split, f"{data.name}, {name}", extract, batch_size)
        for name, split in data.splits.items()
    }


@torch.no_grad()
def _extract_features(
    pipeline: Pipeline,
    split: Split,
    description: str,
    extract: Callable[[Series], Tensor],
    batch_size: int,
) -> _FeatureSet:
    device = pipeline.mean.device
    x = torch.cat([extract(series.replace(y=None)).cpu() for series in iter_batches(split, batch_size, device)])
    if num_bad := int((~x.isfinite()).any(1).sum()):
        raise DataError(
            f"{description}: the features of {num_bad} of {len(x)} series are not finite; "
            "the run or the data are damaged"
        )
    assert split.y is not None
    return _FeatureSet(x.double().numpy(), split.y.numpy())


# ------------------------------------------------------------------ classifiers


@dataclass
class _ProbeConfig:
    """The classifier, its hyperparameter (None: grid search), the split that selects it, and the scaling for adam."""

    classifier: ProbeClassifier
    param: float | None
    select_on: SelectOn
    scaling: Literal["standard", "unit"]


def _probe_fraction(
    config: _ProbeConfig,
    label_fraction: float,
    seeds: Sequence[int],
    trained: dict[str, _FeatureSet],
    fresh: dict[int, dict[str, _FeatureSet]],
    data: DataModule,
) -> list[dict[str, Any]]:
    """Return the row of the trained weights and, if there are any, that of untrained ones.

    Args:
        config: the classifier
        label_fraction: fraction of the labels to learn from
        seeds: seeds of the choice of labels
        trained: split -> features of the run
        fresh: seed -> split -> features of untrained weights
        data: the data that the features are of, for the baselines
    """
    # with all labels nothing is random except adam, so all seeds would give the same result
    trial_seeds = seeds if label_fraction < 1 or config.classifier == "adam" else seeds[:1]
    trials = [_run_trial(trained, config, label_fraction, seed) for seed in trial_seeds]
    row = _summarize_trials("trained", label_fraction, trials) | _score_baselines(data, label_fraction, trial_seeds)
    if not fresh:
        return [row]
    fresh_trials = [_run_trial(splits, config, label_fraction, seed) for seed, splits in fresh.items()]
    fresh_row = _summarize_trials("untrained", label_fraction, fresh_trials)
    margins = {f"margin_{score}": row[score] - fresh_row[score] for score in ("accuracy", "f1_macro")}
    return [row | margins, fresh_row]


def _run_trial(
    splits: dict[str, _FeatureSet], config: _ProbeConfig, label_fraction: float, seed: int
) -> dict[str, Any]:
    """Subsample the labels, select hyperparameters, refit on train and validation, and score on test."""
    train, val = splits["train"], splits["val"]
    if label_fraction < 1:
        subsets = _subsample_labels(train.y, val.y, label_fraction, seed)
        train, val = train.subset(subsets[0]), val.subset(subsets[1])
    train_and_val, test, classifier = train + val, splits["test"], config.classifier
    if classifier == "adam":
        params, predictions = _run_adam_trial(train, val, test, config, seed)
    else:
        folds = {"val": [(train, val)], "test": [(train_and_val, test)]}.get(config.select_on)
        folds = _make_folds(train_and_val) if folds is None else folds
        param_grid = _build_param_grid(classifier, train.x.shape[1], min(len(fit.y) for fit, _ in folds), config.param)
        params = _select_params(classifier, param_grid, folds) if len(param_grid) > 1 else param_grid[0]
        predictions = _fit_classifier(classifier, params, train_and_val).predict(test.x)
    return {"seed": seed, "count": len(train_and_val.y), "chosen": params, **_compute_metrics(test.y, predictions)}


def _subsample_labels(y_train: Array, y_val: Array, label_fraction: float, seed: int) -> tuple[Array, Array]:
    """Draw the rows of the training and validation splits that keep their labels, stratified by class."""
    rng = np.random.default_rng(seed)
    return subsample_per_class(y_train, label_fraction, 2, rng), subsample_per_class(y_val, label_fraction, 1, rng)


def _score_baselines(data: DataModule, label_fraction: float, seeds: Sequence[int]) -> dict[str, Any]:
    """Score the baselines on the labels that the probe is fitted on; return means over seeds.

    Args:
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
        per_seed.append(score_classification_baselines(labelled_splits, test, data.spec))
    # which baselines are skipped depends on sizes alone, so every seed has the same ones
    names, scores = list(per_seed[0].scores), ("accuracy", "f1_macro")
    means = {
        name: {s: float(np.mean([baselines.scores[name][s] for baselines in per_seed])) for s in scores}
        for name in names
    }
    return {"baselines": means, "baselines_skipped": per_seed[0].skipped}


def _run_adam_trial(
    train: _FeatureSet, val: _FeatureSet, test: _FeatureSet, config: _ProbeConfig, seed: int
) -> tuple[dict[str, float], Array]:
    """Select the config and number of epochs, refit on train and validation, and return both with test predictions."""
    from sklearn.preprocessing import MinMaxScaler, StandardScaler

    def fit_grid(
        rows: _FeatureSet, eval_rows: _FeatureSet, configs: list[adam_probe.AdamConfig]
    ) -> tuple[Array, Array]:
        scaler = (MinMaxScaler() if config.scaling == "unit" else StandardScaler()).fit(rows.x)
        return adam_probe.fit_linear_classifiers(
            scaler.transform(rows.x), rows.y, scaler.transform(eval_rows.x), eval_rows.y, configs, seed
        )

    configs, train_and_val = adam_probe.build_grid(), train + val
    scores, _ = fit_grid(train_and_val, test, configs) if config.select_on == "test" else fit_grid(train, val, configs)
    # ties go to the latest epoch, then to the strongest regularization
    reversed_epoch, best_index = np.unravel_index(int(scores[::-1].argmax()), scores.shape)
    best = replace(configs[int(best_index)], epochs=len(scores) - int(reversed_epoch))
    _, predictions = fit_grid(train_and_val, test, [best])
    return {"decay": best.weight_decay, "dropout": best.dropout, "epochs": best.epochs}, predictions[:, 0]


def _make_folds(rows: _FeatureSet) -> list[tuple[_FeatureSet, _FeatureSet]]:
    """Return (fit, held-out) rows of five stratified folds without shuffling, so that neighbouring rows stay together.

    There are fewer folds if even the largest class has fewer rows.
    """
    from sklearn.model_selection import StratifiedKFold

    count = min(5, int(np.bincount(rows.y).max()))
    if count < 2:
        return [(rows, rows)]
    folds = StratifiedKFold(count)
    with warnings.catch_warnings():
        # a class with fewer rows than folds is missing from some of them
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        return [(rows.subset(fit), rows.subset(held_out)) for fit, held_out in folds.split(rows.x, rows.y)]


def _select_params(
    classifier: ProbeClassifier, param_grid: list[dict[str, float]], folds: list[tuple[_FeatureSet, _FeatureSet]]
) -> dict[str, float]:
    """Return the parameters with the most correct held-out predictions; ties go to the strongest regularization."""
    num_correct = [
        sum(
            int((_fit_classifier(classifier, params, fit).predict(held_out.x) == held_out.y).sum())
            for fit, held_out in folds
        )
        for params in param_grid
    ]
    return param_grid[int(np.argmax(num_correct))]


def _build_param_grid(
    classifier: ProbeClassifier, width: int, rows: int, param: float | None
) -> list[dict[str, float]]:
    """Return the hyperparameters to search, strongest regularization first; only `param` if it is given."""
    if classifier == "linear":
        return [{"C": c} for c in ((0.001, 0.01, 0.1, 1.0, 10.0) if param is None else (param,))]
    if classifier == "knn":
        return [{"n_neighbors": k} for k in ((15, 9, 5, 3, 1) if param is None else (int(param),)) if k <= rows]
    if param is not None:
        return [{"C": param, "gamma": 1 / width}]
    return [{"C": c, "gamma": g / width} for c in (1.0, 10.0, 100.0) for g in (0.1, 1.0, 10.0)]


def _fit_classifier(classifier: ProbeClassifier, params: dict[str, float], rows: _FeatureSet) -> Any:
    """Fit a classifier on standardized features."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    estimator: Any
    if classifier == "linear":
        estimator = LogisticRegression(max_iter=1000, **params)
    else:
        estimator = KNeighborsClassifier(**params) if classifier == "knn" else SVC(**params)
    with warnings.catch_warnings():
        # a fit that has not converged is validated like any other
        warnings.simplefilter("ignore", ConvergenceWarning)
        return make_pipeline(StandardScaler(), estimator).fit(rows.x, rows.y)


def _compute_metrics(targets: Array, predictions: Array) -> dict[str, float]:
    return classification_metrics(torch.from_numpy(targets), torch.from_numpy(predictions))


def _summarize_trials(weights: str, label_fraction: float, trials: list[dict[str, Any]]) -> dict[str, Any]:
    """Compute mean and standard deviation over trials; the latter is None for a single trial."""
    row: dict[str, Any] = {"weights": weights, "label_fraction": label_fraction, "count": trials[0]["count"]}
    for score in ("accuracy", "f1_macro"):
        values = [trial[score] for trial in trials]
        row[score] = float(np.mean(values))
        row[score + "_deviation"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {**row, "trials": trials}
