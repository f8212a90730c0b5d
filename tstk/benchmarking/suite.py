"""Benchmark suites: run methods x data sets x seeds, and compare the test scores.

    from tstk.benchmarking.suite import Method, make_config_runner, run_benchmark
    linear = Method("head linear", make_config_runner({"head": "linear"}))
    run_benchmark({"linear": linear}, {"GunPoint": "GunPoint"}, (0, 1), "bench")

Every cell is an ordinary run in OUT/METHOD/DATA/seed-N. Supervised methods are scored by their predictions, pretrained
ones by a linear probe; either way test is scored once. A cell with a score.json is finished and not run again, an
interrupted one is resumed.
"""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tstk.benchmarking.ranking import PosthocTest, Ranking, rank_methods
from tstk.config.recipe import run_recipe, train_unless_done
from tstk.config.records import RunResult
from tstk.config.resolve import Config, parse_overrides, resolve_config
from tstk.config.run_directory import write_json, write_text
from tstk.errors import OptionError, TstkError

LOWER_IS_BETTER = ("mse", "mae", "mase", "smape", "crps", "loss")
"""Metrics for which lower is better."""
RESULTS_FILE = "bench.json"
SCORE_FILE = "score.json"

CellRunner = Callable[[str, int, Path], dict[str, Any]]
"""Maps (data, seed, run directory) to "scores" (metric -> value), "by" (how they were obtained), and optionally
"baselines"."""


@dataclass(frozen=True)
class Method:
    """A method to compare.

    Args:
        definition: text that defines the method; finished cells are reused only while it is unchanged
        run: trains and scores one cell
    """

    definition: str
    run: CellRunner


@dataclass(frozen=True)
class Cell:
    """One run of a benchmark: its `result` (as in score.json), or the `error` that stopped it; neither if pending."""

    method: str
    data: str
    seed: int
    run_dir: Path
    result: dict[str, Any] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class BenchmarkResult:
    """Result of a benchmark.

    Args:
        cells: all cells, ordered by method, data set and seed
        score: the metric compared
        table: (method, data) -> mean over seeds and half the width of its 95 % interval (None for a single seed)
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
        sign = -1 if self.score in LOWER_IS_BETTER else 1
        for cell in self.cells:
            for name, scores in cell.result.get("baselines", {}).items():
                value = scores.get(self.score)
                if value is not None and (cell.data not in best or sign * value > sign * best[cell.data][1]):
                    best[cell.data] = name, float(value)
        return best

    @property
    def below_baseline(self) -> list[tuple[str, str]]:
        """(method, data set) pairs whose mean score is worse than the best baseline."""
        best, sign = self.best_baselines, -1 if self.score in LOWER_IS_BETTER else 1
        return [
            (method, data)
            for (method, data), (mean, _) in self.table.items()
            if data in best and sign * mean < sign * best[data][1]
        ]

    @property
    def failed_cells(self) -> list[Cell]:
        """Cells without a score."""
        return [cell for cell in self.cells if cell.error]


def make_config_runner(overrides: Mapping[str, Any] | Callable[[str, int], Config]) -> CellRunner:
    """Return a runner for a single training run.

    Args:
        overrides: options as in `tstk.fit`, or a function that maps (data, seed) to a config
    """

    def run(data: str, seed: int, folder: Path) -> dict[str, Any]:
        if callable(overrides):
            config = overrides(data, seed)
        else:
            config = resolve_config(("argument", parse_overrides({**overrides, "data": data, "seed": seed})))
        return _score_run(train_unless_done(config, folder, _train_or_resume, str(folder)), seed)

    return run


def make_recipe_runner(
    recipe: str, stage_overrides: Mapping[str, Mapping[str, Any]], common_overrides: Mapping[str, Any]
) -> CellRunner:
    """Return a runner for a recipe, which scores the last stage.

    Args:
        recipe: name or path of the recipe
        stage_overrides: stage -> options for this stage
        common_overrides: options for all stages
    """

    def run(data: str, seed: int, folder: Path) -> dict[str, Any]:
        overrides = ("flag", parse_overrides({**common_overrides, "data": data, "seed": seed}))
        stages = run_recipe(recipe, folder, _train_or_resume, overrides=overrides, stage_overrides=stage_overrides)
        return _score_run(list(stages.values())[-1], seed)

    return run


def _train_or_resume(config: Config, run_dir: Path, stage: str) -> RunResult:
    from tstk.training.runs import resume_run, train

    return resume_run(run_dir) if run_dir.is_dir() else train(config, run_dir, command=f"tstk bench: {stage}")


def _score_run(result: RunResult, seed: int) -> dict[str, Any]:
    if result.task != "pretraining":
        if not result.test:
            raise TstkError(f"{result.data}: no test split to score")
        return {"scores": result.test, "by": "test", "baselines": result.baselines}
    from tstk.evaluation.probe import probe

    (row,) = probe(result.run_dir, seeds=(seed,))["results"]
    scores = {name: row[name] for name in ("accuracy", "f1_macro")}
    return {"scores": scores, "by": "linear probe", "baselines": row["baselines"]}


def run_benchmark(
    methods: Mapping[str, Method],
    datasets: Mapping[str, str],
    seeds: Sequence[int],
    out_dir: str | Path,
    *,
    score: str | None = None,
    test: PosthocTest = "nemenyi",
    on_progress: Callable[[Cell, int, int], None] = lambda cell, done, of: None,
) -> BenchmarkResult:
    """Run all unfinished cells, then compare the methods and write the results.

    A failed cell is reported with its error and does not stop the others; it is retried by the next call.

    Args:
        methods: methods by name
        datasets: data set name -> value of `--data`
        seeds: training seeds
        out_dir: output folder; new, or that of an earlier benchmark
        score: metric to compare; accuracy by default, or mse if there is no accuracy
        test: post-hoc test: nemenyi or holm
        on_progress: called with (cell, number, total) when a cell starts (without result) and when it is finished

    Raises:
        OptionError: `out_dir` contains other files, or cells of a method with another definition
    """
    from tstk.benchmarking.page import write_results

    folder = Path(out_dir)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / RESULTS_FILE).is_file()):
        raise OptionError(f"--out {out_dir}: the folder contains files but no {RESULTS_FILE}; choose another folder")
    cells = [Cell(m, d, seed, folder / m / d / f"seed-{seed}") for m in methods for d in datasets for seed in seeds]
    finished = [_load_finished_cell(cell, methods[cell.method]) for cell in cells]
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / RESULTS_FILE).is_file():
        write_json(folder / RESULTS_FILE, {"methods": {name: method.definition for name, method in methods.items()}})
    scored: list[Cell] = []
    for number, (cell, finished_cell) in enumerate(zip(cells, finished, strict=True), 1):
        if finished_cell is None:
            on_progress(cell, number, len(cells))
            finished_cell = _run_cell(cell, methods[cell.method], datasets[cell.data])
        scored.append(finished_cell)
        on_progress(finished_cell, number, len(cells))
    result = compare_methods(scored, score, test)
    write_results(result, {name: method.definition for name, method in methods.items()}, folder)
    return result


def _load_finished_cell(cell: Cell, method: Method) -> Cell | None:
    """Return the cell with its stored result, or None if it is not finished."""
    path = cell.run_dir / SCORE_FILE
    if not path.is_file():
        return None
    result = json.loads(path.read_text(encoding="utf-8"))
    if result["method"] != method.definition:
        raise OptionError(
            f"{cell.run_dir} was run as {result['method']!r}, now {cell.method} is {method.definition!r}; "
            "give the method another name, choose another --out, or remove that directory"
        )
    return Cell(cell.method, cell.data, cell.seed, cell.run_dir, result)


def _run_cell(cell: Cell, method: Method, data: str) -> Cell:
    start = time.time()
    error_file = cell.run_dir.with_name(f"{cell.run_dir.name}.error.txt")
    error_file.unlink(missing_ok=True)
    try:
        result = method.run(data, cell.seed, cell.run_dir)
    except Exception as e:
        if os.environ.get("TSTK_STRICT") == "1":
            raise
        if isinstance(e, TstkError):
            return Cell(cell.method, cell.data, cell.seed, cell.run_dir, error=" ".join(str(e).split()))
        error_file.parent.mkdir(parents=True, exist_ok=True)
        write_text(error_file, traceback.format_exc())
        message = f"{type(e).__name__}: {' '.join(str(e).split())} ({error_file} has the traceback)"
        return Cell(cell.method, cell.data, cell.seed, cell.run_dir, error=message)
    result = {"method": method.definition, **result, "seconds": round(time.time() - start, 2)}
    write_json(cell.run_dir / SCORE_FILE, result)
    return Cell(cell.method, cell.data, cell.seed, cell.run_dir, result)


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
        score = next((n for n in ("accuracy", "mse") if n in score_names), "accuracy")
    elif all_scores and score not in score_names:
        raise OptionError(f"--score {score}: no run has it; there are {', '.join(score_names)}")
    methods, datasets = (
        list(dict.fromkeys(getattr(cell, attribute) for cell in cells)) for attribute in ("method", "data")
    )
    table, incomplete = {}, set()
    for method in methods:
        for data in datasets:
            own_cells = [cell for cell in cells if (cell.method, cell.data) == (method, data)]
            values = [
                float(cell.result["scores"][score]) for cell in own_cells if score in cell.result.get("scores", {})
            ]
            if values:
                table[method, data] = _compute_mean_interval(values)
            if len(values) < len(own_cells):
                incomplete.add(data)
    ranked = [data for data in datasets if data not in incomplete]
    ranking = None
    if ranked and len(methods) > 1:
        means = np.array([[table[method, data][0] for method in methods] for data in ranked])
        ranking = rank_methods(methods, -means if score in LOWER_IS_BETTER else means, test)
    return BenchmarkResult(cells, score, table, ranking, [data for data in datasets if data in incomplete])


def _compute_mean_interval(values: list[float]) -> tuple[float, float | None]:
    """Compute the mean and half the width of its 95 % interval (Student's t); None for a single value."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None
    from scipy.stats import t

    return mean, float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
