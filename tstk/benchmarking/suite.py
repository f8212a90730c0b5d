"""Methods x data sets x seeds: every cell is an ordinary run, the table and the ranks are made of their test scores.

    from tstk.benchmarking.suite import Method, bench, by_config
    bench({"linear": Method("head linear", by_config({"head": "linear"}))}, {"GunPoint": "GunPoint"}, (0, 1), "bench")

A method that answers (classes or a forecast) is scored on test by itself, one that was pretrained without labels by a
linear probe of its features. Either way validation data come from the training part and test is scored once.
A cell lives in OUT/METHOD/DATA/seed-N; with its score.json it is finished and is not run again, and one that was
interrupted goes on.
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

from tstk.benchmarking.ranking import Ranking, Test, ranking
from tstk.config.recipe import once, run_recipe
from tstk.config.resolve import Config, chosen, resolve
from tstk.config.run_directory import write_json, write_text
from tstk.errors import OptionError, TstkError

LOWER = ("mse", "mae", "mase", "smape", "crps", "loss")
"""Scores of which less is better."""
BOOK = "bench.json"
SCORE = "score.json"

Run = Callable[[str, int, Path], dict[str, Any]]
"""(data, seed, run directory) -> "scores" by name, "by", what gave them, and "baselines" if there are any."""


@dataclass(frozen=True)
class Method:
    """Something to compare.

    Args:
        text: how it was said; a finished cell is kept for as long as this stays
        run: trains and scores one cell
    """

    text: str
    run: Run


@dataclass(frozen=True)
class Cell:
    """One run of a bench, or the room for it: the facts of its score.json, or why it has none."""

    method: str
    data: str
    seed: int
    folder: Path
    facts: dict[str, Any] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class Bench:
    """What a bench found.

    Args:
        cells: all of them, in the order of methods, data sets and seeds
        score: what is compared
        table: (method, data) -> mean over seeds and half the width of its 95 % interval, None for a single seed
        ranking: None if there are not two methods with every score of some data set
        left_out: data sets that are not ranked, as a score is missing
    """

    cells: list[Cell]
    score: str
    table: dict[tuple[str, str], tuple[float, float | None]]
    ranking: Ranking | None
    left_out: list[str]

    @property
    def best_baselines(self) -> dict[str, tuple[str, float]]:
        """Data set -> the baseline with the best score of all that stand beside its runs, and that score."""
        found: dict[str, tuple[str, float]] = {}
        sign = -1 if self.score in LOWER else 1
        for cell in self.cells:
            for name, scores in cell.facts.get("baselines", {}).items():
                value = scores.get(self.score)
                if value is not None and (cell.data not in found or sign * value > sign * found[cell.data][1]):
                    found[cell.data] = name, float(value)
        return found

    @property
    def losses(self) -> list[tuple[str, str]]:
        """(method, data set) whose mean score is worse than the best baseline's."""
        best, sign = self.best_baselines, -1 if self.score in LOWER else 1
        return [(m, d) for (m, d), (mean, _) in self.table.items() if d in best and sign * mean < sign * best[d][1]]

    @property
    def failed(self) -> list[Cell]:
        """Cells without a score."""
        return [cell for cell in self.cells if cell.error]


def by_config(choices: Mapping[str, Any] | Callable[[str, int], Config]) -> Run:
    """A method that is one training run.

    Args:
        choices: as `tstk.fit` takes them, or a function (data, seed) -> config
    """

    def run(data: str, seed: int, folder: Path) -> dict[str, Any]:
        if callable(choices):
            config = choices(data, seed)
        else:
            config = resolve(("argument", chosen({**choices, "data": data, "seed": seed})))
        return _scored(once(config, folder, _trained, str(folder)), folder, seed)

    return run


def by_recipe(name: str, changes: Mapping[str, Mapping[str, Any]], shared: Mapping[str, Any]) -> Run:
    """A method that is a recipe; its last stage is scored.

    Args:
        name: of the recipe, or its path
        changes: stage -> choices for it alone
        shared: choices for all stages
    """

    def run(data: str, seed: int, folder: Path) -> dict[str, Any]:
        choices = ("flag", chosen({**shared, "data": data, "seed": seed}))
        stages = run_recipe(name, folder, _trained, choices=choices, changes=changes)
        last = list(stages)[-1]
        return _scored(stages[last], folder / last, seed)

    return run


def _trained(config: Config, folder: Path, stage: str) -> dict[str, Any]:
    from tstk.training.runs import resume, train

    return resume(folder) if folder.is_dir() else train(config, folder, command=f"tstk bench: {stage}")


def _scored(result: dict[str, Any], folder: Path, seed: int) -> dict[str, Any]:
    if result["task"] != "pretraining":
        if not result["test"]:
            raise TstkError(f"{result['data']}: no test part to score")
        return {"scores": result["test"], "by": "test", "baselines": result["baselines"]}
    from tstk.evaluation.probe import probe

    (row,) = probe(folder, seeds=(seed,))["results"]
    scores = {name: row[name] for name in ("accuracy", "f1_macro")}
    return {"scores": scores, "by": "linear probe", "baselines": row["baselines"]}


def bench(
    methods: Mapping[str, Method],
    data: Mapping[str, str],
    seeds: Sequence[int],
    out: str | Path,
    *,
    score: str | None = None,
    test: Test = "nemenyi",
    told: Callable[[Cell, int, int], None] = lambda cell, done, of: None,
) -> Bench:
    """Run what has no score yet, then compare.

    A cell that fails is kept with its reason and does not stop the others; run again, it is tried again.

    Args:
        methods: by name
        data: name -> what `--data` would be
        seeds: of training
        out: folder of all; new, or that of an earlier bench
        score: what to compare; accuracy unless given, or mse where there is none
        test: which methods are told apart by: nemenyi or holm
        told: receives each cell once it has begun (no facts yet) and once it is done, its number and how many there are

    Raises:
        OptionError: `out` holds something else, or cells of a method that was said otherwise then
    """
    from tstk.benchmarking.page import write

    folder = Path(out)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / BOOK).is_file()):
        raise OptionError(f"--out {out}: something is there that is no bench; choose another folder")
    room = [Cell(m, d, seed, folder / m / d / f"seed-{seed}") for m in methods for d in data for seed in seeds]
    before = [_before(cell, methods[cell.method]) for cell in room]
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / BOOK).is_file():
        write_json(folder / BOOK, {"methods": {name: method.text for name, method in methods.items()}})
    cells: list[Cell] = []
    for at, (cell, known) in enumerate(zip(room, before, strict=True), 1):
        if known is None:
            told(cell, at, len(room))
            known = _run(cell, methods[cell.method], data[cell.data])
        cells.append(known)
        told(known, at, len(room))
    found = compare(cells, score, test)
    write(found, {name: method.text for name, method in methods.items()}, folder)
    return found


def _before(cell: Cell, method: Method) -> Cell | None:
    """A cell that has its score already."""
    path = cell.folder / SCORE
    if not path.is_file():
        return None
    facts = json.loads(path.read_text(encoding="utf-8"))
    if facts["method"] != method.text:
        raise OptionError(
            f"{cell.folder} was run as {facts['method']!r}, now {cell.method} is {method.text!r}; give the method "
            "another name, choose another --out, or remove that directory"
        )
    return Cell(cell.method, cell.data, cell.seed, cell.folder, facts)


def _run(cell: Cell, method: Method, data: str) -> Cell:
    begin = time.time()
    error = cell.folder.with_name(f"{cell.folder.name}.error.txt")
    error.unlink(missing_ok=True)
    try:
        facts = method.run(data, cell.seed, cell.folder)
    except Exception as e:
        if os.environ.get("TSTK_STRICT") == "1":
            raise
        if isinstance(e, TstkError):
            return Cell(cell.method, cell.data, cell.seed, cell.folder, error=" ".join(str(e).split()))
        error.parent.mkdir(parents=True, exist_ok=True)
        write_text(error, traceback.format_exc())
        why = f"{type(e).__name__}: {' '.join(str(e).split())} ({error} has the traceback)"
        return Cell(cell.method, cell.data, cell.seed, cell.folder, error=why)
    facts = {"method": method.text, **facts, "seconds": round(time.time() - begin, 2)}
    write_json(cell.folder / SCORE, facts)
    return Cell(cell.method, cell.data, cell.seed, cell.folder, facts)


def compare(cells: list[Cell], score: str | None = None, test: Test = "nemenyi") -> Bench:
    """Means and intervals of each method on each data set, and the ranks over those where none is missing.

    Raises:
        OptionError: no cell has this score
    """
    done = [cell.facts["scores"] for cell in cells if cell.facts]
    names = [n for n in dict.fromkeys(n for s in done for n in s) if not n.endswith("_se")]
    if score is None:
        score = next((n for n in ("accuracy", "mse") if n in names), "accuracy")
    elif done and score not in names:
        raise OptionError(f"--score {score}: no run has it; there are {', '.join(names)}")
    methods, sets = (list(dict.fromkeys(getattr(c, what) for c in cells)) for what in ("method", "data"))
    table, gaps = {}, set()
    for m in methods:
        for d in sets:
            mine = [c for c in cells if (c.method, c.data) == (m, d)]
            values = [float(c.facts["scores"][score]) for c in mine if score in c.facts.get("scores", {})]
            if values:
                table[m, d] = _mean(values)
            if len(values) < len(mine):
                gaps.add(d)
    ranked = [d for d in sets if d not in gaps]
    found = None
    if ranked and len(methods) > 1:
        means = np.array([[table[m, d][0] for m in methods] for d in ranked])
        found = ranking(methods, -means if score in LOWER else means, test)
    return Bench(cells, score, table, found, [d for d in sets if d in gaps])


def _mean(values: list[float]) -> tuple[float, float | None]:
    """Mean, and half of its 95 % interval by Student's t."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None
    from scipy.stats import t

    return mean, float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
