"""Hold out validation series from the training split, and divide the rows of a table into splits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tstk.data.containers import Table
from tstk.data.memory import require_memory

Ints = NDArray[np.int64]

ETT_COLUMNS = ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT")
"""Columns of the Electricity Transformer tables, which have a standard split."""

NUM_TRIALS = 200
"""Random splits of the groups among which the best one is chosen."""


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
