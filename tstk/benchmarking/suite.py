"""Benchmark suites: run methods x data sets x seeds, and compare the test scores.

    from tstk.benchmarking.suite import Method, make_config_runner, run_benchmark
    linear = Method("head linear", make_config_runner({"head": "linear"}))
    run_benchmark({"linear": linear}, {"GunPoint": "GunPoint"}, (0, 1), "bench")

Every cell is an ordinary run in OUT/METHOD/DATA/seed-N, or seed-N-fold-I-of-K with folds. Supervised methods are scored
by their predictions, pretrained ones by a linear probe; either way test is scored once. A cell with a score.json is
finished and not run again, an interrupted one is resumed.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tstk.benchmarking.page import write_results
from tstk.benchmarking.ranking import PosthocTest
from tstk.benchmarking.results import RESULTS_FILE, BenchmarkResult, Cell, compare_methods
from tstk.config.recipe import run_recipe, train_unless_done
from tstk.config.records import RunResult, has_type, read_record, write_record
from tstk.config.resolve import Config, parse_overrides, resolve_config
from tstk.errors import CheckpointError, OptionError, TstkError
from tstk.files import is_leftover, write_json, write_text

SCORE_FILE = "score.json"

CellRunner = Callable[[str, int, Path, Mapping[str, int]], dict[str, Any]]
"""Maps (data, seed, run directory, options of the fold) to "scores" (metric -> value), "by" (how they were obtained),
and optionally "baselines". The options are "folds" and "fold", or none without folds."""


@dataclass(frozen=True)
class Method:
    """A method to compare.

    Args:
        definition: text that defines the method; finished cells are reused only while it is unchanged
        run: trains and scores one cell
    """

    definition: str
    run: CellRunner


ConfigFactory = Callable[[str, int, Mapping[str, int]], Config]
"""Maps (data, seed, options of the fold) to a config."""


def make_config_runner(overrides: Mapping[str, Any] | ConfigFactory) -> CellRunner:
    """Return a runner for a single training run.

    Args:
        overrides: options as in `tstk.fit`, or a function that returns a config
    """

    def run(data: str, seed: int, folder: Path, fold_options: Mapping[str, int]) -> dict[str, Any]:
        if callable(overrides):
            config = overrides(data, seed, fold_options)
        else:
            options = {**overrides, **fold_options, "data": data, "seed": seed}
            config = resolve_config(("argument", parse_overrides(options)))
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

    def run(data: str, seed: int, folder: Path, fold_options: Mapping[str, int]) -> dict[str, Any]:
        overrides = ("flag", parse_overrides({**common_overrides, **fold_options, "data": data, "seed": seed}))
        stages = run_recipe(recipe, folder, _train_or_resume, overrides=overrides, stage_overrides=stage_overrides)
        return _score_run(list(stages.values())[-1], seed)

    return run


def _train_or_resume(config: Config, run_dir: Path, stage: str) -> RunResult:
    from tstk.training.runs import train_or_resume

    return train_or_resume(config, run_dir, command=f"tstk bench: {stage}")


def _score_run(result: RunResult, seed: int) -> dict[str, Any]:
    if result.task != "pretraining":
        if not result.test:
            raise TstkError(
                f"{result.data}: no test split to score; --common '--test-fraction 0.2' holds one out, --folds 5 tests "
                "on each of five folds in turn"
            )
        return {"scores": result.test, "by": "test", "baselines": result.baselines}
    from tstk.evaluation.probe import probe

    probed = probe(result.run_dir, seeds=(seed,))
    (row,) = probed["results"]
    metrics = [name.removesuffix("_deviation") for name in row if name.endswith("_deviation")]
    scores = {name: row[name] for name in metrics}
    return {"scores": scores, "by": f"{probed['classifier']} probe", "baselines": row["baselines"]}


def run_benchmark(
    methods: Mapping[str, Method],
    datasets: Mapping[str, str],
    seeds: Sequence[int],
    out_dir: str | Path,
    *,
    folds: int | None = None,
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
        folds: number of folds of data sets without a test split; each is the test split once. None uses the test splits
        score: metric to compare; the main metric of the task by default, such as accuracy
        test: post-hoc test: nemenyi or holm
        on_progress: called with (cell, number, total) when a cell starts (without result) and when it is finished

    Raises:
        OptionError: `out_dir` contains other files, or cells of a method with another definition
    """
    folder = Path(out_dir)
    if folder.is_file() or (folder.is_dir() and _has_other_files(folder) and not (folder / RESULTS_FILE).is_file()):
        raise OptionError(f"--out {out_dir}: the folder contains files but no {RESULTS_FILE}; choose another folder")
    fold_numbers = [None] if folds is None else list(range(1, folds + 1))
    cells = [
        Cell(m, d, seed, folder / m / d / name_cell(seed, fold, folds), fold=fold, folds=folds)
        for m in methods
        for d in datasets
        for seed in seeds
        for fold in fold_numbers
    ]
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


def _has_other_files(folder: Path) -> bool:
    """Return whether a folder holds anything beside what a benchmark left that was killed as it began."""
    return any(not is_leftover(path, RESULTS_FILE) for path in folder.iterdir())


def _load_finished_cell(cell: Cell, method: Method) -> Cell | None:
    """Return the cell with its stored result, or None if it is not finished or the result is damaged."""
    path = cell.run_dir / SCORE_FILE
    if not path.is_file():
        return None
    try:
        result = read_record(path)
    except CheckpointError:
        return None  # scored again
    if not _is_score(result):
        return None
    if result["method"] != method.definition:
        raise OptionError(
            f"{cell.run_dir} was run as {result['method']!r}, now {cell.method} is {method.definition!r}; "
            "give the method another name, choose another --out, or remove that directory"
        )
    return replace(cell, result=result)


def name_cell(seed: int, fold: int | None, folds: int | None) -> str:
    """Return the name of the run directory of a cell."""
    return f"seed-{seed}" if fold is None else f"seed-{seed}-fold-{fold}-of-{folds}"


def _is_score(result: Any) -> bool:
    """Return whether the content of a score.json is what `_run_cell` writes."""
    return (
        has_type(result, dict[str, Any])
        and has_type(result.get("method"), str)
        and has_type(result.get("scores"), dict[str, float])
        and has_type(result.get("baselines", {}), dict[str, dict[str, float]])
    )


def _run_cell(cell: Cell, method: Method, data: str) -> Cell:
    start = time.time()
    error_file = cell.run_dir.with_name(f"{cell.run_dir.name}.error.txt")
    error_file.unlink(missing_ok=True)
    try:
        result = method.run(data, cell.seed, cell.run_dir, cell.fold_options)
    except Exception as e:
        if os.environ.get("TSTK_STRICT") == "1":
            raise
        if isinstance(e, TstkError):
            return replace(cell, error=" ".join(str(e).split()))
        error_file.parent.mkdir(parents=True, exist_ok=True)
        write_text(error_file, traceback.format_exc())
        message = f"{type(e).__name__}: {' '.join(str(e).split())} ({error_file} has the traceback)"
        return replace(cell, error=message)
    result = {"method": method.definition, **result, "seconds": round(time.time() - start, 2)}
    write_record(cell.run_dir / SCORE_FILE, result)
    return replace(cell, result=result)
