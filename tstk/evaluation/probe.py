"""How much of the classes a run's features give away, with its weights left alone.

    tstk.evaluation.probe.probe("runs/pretrained", labels=(1.0, 0.1), seeds=(0, 1, 2), untrained=True)["results"]

Three parts, three uses: a classifier is fitted on train, its setting is chosen by val, it is fitted again on both, and
test is scored once. What the features are worth is the margin over those of untrained weights.
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

from tstk.config.resolve import Config
from tstk.config.run_directory import read_config
from tstk.core.pipeline import Pipeline
from tstk.core.types import Series
from tstk.data.data_module import Dataset
from tstk.data.datasets import Labelled, Part
from tstk.data.load import load as load_data
from tstk.data.splits import few
from tstk.errors import DataError, OptionError
from tstk.evaluation import adam_probe
from tstk.evaluation.baselines import Baselines, classification_baselines
from tstk.evaluation.evaluate import classified, in_order
from tstk.evaluation.features import Features, Pool, vectors
from tstk.runs.build import assemble
from tstk.runs.checkpoint import load

Classifier = Literal["linear", "knn", "svm", "adam"]
Choose = Literal["val", "folds", "test"]
Array = NDArray[Any]


@dataclass
class _Rows:
    """Features [N, W] and classes [N] of a part."""

    x: Array
    y: Array

    def take(self, at: Array) -> _Rows:
        return _Rows(self.x[at], self.y[at])

    def __add__(self, other: _Rows) -> _Rows:
        return _Rows(np.concatenate([self.x, other.x]), np.concatenate([self.y, other.y]))


def probe(
    run: str | Path,
    data: str | None = None,
    *,
    data_root: str | None = None,
    label: str | None = None,
    classifier: Classifier = "linear",
    features: Features = "pooled",
    pool: Pool = "mean",
    labels: Sequence[float] = (1.0,),
    seeds: Sequence[int] = (0,),
    setting: float | None = None,
    choose: Choose = "val",
    untrained: bool = False,
    batch_size: int = 256,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Fit classifiers on frozen features and score them on the test part.

    Args:
        run: its directory
        data: name or path of labelled data with a training and a test part; those of the run if None
        data_root: folder with data sets to be found by name
        label: column or array that holds the labels, if it has an unusual name
        classifier: linear (logistic regression), knn (nearest neighbours), svm (with an RBF kernel) or adam (a linear
            layer with dropout, trained by Adam; VQShape's protocol, with its grid of decays, dropouts and epochs)
        features: pooled (one vector per series), tokens (all of them, side by side), codes (the share of each) or
            counts (how often each occurs)
        pool: how pooled tokens become one vector: mean, max, cls, or statistics (mean and deviation, those of
            independent channels side by side)
        labels: shares of the labels to learn from, class by class; of each class at least two series to fit and one
            to choose by, where it has them
        seeds: of the choice of labels, if a share is below 1, and of untrained weights
        setting: of the classifier, instead of choosing it by validation: C of linear and svm, neighbours of knn;
            1 is what papers mean that mention none
        choose: by which part the setting is chosen; folds stands for five folds of train and val together, for few
            series, and not where one person's would fall into several; test is how some papers report, and flatters
        untrained: score the same architecture with fresh weights, too
        batch_size: series at a time
        say: receives lines for the user

    Returns:
        "run", "data", "classifier", "features", "pool", "width", "classes", "sizes" and "results": for each share
        and each kind of weights "accuracy" and "f1_macro", their deviation over seeds, their margin over untrained
        weights, "baselines" (means over seeds) that learn from the same labels, "baselines_skipped", and "trials", one
        per seed

    Raises:
        CheckpointError: the run cannot be loaded
        DataError: the data are not labelled or do not suit the run
        NeedsError: the run has no such features
        OptionError: a share or a seed cannot be used
    """
    if not labels or not all(0 < share <= 1 for share in labels):
        raise OptionError(f"labels={list(labels)}: expected shares above 0 and up to 1, such as 1.0,0.1")
    if not seeds or min(seeds) < 0:
        raise OptionError(f"seeds={list(seeds)}: expected at least one, none negative, such as 0,1,2")
    if setting is not None and (setting <= 0 or (classifier == "knn" and setting != int(setting))):
        what = "a whole number of neighbours" if classifier == "knn" else "C, a number above 0"
        raise OptionError(f"setting={setting}: expected {what}")
    if classifier == "adam" and setting is not None:
        raise OptionError("setting has no meaning for the classifier adam, which has a grid of its own")
    if classifier == "adam" and choose == "folds":
        raise OptionError("choose=folds is for linear, knn and svm; the classifier adam takes val or test")
    if choose == "test":
        say("settings are chosen by the test part, as some papers report it, so these figures flatter")
    pipeline, found = load(run), read_config(run)
    held = _held(found, data, data_root, label, say)
    if found["data"].get("univariate"):
        pipeline.take(held.mean, held.std)
    if _taught(found, data):
        say(f"{run} was trained with the labels of these data, so this is not a measure of learning without them")

    def gathered(of: Pipeline) -> dict[str, _Rows]:
        of.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        made = vectors(of, features, pool)
        return {name: _rows(of, part, f"{held.name}, {name}", made, batch_size) for name, part in held.parts.items()}

    trained = gathered(pipeline)
    fresh = {seed: gathered(_fresh(pipeline, found, seed)) for seed in seeds} if untrained else {}
    results = []
    for share in labels:
        # with all labels nothing is drawn, and with the same weights every seed would say the same
        drawn = seeds if share < 1 or classifier == "adam" else seeds[:1]
        how = _How(classifier, setting, choose, "unit" if features in ("codes", "counts") else "standard")
        results.append(_summary("trained", share, [_trial(trained, how, share, seed) for seed in drawn]))
        results[-1] |= _baselines(held, share, drawn)
        if fresh:
            guesses = [_trial(rows, how, share, seed) for seed, rows in fresh.items()]
            results.append(_summary("untrained", share, guesses))
            for score in ("accuracy", "f1_macro"):
                results[-2]["margin_" + score] = results[-2][score] - results[-1][score]
    return {
        "run": str(run),
        "data": held.name,
        "classifier": classifier,
        "features": features,
        "pool": pool if features == "pooled" else None,
        "choose": choose,
        "width": trained["train"].x.shape[1],
        "classes": list(held.classes),
        "sizes": {name: len(rows.y) for name, rows in trained.items()},
        "results": results,
    }


def told_apart(pipeline: Pipeline, train: Part, val: Part, batch_size: int = 256) -> float:
    """Accuracy on one part of a linear classifier of pooled features fitted on another; the pipeline learns nothing."""
    training = pipeline.training
    pipeline.eval()
    fit, score = (_rows(pipeline, part, "a probe", vectors(pipeline, "pooled"), batch_size) for part in (train, val))
    pipeline.train(training)
    return _scored(score.y, _fitted("linear", {"C": 1.0}, fit).predict(score.x))["accuracy"]


def _held(
    found: dict[str, Any], data: str | None, data_root: str | None, label: str | None, say: Callable[[str], None]
) -> Dataset:
    """The labelled data to probe with, in three parts of which none is another."""
    table = found["config"]["data"]
    if data is None:
        use, options = table["use"], {k: v for k, v in table.items() if k != "use"}
        if options.get("train_data") == "test":
            options["train_data"] = None
            say("the run learnt from the unlabelled test part: transductive; here the training part gives the labels")
        if options["val_data"] == "test":
            options["val_data"] = None
            say("the run was validated on its test part; here validation data are split off the training part")
        options["val_fraction"] = options["val_fraction"] or None  # settings are chosen by series held out
    else:
        use, options = data, {"resize": table.get("resize")}
    options = {**options, "data_root": data_root or table["data_root"], "label": label or options.get("label")}
    held = load_data(use, **options)
    if held.task != "classification" or held.test is None:
        what = "a table to forecast" if held.task == "forecasting" else "without labels"
        raise DataError(
            f"{held.name}: these data are {what}, and a probe needs classes to tell apart; "
            "name labelled series of the same channels with --data"
        )
    want = found["data"]["channels"]
    if not found["data"].get("univariate") and len(held.channels) != len(want):
        raise DataError(f"{held.name}: {len(held.channels)} channels; the run has {len(want)}: {', '.join(want)}")
    return held


def _taught(found: dict[str, Any], data: str | None) -> bool:
    """Whether the features of a run were made with the labels of these very data."""
    config = Config(found["config"])
    use = str(config.use("data"))
    same = data is None or data == use or Path(data).expanduser().resolve() == Path(use).expanduser().resolve()
    frozen = {"tokenizer", "encoder"} <= set(config.options("pipeline")["freeze"])
    return same and "head" in config.values and found["spec"]["horizon"] is None and not frozen


def _fresh(pipeline: Pipeline, found: dict[str, Any], seed: int) -> Pipeline:
    """The same architecture and scaling, with weights that have learnt nothing."""
    torch.manual_seed(seed)
    fresh = assemble(
        Config(found["config"]),
        pipeline.spec,
        channels="independent" if pipeline.independent else "mixed",
        instance_norm=pipeline.instance_norm,
    )
    fresh.mean.copy_(pipeline.mean)
    fresh.std.copy_(pipeline.std)
    fresh.bind()
    return fresh


# ------------------------------------------------------------------ features


@torch.no_grad()
def _rows(
    pipeline: Pipeline,
    part: Part,
    what: str,
    vectors: Callable[[Series], Tensor],
    batch_size: int,
) -> _Rows:
    device = pipeline.mean.device
    x = torch.cat([vectors(series.but(y=None)).cpu() for series in in_order(part, batch_size, device)])
    if bad := int((~x.isfinite()).any(1).sum()):
        raise DataError(
            f"{what}: the features of {bad} of {len(x)} series are not finite; the run or the data are damaged"
        )
    assert part.y is not None
    return _Rows(x.double().numpy(), part.y.numpy())


# ------------------------------------------------------------------ classifiers


@dataclass
class _How:
    """A way of classifying: what, its setting if given, the part that chooses among settings, and adam's scaling."""

    classifier: Classifier
    setting: float | None
    choose: Choose
    scaling: Literal["standard", "unit"]


def _trial(parts: dict[str, _Rows], how: _How, share: float, seed: int) -> dict[str, Any]:
    """One classifier, from the choice of labels to its score on the test part."""
    train, val = parts["train"], parts["val"]
    if share < 1:
        at = _draw(train.y, val.y, share, seed)
        train, val = train.take(at[0]), val.take(at[1])
    known, test, classifier = train + val, parts["test"], how.classifier
    if classifier == "adam":
        best, guess = _by_adam(train, val, test, how, seed)
        return {"seed": seed, "count": len(known.y), "chosen": best, **_scored(test.y, guess)}
    by = _folds(known) if how.choose == "folds" else [(known, test) if how.choose == "test" else (train, val)]
    settings = _settings(classifier, train.x.shape[1], min(len(fit.y) for fit, _ in by), how.setting)
    best = _chosen(classifier, settings, by) if len(settings) > 1 else settings[0]
    guess = _fitted(classifier, best, known).predict(test.x)
    return {"seed": seed, "count": len(known.y), "chosen": best, **_scored(parts["test"].y, guess)}


def _draw(train: Array, val: Array, share: float, seed: int) -> tuple[Array, Array]:
    """Rows of the training and of the validation part that have this share of the labels of each class."""
    rng = np.random.default_rng(seed)
    return few(train, share, 2, rng), few(val, share, 1, rng)


def _baselines(held: Dataset, share: float, seeds: Sequence[int]) -> dict[str, Any]:
    """Score the baselines with the labels that the classifiers of the features have, means over seeds.

    Args:
        held: in parts
        share: of the labels
        seeds: of the choice of labels
    """
    train, val, test = held.train, held.val, held.test
    assert isinstance(train, Labelled)
    assert isinstance(val, Labelled)
    assert train.y is not None
    assert val.y is not None
    assert test is not None
    found: list[Baselines] = []
    for seed in seeds if share < 1 else seeds[:1]:
        parts = [train, val]
        if share < 1:
            at = _draw(train.y.numpy(), val.y.numpy(), share, seed)
            parts = [part.take(torch.from_numpy(rows)) for part, rows in zip(parts, at, strict=True)]
        found.append(classification_baselines(parts, test, held.spec))
    # by the size of the parts, every seed has the same baselines
    names, scores = list(found[0].scores), ("accuracy", "f1_macro")
    means = {name: {s: float(np.mean([one.scores[name][s] for one in found])) for s in scores} for name in names}
    return {"baselines": means, "baselines_skipped": found[0].skipped}


def _by_adam(train: _Rows, val: _Rows, test: _Rows, how: _How, seed: int) -> tuple[dict[str, float], Array]:
    """The setting and number of epochs that serve best, and the answers for test of what they give on train and val."""
    from sklearn.preprocessing import MinMaxScaler, StandardScaler

    def learnt(rows: _Rows, judged: _Rows, settings: list[adam_probe.Setting]) -> tuple[Array, Array]:
        scaler = (MinMaxScaler() if how.scaling == "unit" else StandardScaler()).fit(rows.x)
        return adam_probe.learn(scaler.transform(rows.x), rows.y, scaler.transform(judged.x), judged.y, settings, seed)

    settings, known = adam_probe.grid(), train + val
    scores, _ = learnt(known, test, settings) if how.choose == "test" else learnt(train, val, settings)
    # of equals the latest epoch, then the stiffest setting
    before, which = np.unravel_index(int(scores[::-1].argmax()), scores.shape)
    best = replace(settings[int(which)], epochs=len(scores) - int(before))
    _, guess = learnt(known, test, [best])
    return {"decay": best.decay, "dropout": best.dropout, "epochs": best.epochs}, guess[:, 0]


def _folds(rows: _Rows) -> list[tuple[_Rows, _Rows]]:
    """Rows to fit and rows to judge by, class by class a fifth in turn and in their order, so that neighbours stay
    together; fewer folds where even the largest class has fewer rows."""
    from sklearn.model_selection import StratifiedKFold

    count = min(5, int(np.bincount(rows.y).max()))
    if count < 2:
        return [(rows, rows)]
    folds = StratifiedKFold(count)
    with warnings.catch_warnings():
        # a class with fewer rows than folds is missing from some of them
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        return [(rows.take(fit), rows.take(judge)) for fit, judge in folds.split(rows.x, rows.y)]


def _chosen(
    classifier: Classifier, settings: list[dict[str, float]], by: list[tuple[_Rows, _Rows]]
) -> dict[str, float]:
    """The setting that is right most often, over pairs of rows to fit and to judge by; of equals the one that bends
    least to what it is fitted on."""
    right = [sum(int((_fitted(classifier, s, fit).predict(j.x) == j.y).sum()) for fit, j in by) for s in settings]
    return settings[int(np.argmax(right))]


def _settings(classifier: Classifier, width: int, rows: int, given: float | None) -> list[dict[str, float]]:
    """What to choose from, the stiffest first; only what is given, if something is."""
    if classifier == "linear":
        return [{"C": c} for c in ((0.001, 0.01, 0.1, 1.0, 10.0) if given is None else (given,))]
    if classifier == "knn":
        return [{"n_neighbors": k} for k in ((15, 9, 5, 3, 1) if given is None else (int(given),)) if k <= rows]
    if given is not None:
        return [{"C": given, "gamma": 1 / width}]
    return [{"C": c, "gamma": g / width} for c in (1.0, 10.0, 100.0) for g in (0.1, 1.0, 10.0)]


def _fitted(classifier: Classifier, setting: dict[str, float], rows: _Rows) -> Any:
    """Standardised features and a classifier, fitted."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    last: Any
    if classifier == "linear":
        last = LogisticRegression(max_iter=1000, **setting)
    else:
        last = KNeighborsClassifier(**setting) if classifier == "knn" else SVC(**setting)
    with warnings.catch_warnings():
        # weights that still creep are judged on validation like any others
        warnings.simplefilter("ignore", ConvergenceWarning)
        return make_pipeline(StandardScaler(), last).fit(rows.x, rows.y)


def _scored(truth: Array, guess: Array) -> dict[str, float]:
    return classified(torch.from_numpy(truth), torch.from_numpy(guess))


def _summary(weights: str, share: float, trials: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and deviation over trials; a single trial has no deviation."""
    row: dict[str, Any] = {"weights": weights, "labels": share, "count": trials[0]["count"]}
    for score in ("accuracy", "f1_macro"):
        values = [trial[score] for trial in trials]
        row[score] = float(np.mean(values))
        row[score + "_deviation"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {**row, "trials": trials}
