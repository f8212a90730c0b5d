"""One training run from a config to a run directory; the command line and `tstk.fit` both come here."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from tstk.assemble import rehearse
from tstk.callbacks import called
from tstk.checkpoint import launch, save_config, save_weights, versions
from tstk.config import Config
from tstk.data.dataset import Dataset
from tstk.data.load import load
from tstk.engine import Fitted, Watcher, fit
from tstk.errors import OptionError, TrainingError
from tstk.evaluate import evaluate
from tstk.naive import baselines
from tstk.pipeline import Pipeline
from tstk.rundir import WEIGHTS, write_json


class _Recorder:
    """Writes metrics and the best weights as they come, and passes the news on."""

    def __init__(self, folder: Path, pipeline: Pipeline, watcher: Watcher | None) -> None:
        self.folder, self.pipeline, self.watcher = folder, pipeline, watcher

    def begin(self, steps: int, epochs: int) -> None:
        if self.watcher:
            self.watcher.begin(steps, epochs)

    def step(self, step: int, epoch: int, terms: dict[str, float], speed: float) -> None:
        if self.watcher:
            self.watcher.step(step, epoch, terms, speed)

    def epoch(self, row: dict[str, Any], improved: bool) -> None:
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if improved:
            save_weights(self.pipeline, self.folder / WEIGHTS)
        if self.watcher:
            self.watcher.epoch(row, improved)


def prepare(config: Config, say: Callable[[str], None] = lambda line: None) -> tuple[Pipeline, Dataset]:
    """Check the parts against each other, read the data, build the pipeline on it.

    Args:
        config: resolved
        say: receives lines for the user
    """
    rehearse(config)
    options = config.options("data")
    data = load(config.values["data"]["use"], **options)
    spec = data.spec
    if data.train.y is not None and spec.classes:
        spec = spec.but(counts=tuple(torch.bincount(data.train.y, minlength=spec.classes).tolist()))
    torch.manual_seed(config.options("train")["seed"])
    pipeline, notes = launch(config, spec)
    pipeline.mean.copy_(data.mean[:, None])
    pipeline.std.copy_(data.std[:, None])
    for line in (*config.notes, *data.notes, *notes):
        say(line)
    return pipeline, data


def train(
    config: Config,
    out: str | Path,
    *,
    command: str = "",
    watcher: Watcher | None = None,
    say: Callable[[str], None] = lambda line: None,
    ready: Callable[[Pipeline, Dataset], None] | None = None,
) -> dict[str, Any]:
    """Train, select by validation, score once on test, write the run directory.

    If training stops before it has kept any weights, the run directory is removed again. Of several processes
    (torchrun), only the first writes it and talks.

    Args:
        config: resolved
        out: the run directory; it must not hold a run yet
        command: how to do this again, for the record
        watcher: told of steps and epochs
        say: receives lines for the user
        ready: receives the pipeline and its data before the first step

    Returns:
        what result.json holds
    """
    begin = time.time()
    called(config.options("train")["callbacks"])  # a slip is told before any data are read
    if int(os.environ.get("RANK", 0)):
        with TemporaryDirectory() as aside:
            return _train(config, Path(aside, "run"), command, None, lambda line: None, None, begin)
    return _train(config, fresh(out), command, watcher, say, ready, begin)


def _train(
    config: Config,
    folder: Path,
    command: str,
    watcher: Watcher | None,
    say: Callable[[str], None],
    ready: Callable[[Pipeline, Dataset], None] | None,
    begin: float,
) -> dict[str, Any]:
    pipeline, data = prepare(config, say)
    if ready:
        ready(pipeline, data)
    born = [place for place in folder.parents if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        save_config(folder, config, pipeline, data.like())
        fitted = fit(pipeline, data, _Recorder(folder, pipeline, watcher), **config.options("train"))
    except BaseException as e:
        if not (folder / WEIGHTS).is_file():
            shutil.rmtree(folder)
            with suppress(OSError):  # another run may have moved in beside it
                for place in born:
                    place.rmdir()
        elif isinstance(e, TrainingError):
            raise TrainingError(f"{e}. {folder} keeps the best weights so far") from None
        raise
    save_weights(pipeline, folder / WEIGHTS)
    result = _result(config, pipeline, data, fitted, command)
    result["seconds"] = round(time.time() - begin, 2)
    write_json(folder / "result.json", result)
    return result


def _result(config: Config, pipeline: Pipeline, data: Dataset, fitted: Fitted, command: str) -> dict[str, Any]:
    task = "pretraining" if pipeline.head is None and not pipeline.foretells else data.task
    part = data.test
    return {
        "task": task,
        "data": data.name,
        "test": evaluate(pipeline, part, seed=config.options("train")["seed"]) if part is not None else {},
        "val": fitted.best["val"],
        "baselines": baselines(pipeline, data.train, part) if part is not None else {},
        "selected": {"epoch": fitted.best["epoch"], "of": len(fitted.history), "by": config.options("train")["select"]},
        "parameters": sum(p.numel() for p in pipeline.parameters()),
        "trainable": sum(p.numel() for p in pipeline.parameters() if p.requires_grad),
        "seconds": 0.0,
        "training_seconds": round(fitted.seconds, 2),
        "split": data.split,
        "command": command,
        "versions": versions(config),
    }


def default_out(config: Config) -> Path:
    """A new directory under `runs/`, named after what is trained on what."""
    short = [str(config.use(s)).rpartition("/")[2] for s in ("encoder", "head" if "head" in config.values else "loss")]
    name = "-".join([*short, Path(str(config.use("data"))).stem])
    tries = (Path("runs", name if i == 1 else f"{name}-{i}") for i in itertools.count(1))
    return next(folder for folder in tries if not folder.exists())


def fresh(out: str | Path) -> Path:
    """A run directory that may be written.

    Raises:
        OptionError: there is a run or a file in its place
    """
    folder = Path(out)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise OptionError(f"--out {out}: something is there already; choose another name or remove it")
    return folder
