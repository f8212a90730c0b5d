"""Results of a benchmark: its cells, the table of means and intervals, and the ranking of the methods."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tstk.benchmarking.ranking import PosthocTest, Ranking, rank_methods
from tstk.errors import OptionError
from tstk.evaluation.formatting import find_main_metric, is_lower_better

RESULTS_FILE = "bench.json"


@dataclass(frozen=True)
class Cell:
    """One run of a benchmark: its `result` (as in score.json), or the `error` that stopped it; neither if pending.

    With folds, its test split is the fold `fold`, from 1, of `folds`.
    """

    method: str
    data: str
    seed: int
    run_dir: Path
    result: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    fold: int | None = None
    folds: int | None = None

    @property
    def fold_options(self) -> dict[str, int]:
        """The options of data that select the fold; none without folds."""
        if self.folds is None or self.fold is None:
            return {}
        return {"folds": self.folds, "fold": self.fold}

    @property
    def label(self) -> str:
        """The cell in words, for messages."""
        fold = "" if self.fold is None else f", fold {self.fold} of {self.folds}"
        return f"{self.method}, {self.data}, seed {self.seed}{fold}"


@dataclass(frozen=True)
class BenchmarkResult:
    """Result of a benchmark.

    Args:
        cells: all cells, ordered by method, data set and seed
        score: the metric compared
        table: (method, data) -> mean over seeds, or over folds, and half the width of its 95 % interval (None for a
            single seed without folds)
        ranking: None with a single method or without a data set on which all methods have all scores
        unranked_datasets: data sets left out of the ranking because a score is missing
    """

    cells: list[Cell]
    score: str
    table: dict[tuple[str, str], tuple[float, float | None]]
    ranking: Ranking | None
    unranked_datasets: list[str]

    @property
    def best_baselines(self) -> dict[str, tuple[str, float]]:
        """Data set -> name and score of its best baseline."""
        best: dict[str, tuple[str, float]] = {}
        sign = -1 if is_lower_better(self.score) else 1
        for cell in self.cells:
            for name, scores in cell.result.get("baselines", {}).items():
                value = scores.get(self.score)
                if value is not None and (cell.data not in best or sign * value > sign * best[cell.data][1]):
                    best[cell.data] = name, float(value)
        return best

    @property
    def below_baseline(self) -> list[tuple[str, str]]:
        """(method, data set) pairs whose mean score is worse than the best baseline."""
        best, sign = self.best_baselines, -1 if is_lower_better(self.score) else 1
        return [
            (method, data)
            for (method, data), (mean, _) in self.table.items()
            if data in best and sign * mean < sign * best[data][1]
        ]

    @property
    def failed_cells(self) -> list[Cell]:
        """Cells without a score."""
        return [cell for cell in self.cells if cell.error]


def compare_methods(cells: list[Cell], score: str | None = None, test: PosthocTest = "nemenyi") -> BenchmarkResult:
    """Compute means and intervals per method and data set, and rank the methods on the data sets without gaps.

    Args:
        cells: finished and failed cells
        score: metric to compare; see `run_benchmark`
        test: post-hoc test

    Raises:
        OptionError: no cell has this score
    """
    all_scores = [cell.result["scores"] for cell in cells if cell.result]
    score_names = [n for n in dict.fromkeys(n for s in all_scores for n in s) if not n.endswith("_se")]
    if score is None:
        score = find_main_metric(score_names) or "accuracy"
    elif all_scores and score not in score_names:
        raise OptionError(f"--score {score}: no run has it; there are {', '.join(score_names)}")
    methods, datasets = (
        list(dict.fromkeys(getattr(cell, attribute) for cell in cells)) for attribute in ("method", "data")
    )
    table, incomplete = {}, set()
    for method in methods:
        for data in datasets:
            own_cells = [cell for cell in cells if (cell.method, cell.data) == (method, data)]
            scored = [cell for cell in own_cells if score in cell.result.get("scores", {})]
            values = [float(cell.result["scores"][score]) for cell in scored]
            if values and scored[0].folds is not None:
                by_fold: dict[int | None, list[float]] = {}
                for cell, value in zip(scored, values, strict=True):
                    by_fold.setdefault(cell.fold, []).append(value)
                table[method, data] = _compute_fold_interval([float(np.mean(v)) for v in by_fold.values()])
            elif values:
                table[method, data] = _compute_mean_interval(values)
            if len(values) < len(own_cells):
                incomplete.add(data)
    ranked = [data for data in datasets if data not in incomplete]
    ranking = None
    if ranked and len(methods) > 1:
        means = np.array([[table[method, data][0] for method in methods] for data in ranked])
        ranking = rank_methods(methods, -means if is_lower_better(score) else means, test)
    return BenchmarkResult(cells, score, table, ranking, [data for data in datasets if data in incomplete])


def _compute_mean_interval(values: list[float]) -> tuple[float, float | None]:
    """Compute the mean and half the width of its 95 % interval (Student's t); None for a single value."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None
    from scipy.stats import t

    return mean, float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))


def _compute_fold_interval(values: list[float]) -> tuple[float, float | None]:
    """Compute the mean over folds and half the width of its 95 % interval; None for a single fold.

    The training splits of folds overlap, so their scores vary less than those of new data would: the variance is that
    of Nadeau and Bengio (2003), (1/K + 1/(K-1)) times that of the scores, as test is 1/(K-1) of train.
    """
    mean, half_width = _compute_mean_interval(values)
    count = len(values)
    return mean, None if half_width is None else half_width * float(np.sqrt(1 + count / (count - 1)))
