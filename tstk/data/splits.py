"""Hold out validation and test series from the training split, and divide the rows of a table into splits."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from copy import copy
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tstk.data.config import DataConfig
from tstk.data.containers import SeriesSet, Table
from tstk.data.memory import require_memory
from tstk.errors import DataError

Ints = NDArray[np.int64]

Criterion = Literal["class", "group", "time"]
"""How series are divided: the same fraction of every class, whole groups, or the last ones held out."""

ETT_COLUMNS = ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT")
"""Columns of the Electricity Transformer tables, which have a standard split."""

NUM_TRIALS = 200
"""Random splits of the groups among which the best one is chosen."""


def hold_out_test(
    series_sets: Mapping[str, SeriesSet], config: DataConfig, *, by_class: bool
) -> tuple[Mapping[str, SeriesSet], str]:
    """Hold out test series from the training split, if the options say so.

    Args:
        series_sets: "train" and, where they exist, "val" and "test"
        config: `test_fraction`, or `folds` and `fold`, and `split_seed`
        by_class: stratify by label; labels that are numbers to predict are no strata

    Returns:
        the splits, and a description of the test split, empty if nothing is held out

    Raises:
        OptionError: there is a test split already
        DataError: there are too few series or groups
    """
    if config.test_fraction is None and config.folds is None:
        return series_sets, ""
    train = series_sets["train"]
    strata = copy(train)
    strata.y = train.y if by_class else None
    if "test" in series_sets:
        config.reject(f"here: there is a test split, {series_sets['test'].source}", "test_fraction", "folds")
    if config.folds is not None:
        groups = train.groups if find_default_criterion(train) == "group" else None
        rest, held_out = fold_split(encode_labels(strata), groups, config, train.source)
        title = f"test: fold {config.fold} of {config.folds}"
    else:
        assert config.test_fraction is not None
        rest, held_out = hold_out(strata, config.test_fraction, config.split_seed)
        title = "test"
    description = f"{title}: {describe_held_out(strata, held_out, find_default_criterion(train))}"
    return {**series_sets, "train": train.select(rest), "test": train.select(held_out)}, description


def find_default_criterion(series_set: SeriesSet) -> Criterion:
    """Return how series are divided if nothing is said: by group if there are several, else by class."""
    return "group" if len(set(series_set.groups or ())) > 1 else "class"


def hold_out(series_set: SeriesSet, fraction: float, seed: int, by: Criterion | None = None) -> tuple[Ints, Ints]:
    """Hold out a fraction of the series.

    Args:
        series_set: the series; without labels, all count as one class
        fraction: between 0 and 1
        seed: random seed
        by: how they are divided; None for the default

    Returns:
        indices of the other series, and of those that are held out, each ascending

    Raises:
        DataError: there are too few series or groups
    """
    by, count = by or find_default_criterion(series_set), len(series_set.x)
    if by == "time":
        rest, held_out = np.split(np.arange(count), [count - round(fraction * count)])
    elif by == "class":
        rest, held_out = stratified_split(encode_labels(series_set), fraction, seed)
    elif series_set.groups is None or len(set(series_set.groups)) < 2:
        raise DataError(f"{series_set.source}: fewer than two groups to hold one out; --group-column names them")
    else:
        rest, held_out = group_split(encode_labels(series_set), series_set.groups, fraction, seed)
    if not len(held_out) or not len(rest):
        raise DataError(f"{series_set.source}: {count} series are too few to hold some out")
    return rest, held_out


def describe_held_out(series_set: SeriesSet, held_out: Ints, by: Criterion) -> str:
    """Return which series are held out, such as "3 of 10 groups (12 of 40 series) held out"."""
    count = f"{len(held_out)} of {len(series_set.x)} series"
    if by == "group" and series_set.groups is not None:
        num_groups = len({series_set.groups[i] for i in held_out.tolist()})
        return f"{num_groups} of {len(set(series_set.groups))} groups ({count}) held out"
    how = {"time": ", the last ones", "class": ", stratified by class" if series_set.y is not None else ""}
    return f"{count} held out{how.get(by, '')}"


def encode_labels(series_set: SeriesSet) -> Ints:
    """Return [N] class index, all 0 if there are no labels."""
    if series_set.y is None:
        return np.zeros(len(series_set.x), np.int64)
    return np.unique(series_set.y, return_inverse=True)[1].astype(np.int64)


def fold_split(y: Ints, groups: list[str] | None, config: DataConfig, source: str) -> tuple[Ints, Ints]:
    """Divide series into folds of about the same fraction of every class, without dividing a group.

    Args:
        y: [N] class index
        groups: N names, or None
        config: `folds`, `fold` and `split_seed`
        source: the file, for messages

    Returns:
        indices of the series of the other folds, and of those of the fold, each ascending

    Raises:
        DataError: there are fewer series or groups than folds
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    assert config.folds is not None
    assert config.fold is not None
    kind, count = ("series", int(np.bincount(y).max())) if groups is None else ("groups", len(set(groups)))
    if count < config.folds:
        within = " in the largest class" if groups is None and y.any() else ""
        raise DataError(f"{source}: --folds {config.folds}, but there are {count} {kind}{within}; give fewer folds")
    splitter = StratifiedKFold if groups is None else StratifiedGroupKFold
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of small classes, which the notes on absent classes name
        folds = list(splitter(config.folds, shuffle=True, random_state=config.split_seed).split(y, y, groups))
    rest, held_out = folds[config.fold - 1]
    return rest.astype(np.int64), held_out.astype(np.int64)


def stratified_split(y: Ints, val_fraction: float, seed: int) -> tuple[Ints, Ints]:
    """Split at random, with the same fraction of every class in validation.

    A class of two or more series is in both splits; a class of one stays in training.

    Args:
        y: [N] class index
        val_fraction: fraction held out for validation, between 0 and 1
        seed: random seed

    Returns:
        indices of the training and of the validation series, each ascending
    """
    rng = np.random.default_rng(seed)
    val_members = []
    for members in map(rng.permutation, _group_by_class(y)):
        count = min(max(round(val_fraction * len(members)), 1), len(members) - 1)
        val_members.append(members[:count])
    val = np.sort(np.concatenate(val_members))
    return np.setdiff1d(np.arange(len(y)), val), val


def subsample_per_class(y: Ints, fraction: float, min_per_class: int, rng: np.random.Generator) -> Ints:
    """Draw a fraction of each class at random.

    Args:
        y: [N] class index
        fraction: fraction of each class to keep
        min_per_class: series of each class to keep at least, where there are as many
        rng: source of randomness

    Returns:
        indices of the chosen series, ascending
    """
    if not len(y):
        return np.zeros(0, np.int64)
    members = [rng.permutation(group) for group in _group_by_class(y)]
    return np.sort(np.concatenate([m[: max(round(fraction * len(m)), min_per_class)] for m in members]))


def _group_by_class(y: Ints) -> list[Ints]:
    """Return the ascending indices of the series of each class that occurs, in the order of the classes."""
    return np.split(np.argsort(y, kind="stable"), np.unique(y, return_counts=True)[1].cumsum()[:-1])


def group_split(y: Ints, groups: list[str], val_fraction: float, seed: int) -> tuple[Ints, Ints]:
    """Split without dividing a group between training and validation, as close to the fraction as groups allow.

    Of `NUM_TRIALS` random splits the best is chosen: the one with the fewest classes without training data, then the
    fewest without validation data, then the one closest to the fraction in every class.

    Args:
        y: [N] class index
        groups: N names, at least two different ones
        val_fraction: fraction held out for validation, between 0 and 1
        seed: random seed

    Returns:
        indices of the training and of the validation series, each ascending
    """
    names, group_index = np.unique(groups, return_inverse=True)
    num_classes = int(y.max()) + 1
    require_memory(
        4 * 8 * len(names) * num_classes,
        f"counts of {len(names):,} groups by {num_classes:,} classes",
        "give --val-data, or a file without groups",
    )
    class_counts = np.zeros((len(names), num_classes))
    np.add.at(class_counts, (group_index, y), 1)
    total = class_counts.sum(0)
    rng = np.random.default_rng(seed)
    best: tuple[tuple[float, ...], Ints] | None = None
    for _ in range(NUM_TRIALS):
        order = rng.permutation(len(names))
        val_counts = class_counts[order].cumsum(0)[:-1]  # row k: the first k + 1 groups validate
        k = int(np.abs(val_counts.sum(1) / total.sum() - val_fraction).argmin())
        distance = np.abs(val_counts[k] - val_fraction * total).sum()
        score = (float((val_counts[k] == total).sum()), float((val_counts[k] == 0).sum()), float(distance))
        if best is None or score < best[0]:
            best = score, order[: k + 1]
    assert best is not None
    is_val = np.isin(group_index, best[1])
    return np.flatnonzero(~is_val), np.flatnonzero(is_val)


def split_boundaries(table: Table) -> tuple[tuple[int, int, int], str]:
    """Return the rows at which training, validation and test end, and a description of the split.

    The Electricity Transformer tables are split into 12, 4 and 4 months of 30 days, as in the literature (later rows
    are not used); any other table into 70, 10 and 20 % of its rows.
    """
    rows = len(table.values)
    if table.channels == ETT_COLUMNS and table.times is not None and table.times.values.dtype.kind == "M" and rows > 1:
        rows_per_day = np.timedelta64(1, "D") // np.diff(table.times.values).min()
        if 0 < 600 * rows_per_day <= rows:
            return (
                360 * rows_per_day,
                480 * rows_per_day,
                600 * rows_per_day,
            ), "12, 4 and 4 months of 30 days, as usual for ETT"
    train, test = int(rows * 0.7), int(rows * 0.2)
    return (train, rows - test, rows), "70, 10 and 20 % of the rows"
