"""Methods compared over data sets, after Demšar, "Statistical comparisons of classifiers" (JMLR 2006).

Each data set ranks the methods; Friedman's test asks whether the mean ranks differ at all, and a post-hoc test which
pairs do. The result is a critical-difference diagram: methods that nothing tells apart share a bar.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import inf, sqrt
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Test = Literal["nemenyi", "holm"]
_AXIS = 41
"""Characters of the axis of ranks in text."""


@dataclass(frozen=True)
class Ranking:
    """What the comparison says.

    Args:
        names: of the methods, best mean rank first
        ranks: mean rank of each, 1 is best
        sets: data sets that were counted
        test: which pairs were told apart by
        level: of significance
        friedman: its p-value; None with two methods or fewer than two sets
        distance: of mean ranks that Nemenyi's test calls critical; None for Holm's
        groups: first and last place of each run of methods that nothing tells apart, the longest runs alone
        versus: (method, other) -> data sets won, drawn and lost
    """

    names: tuple[str, ...]
    ranks: tuple[float, ...]
    sets: int
    test: Test
    level: float
    friedman: float | None
    distance: float | None
    groups: tuple[tuple[int, int], ...]
    versus: dict[tuple[str, str], tuple[int, int, int]]

    def facts(self) -> dict[str, Any]:
        """The same, JSON-able."""
        return {
            "ranks": dict(zip(self.names, self.ranks, strict=True)),
            "sets": self.sets,
            "test": self.test,
            "level": self.level,
            "friedman_p": self.friedman,
            "critical_distance": self.distance,
            "not_told_apart": [list(self.names[a : b + 1]) for a, b in self.groups],
            "won_drawn_lost": [[a, b, *counts] for (a, b), counts in self.versus.items()],
        }


def ranking(names: list[str], scores: NDArray[Any], test: Test = "nemenyi", level: float = 0.05) -> Ranking:
    """Rank methods over data sets.

    Args:
        names: M methods
        scores: [sets, M], higher is better; equal ones share a rank
        test: nemenyi (distance of mean ranks), or holm (Wilcoxon's signed ranks of each pair, corrected by Holm)
        level: of significance
    """
    from scipy.stats import friedmanchisquare, rankdata

    rows, many = scores.shape
    mean = rankdata(-scores, axis=1).mean(0)
    order = np.argsort(mean, kind="stable")
    friedman, alike = None, bool((scores == scores[:, :1]).all())
    if many > 2 and rows > 1:
        friedman = 1.0 if alike else float(friedmanchisquare(*scores.T).pvalue)
    distance = _critical(many, rows, level) if test == "nemenyi" and many > 1 else None
    apart = _by_distance(mean, distance) if distance is not None else _by_holm(scores, level)
    where = {m: place for place, m in enumerate(order.tolist())}
    told = {frozenset((where[a], where[b])) for a, b in apart}
    sorted_names = tuple(names[m] for m in order)
    best = scores[:, order]
    versus = {
        (sorted_names[a], sorted_names[b]): (
            int((best[:, a] > best[:, b]).sum()),
            int((best[:, a] == best[:, b]).sum()),
            int((best[:, a] < best[:, b]).sum()),
        )
        for a, b in combinations(range(many), 2)
    }
    return Ranking(
        sorted_names,
        tuple(float(mean[m]) for m in order),
        rows,
        test,
        level,
        friedman,
        distance,
        _runs(many, told),
        versus,
    )


def _critical(many: int, rows: int, level: float) -> float:
    """Nemenyi's critical distance; Demšar's equation in section 3.2.2."""
    from scipy.stats import studentized_range

    return float(studentized_range.ppf(1 - level, many, inf)) / sqrt(2) * sqrt(many * (many + 1) / (6 * rows))


def _by_distance(mean: NDArray[Any], distance: float) -> list[tuple[int, int]]:
    return [(a, b) for a, b in combinations(range(len(mean)), 2) if abs(mean[a] - mean[b]) > distance]


def _by_holm(scores: NDArray[Any], level: float) -> list[tuple[int, int]]:
    """Pairs of methods whose differences Wilcoxon's test finds not by chance, most certain first until one fails."""
    from scipy.stats import wilcoxon

    pairs = list(combinations(range(scores.shape[1]), 2))
    values = []
    for a, b in pairs:
        away = scores[:, a] - scores[:, b]
        values.append(float(wilcoxon(away).pvalue) if away.any() else 1.0)
    told = []
    for done, at in enumerate(np.argsort(values, kind="stable").tolist()):
        if values[at] > level / (len(pairs) - done):
            break
        told.append(pairs[at])
    return told


def _runs(many: int, told: set[frozenset[int]]) -> tuple[tuple[int, int], ...]:
    """The longest runs of neighbours in rank of which no pair was told apart."""
    runs: list[tuple[int, int]] = []
    for first in range(many):
        last = first
        while last + 1 < many and not any(frozenset((i, last + 1)) in told for i in range(first, last + 1)):
            last += 1
        if last > first and not (runs and runs[-1][1] >= last):
            runs.append((first, last))
    return tuple(runs)


def said(it: Ranking) -> str:
    """In words: what was tested, and what came of it."""
    words = [f"mean ranks over {it.sets} data sets, 1 is best"]
    if it.friedman is not None:
        words.append(f"Friedman p = {it.friedman:.3g}")
    if it.distance is not None:
        words.append(f"critical distance {it.distance:.2f} (Nemenyi, level {it.level:g})")
    elif len(it.names) > 1:
        words.append(f"Wilcoxon's signed ranks with Holm's correction, level {it.level:g}")
        pairs = len(it.names) * (len(it.names) - 1) // 2
        least = 2.0 ** (1 - it.sets)
        if least > it.level / pairs:
            words.append(f"{it.sets} data sets are too few for any pair to differ (p is never below {least:.3g})")
    return "; ".join(words)


def text(it: Ranking) -> str:
    """The critical-difference diagram in characters: place on the axis of ranks, and a bar per group."""
    many, wide = len(it.names), max(map(len, it.names))
    unit = (_AXIS - 1) / max(many - 1, 1)
    axis = [" "] * (_AXIS + 2)
    for rank in range(1, many + 1):
        for i, letter in enumerate(str(rank)):
            axis[round((rank - 1) * unit) + i] = letter
    lines = [" " * (wide + 7) + "".join(axis).rstrip()]
    for place, (name, mean) in enumerate(zip(it.names, it.ranks, strict=True)):
        at = round((mean - 1) * unit)
        mark = "·" * at + "●" + " " * (_AXIS - at)
        bars = "".join(" │" if a <= place <= b else "  " for a, b in it.groups)
        lines.append(f"{name:{wide}} {mean:5.2f} {mark}{bars}".rstrip())
    return "\n".join([*lines, "", said(it)])


def draw(it: Ranking, *paths: Path) -> None:
    """The critical-difference diagram as pictures, whose kind the suffix says; needs matplotlib."""
    from matplotlib.figure import Figure

    many = len(it.names)
    rows = (many + 1) // 2
    high = 1.2 + 0.28 * rows + 0.12 * len(it.groups)
    figure = Figure(figsize=(7, high))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.axis("off")
    left, right = 0.28, 0.72

    def x(rank: float) -> float:
        return left + (right - left) * (rank - 1) / max(many - 1, 1)

    def y(inches: float) -> float:
        return 1 - inches / high

    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    line: dict[str, Any] = {"color": "black", "linewidth": 1, "solid_capstyle": "butt"}
    ax.plot([left, right], [y(0.6), y(0.6)], **line)
    for rank in range(1, many + 1):
        ax.plot([x(rank)] * 2, [y(0.6), y(0.53)], **line)
        ax.text(x(rank), y(0.5), str(rank), ha="center", va="bottom", fontsize=9)
    if it.distance is not None and many > 1:
        end = min(x(1 + it.distance), 0.98)
        ax.plot([left, end], [y(0.22), y(0.22)], **line)
        ax.text((left + end) / 2, y(0.19), f"CD = {it.distance:.2f}", ha="center", va="bottom", fontsize=9)
    for i, (a, b) in enumerate(it.groups):
        level = y(0.7 + 0.12 * i)
        ax.plot([x(it.ranks[a]) - 0.005, x(it.ranks[b]) + 0.005], [level, level], **line | {"linewidth": 4})
    for place, (name, mean) in enumerate(zip(it.names, it.ranks, strict=True)):
        low = place < rows
        level = y(0.95 + 0.12 * len(it.groups) + 0.28 * (place if low else many - 1 - place))
        edge = left - 0.02 if low else right + 0.02
        ax.plot([x(mean), x(mean), edge], [y(0.6), level, level], **line)
        label = f"{name}  {mean:.2f}" if low else f"{mean:.2f}  {name}"
        ax.text(
            edge - 0.01 if low else edge + 0.01, level, label, ha="right" if low else "left", va="center", fontsize=9
        )
    for path in paths:
        figure.savefig(path, dpi=160, facecolor="white")
