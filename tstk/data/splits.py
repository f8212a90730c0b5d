"""How a validation part is split off the training part, and where the parts of a table begin and end."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tstk.data.containers import Table

Ints = NDArray[np.int64]

ETT = ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT")
"""Columns of the Electricity Transformer tables, which have a split of their own."""

TRIES = 200
"""Random orders of the groups among which the best split is chosen."""


def stratified(y: Ints, fraction: float, seed: int) -> tuple[Ints, Ints]:
    """A random split in which every class keeps its share.

    A class with two or more members is on both sides; a single member stays in training.

    Args:
        y: [N] class index
        fraction: share of validation, between 0 and 1
        seed: of the choice

    Returns:
        rows of training and of validation, each in ascending order
    """
    rng = np.random.default_rng(seed)
    chosen = []
    for c in np.unique(y):
        members = rng.permutation(np.flatnonzero(y == c))
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        chosen.append(members[:count])
    val = np.sort(np.concatenate(chosen))
    return np.setdiff1d(np.arange(len(y)), val), val


def few(y: Ints, share: float, least: int, rng: np.random.Generator) -> Ints:
    """Rows with this share of each class, at least `least` of it where there are as many; in ascending order."""
    if not len(y):
        return np.zeros(0, np.int64)
    members = [rng.permutation(np.flatnonzero(y == c)) for c in np.unique(y)]
    return np.sort(np.concatenate([rows[: max(round(share * len(rows)), least)] for rows in members]))


def by_group(y: Ints, groups: list[str], fraction: float, seed: int) -> tuple[Ints, Ints]:
    """A split that puts every group on one side, as close to the fraction as whole groups allow.

    Of many random choices the one is taken that leaves fewest classes without training data, then fewest without
    validation data, then comes closest to the fraction in every class.

    Args:
        y: [N] class index
        groups: N names, at least two different ones
        fraction: share of validation, between 0 and 1
        seed: of the choice

    Returns:
        rows of training and of validation, each in ascending order
    """
    names, at = np.unique(groups, return_inverse=True)
    counts = np.zeros((len(names), int(y.max()) + 1))
    np.add.at(counts, (at, y), 1)
    total = counts.sum(0)
    rng = np.random.default_rng(seed)
    best: tuple[tuple[float, ...], Ints] | None = None
    for _ in range(TRIES):
        order = rng.permutation(len(names))
        taken = counts[order].cumsum(0)[:-1]
        k = int(np.abs(taken.sum(1) / total.sum() - fraction).argmin())
        away = np.abs(taken[k] - fraction * total).sum()
        score = (float((taken[k] == total).sum()), float((taken[k] == 0).sum()), float(away))
        if best is None or score < best[0]:
            best = score, order[: k + 1]
    assert best is not None
    inside = np.isin(at, best[1])
    return np.flatnonzero(~inside), np.flatnonzero(inside)


def borders(table: Table) -> tuple[tuple[int, int, int], str]:
    """Rows at which training, validation and test end, and how that was decided.

    The Electricity Transformer tables get 12, 4 and 4 months of 30 days, as in the literature (rows beyond are not
    used); any other table 70, 10 and 20 % of its rows.
    """
    rows = len(table.values)
    if table.channels == ETT and table.dates is not None and table.dates.dtype.kind == "M" and rows > 1:
        day = np.timedelta64(1, "D") // (table.dates[1:] - table.dates[:-1]).min()
        if 0 < 600 * day <= rows:
            return (360 * day, 480 * day, 600 * day), "12, 4 and 4 months of 30 days, as usual for ETT"
    train, test = int(rows * 0.7), int(rows * 0.2)
    return (train, rows - test, rows), "70, 10 and 20 % of the rows"
