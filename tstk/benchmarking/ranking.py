"""Comparison of methods over data sets, after Demšar, "Statistical comparisons of classifiers" (JMLR 2006).

Methods are ranked on each data set. Friedman's test checks whether the mean ranks differ at all, a post-hoc test which
pairs differ. In the critical-difference diagram, a bar joins methods that do not differ significantly.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import inf, sqrt
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tstk.files import atomic_write

PosthocTest = Literal["nemenyi", "holm"]
_AXIS_WIDTH = 41
"""Width of the rank axis of the text diagram, in characters."""

ALPHA = 0.05
"""Significance level."""


@dataclass(frozen=True)
class Ranking:
    """Result of a comparison.

    Args:
        names: methods, best mean rank first
        ranks: mean rank of each method, 1 is best
        num_datasets: number of data sets ranked
        test: post-hoc test
        friedman_p: p-value of Friedman's test; None with two methods or fewer than two data sets
        critical_distance: critical difference of mean ranks (Nemenyi); None for Holm
        groups: first and last place of each maximal group of methods without a significant difference
        wins_draws_losses: (method, other) -> number of data sets won, drawn and lost
    """

    names: tuple[str, ...]
    ranks: tuple[float, ...]
    num_datasets: int
    test: PosthocTest
    friedman_p: float | None
    critical_distance: float | None
    groups: tuple[tuple[int, int], ...]
    wins_draws_losses: dict[tuple[str, str], tuple[int, int, int]]

    def to_dict(self) -> dict[str, Any]:
        """Return the ranking as stored in bench.json."""
        return {
            "ranks": dict(zip(self.names, self.ranks, strict=True)),
            "sets": self.num_datasets,
            "test": self.test,
            "level": ALPHA,
            "friedman_p": self.friedman_p,
            "critical_distance": self.critical_distance,
            "not_told_apart": [list(self.names[a : b + 1]) for a, b in self.groups],
            "won_drawn_lost": [[a, b, *counts] for (a, b), counts in self.wins_draws_losses.items()],
        }


def rank_methods(names: list[str], scores: NDArray[Any], test: PosthocTest = "nemenyi") -> Ranking:
    """Rank methods over data sets.

    Args:
        names: M methods
        scores: [data sets, M], higher is better; ties share the mean rank
        test: nemenyi (critical difference of mean ranks) or holm (pairwise Wilcoxon signed-rank tests with Holm's
            correction)
    """
    from scipy.stats import friedmanchisquare, rankdata

    num_datasets, num_methods = scores.shape
    mean_ranks = rankdata(-scores, axis=1).mean(0)
    order = np.argsort(mean_ranks, kind="stable")
    friedman_p, is_constant = None, bool((scores == scores[:, :1]).all())
    if num_methods > 2 and num_datasets > 1:
        friedman_p = 1.0 if is_constant else float(friedmanchisquare(*scores.T).pvalue)
    critical_distance = (
        _compute_critical_distance(num_methods, num_datasets) if test == "nemenyi" and num_methods > 1 else None
    )
    significant_pairs = (
        _nemenyi_significant_pairs(mean_ranks, critical_distance)
        if critical_distance is not None
        else _holm_significant_pairs(scores)
    )
    place_of = {method: place for place, method in enumerate(order.tolist())}
    significant_places = {frozenset((place_of[a], place_of[b])) for a, b in significant_pairs}
    sorted_names = tuple(names[method] for method in order)
    sorted_scores = scores[:, order]
    wins_draws_losses = {
        (sorted_names[a], sorted_names[b]): (
            int((sorted_scores[:, a] > sorted_scores[:, b]).sum()),
            int((sorted_scores[:, a] == sorted_scores[:, b]).sum()),
            int((sorted_scores[:, a] < sorted_scores[:, b]).sum()),
        )
        for a, b in combinations(range(num_methods), 2)
    }
    return Ranking(
        sorted_names,
        tuple(float(mean_ranks[method]) for method in order),
        num_datasets,
        test,
        friedman_p,
        critical_distance,
        _find_cliques(num_methods, significant_places),
        wins_draws_losses,
    )


def _compute_critical_distance(num_methods: int, num_datasets: int) -> float:
    """Compute Nemenyi's critical difference (Demšar, section 3.2.2)."""
    from scipy.stats import studentized_range

    return (
        float(studentized_range.ppf(1 - ALPHA, num_methods, inf))
        / sqrt(2)
        * sqrt(num_methods * (num_methods + 1) / (6 * num_datasets))
    )


def _nemenyi_significant_pairs(mean_ranks: NDArray[Any], critical_distance: float) -> list[tuple[int, int]]:
    return [
        (a, b)
        for a, b in combinations(range(len(mean_ranks)), 2)
        if abs(mean_ranks[a] - mean_ranks[b]) > critical_distance
    ]


def _holm_significant_pairs(scores: NDArray[Any]) -> list[tuple[int, int]]:
    """Return the pairs that differ significantly by Wilcoxon's signed-rank test, with Holm's step-down correction."""
    from scipy.stats import wilcoxon

    pairs = list(combinations(range(scores.shape[1]), 2))
    p_values = []
    for a, b in pairs:
        differences = scores[:, a] - scores[:, b]
        p_values.append(float(wilcoxon(differences).pvalue) if differences.any() else 1.0)
    significant = []
    for num_tested, index in enumerate(np.argsort(p_values, kind="stable").tolist()):
        if p_values[index] > ALPHA / (len(pairs) - num_tested):
            break
        significant.append(pairs[index])
    return significant


def _find_cliques(num_methods: int, significant_pairs: set[frozenset[int]]) -> tuple[tuple[int, int], ...]:
    """Return first and last place of each maximal group of methods, adjacent in rank, without a significant pair."""
    cliques: list[tuple[int, int]] = []
    for first in range(num_methods):
        last = first
        while last + 1 < num_methods and not any(
            frozenset((i, last + 1)) in significant_pairs for i in range(first, last + 1)
        ):
            last += 1
        if last > first and not (cliques and cliques[-1][1] >= last):
            cliques.append((first, last))
    return tuple(cliques)


def describe_ranking(ranking: Ranking) -> str:
    """Describe the tests and their results in words."""
    parts = [f"mean ranks over {ranking.num_datasets} data sets, 1 is best"]
    if ranking.friedman_p is not None:
        parts.append(f"Friedman p = {ranking.friedman_p:.3g}")
    if ranking.critical_distance is not None:
        parts.append(f"critical distance {ranking.critical_distance:.2f} (Nemenyi, level {ALPHA:g})")
    elif len(ranking.names) > 1:
        parts.append(f"Wilcoxon's signed-rank test with Holm's correction, level {ALPHA:g}")
        num_pairs = len(ranking.names) * (len(ranking.names) - 1) // 2
        min_p = 2.0 ** (1 - ranking.num_datasets)
        if min_p > ALPHA / num_pairs:
            parts.append(
                f"{ranking.num_datasets} data sets are too few for any pair to differ (p is never below {min_p:.3g})"
            )
    return "; ".join(parts)


def format_diagram(ranking: Ranking) -> str:
    """Format the critical-difference diagram as text: a line per method, a column of bars per group."""
    num_methods, name_width = len(ranking.names), max(map(len, ranking.names))
    unit = (_AXIS_WIDTH - 1) / max(num_methods - 1, 1)
    axis = [" "] * (_AXIS_WIDTH + 2)
    for rank in range(1, num_methods + 1):
        for i, letter in enumerate(str(rank)):
            axis[round((rank - 1) * unit) + i] = letter
    lines = [" " * (name_width + 7) + "".join(axis).rstrip()]
    for place, (name, mean_rank) in enumerate(zip(ranking.names, ranking.ranks, strict=True)):
        column = round((mean_rank - 1) * unit)
        mark = "·" * column + "●" + " " * (_AXIS_WIDTH - column)
        bars = "".join(" │" if a <= place <= b else "  " for a, b in ranking.groups)
        lines.append(f"{name:{name_width}} {mean_rank:5.2f} {mark}{bars}".rstrip())
    return "\n".join([*lines, "", describe_ranking(ranking)])


def draw_diagram(ranking: Ranking, *paths: Path) -> None:
    """Draw the critical-difference diagram to files, format by suffix; needs matplotlib."""
    from matplotlib.figure import Figure

    num_methods = len(ranking.names)
    num_left = (num_methods + 1) // 2
    height = 1.2 + 0.28 * num_left + 0.12 * len(ranking.groups)
    figure = Figure(figsize=(7, height))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.axis("off")
    left, right = 0.28, 0.72

    def x(rank: float) -> float:
        return left + (right - left) * (rank - 1) / max(num_methods - 1, 1)

    def y(inches: float) -> float:
        return 1 - inches / height

    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    line: dict[str, Any] = {"color": "black", "linewidth": 1, "solid_capstyle": "butt"}
    ax.plot([left, right], [y(0.6), y(0.6)], **line)
    for rank in range(1, num_methods + 1):
        ax.plot([x(rank)] * 2, [y(0.6), y(0.53)], **line)
        ax.text(x(rank), y(0.5), str(rank), ha="center", va="bottom", fontsize=9)
    if ranking.critical_distance is not None and num_methods > 1:
        end = min(x(1 + ranking.critical_distance), 0.98)
        ax.plot([left, end], [y(0.22), y(0.22)], **line)
        ax.text(
            (left + end) / 2, y(0.19), f"CD = {ranking.critical_distance:.2f}", ha="center", va="bottom", fontsize=9
        )
    for i, (a, b) in enumerate(ranking.groups):
        level = y(0.7 + 0.12 * i)
        ax.plot([x(ranking.ranks[a]) - 0.005, x(ranking.ranks[b]) + 0.005], [level, level], **line | {"linewidth": 4})
    for place, (name, mean) in enumerate(zip(ranking.names, ranking.ranks, strict=True)):
        is_left = place < num_left
        level = y(0.95 + 0.12 * len(ranking.groups) + 0.28 * (place if is_left else num_methods - 1 - place))
        edge = left - 0.02 if is_left else right + 0.02
        ax.plot([x(mean), x(mean), edge], [y(0.6), level, level], **line)
        label = f"{name}  {mean:.2f}" if is_left else f"{mean:.2f}  {name}"
        ax.text(
            edge - 0.01 if is_left else edge + 0.01,
            level,
            label,
            ha="right" if is_left else "left",
            va="center",
            fontsize=9,
        )
    for path in paths:
        with atomic_write(path) as file:
            figure.savefig(file, format=path.suffix[1:], dpi=160, facecolor="white")
