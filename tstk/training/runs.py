"""One training run from a config to a run directory; the command line and `tstk.fit` both come here."""

from __future__ import annotations

import itertools
import os
import shutil
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import Any

import torch

from tstk.config.resolve import Config
from tstk.config.run_directory import RESULT, WEIGHTS, DiskFull, alone, is_unfinished, read_config, write_json
from tstk.core.pipeline import Pipeline
from tstk.core.types import Spec
from tstk.data.data_module import Dataset
from tstk.errors import CheckpointError, DataError, OptionError, TrainingError
from tstk.evaluation.baselines import Baselines, baselines
from tstk.evaluation.evaluate import evaluate
from tstk.runs.build import rehearse
from tstk.runs.checkpoint import check_plugins, launch, restore, save_config, save_weights, versions
from tstk.training.callbacks import called
from tstk.training.devices import deterministic_algorithms, hardware
from tstk.training.initialization import start
from tstk.training.loop import Fitted, Watcher, fit
from tstk.training.resume_store import Last
from tstk.training.small_data import read_data, settle


def prepare(
    config: Config, say: Callable[[str], None] = lambda line: None, unfinished: Path | None = None
) -> tuple[Pipeline, Dataset]:
    """Check the parts against each other, read the data, build the pipeline on it.

    Args:
        config: resolved
        say: receives lines for the user
        unfinished: the run directory that goes on, if one does: its weights are read later

    Raises:
        DataError: the data are not those that the run was started with
    """
    rehearse(config)
    data = read_data(config)
    spec = data.spec
    if data.train.y is not None and spec.classes:
        spec = spec.but(counts=tuple(torch.bincount(data.train.y, minlength=spec.classes).tolist()))
    torch.manual_seed(config.options("train")["seed"])
    pipeline, notes = launch(config, spec) if unfinished is None else (restore(unfinished), [])
    if changed := _changed(pipeline.spec, spec):
        raise DataError(f"{data.name} has changed since this run was started: {changed}")
    pipeline.mean.copy_(data.mean[:, None])
    pipeline.std.copy_(data.std[:, None])
    if unfinished is None:
        notes += start(pipeline, config, data)
    for line in (*config.notes, *data.notes, *notes, settle(config.options("train"), pipeline, data)[1]):
        if line:
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

    If training stops before it has kept anything, the run directory is removed again; otherwise `resume` goes on with
    it. Of several processes, only the first writes it and talks.

    Args:
        config: resolved
        out: the run directory; it must not hold a run yet
        command: how to do this again, for the record
        watcher: told of steps and epochs
        say: receives lines for the user
        ready: receives the pipeline and its data before the first step

    Returns:
        what result.json holds

    Raises:
        Stopped: somebody asked to stop (SIGINT, SIGTERM), and all is saved
    """
    begin = time.time()
    called(config.options("train")["callbacks"])  # a slip is told before any data are read
    last = Last(fresh(out) if _first() else Path(out), writes=_first())
    if not last.writes:
        pipeline, data = prepare(config)
        return _train(config, last, pipeline, data, command, None, begin)
    folder = last.run
    pipeline, data = prepare(config, say)
    if ready:
        ready(pipeline, data)
    born = [place for place in folder.parents if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        try:
            options = config.options("train")
            machine = hardware(options["device"], options["threads"])
            save_config(folder, config, pipeline, data.like(), command, machine)
            return _train(config, last, pipeline, data, command, watcher, begin)
        except BaseException:
            if not (folder / WEIGHTS).is_file() and not last.exists():
                shutil.rmtree(folder)
                with suppress(OSError):  # another run may have moved in beside it
                    for place in born:
                        place.rmdir()
            raise


def resume(
    out: str | Path,
    *,
    watcher: Watcher | None = None,
    say: Callable[[str], None] = lambda line: None,
    ready: Callable[[Pipeline, Dataset], None] | None = None,
) -> dict[str, Any]:
    """Go on with a run that was interrupted, with the options that it was started with.

    On a CPU it ends as it would have without the interruption, bit for bit. Callbacks begin anew.

    Args:
        out: the run directory
        watcher, say, ready: see `train`

    Returns:
        what result.json holds

    Raises:
        CheckpointError: it is finished, damaged, trained by another process now, or its data have changed
    """
    begin = time.time()
    folder, first = Path(out), _first()
    if not first:
        watcher, say, ready = None, lambda line: None, None
    found = read_config(folder)
    if not is_unfinished(folder):
        raise CheckpointError(
            f"--resume {out}: this run is finished; start another with its parts: tstk train --from {out}"
        )
    check_plugins(folder, found)
    config = Config(found["given"], found["sources"], found["mounts"])
    options = config.options("train")
    then = found["versions"] | found["hardware"]
    now = versions(config) | hardware(options["device"], options["threads"])
    changed = [f"{k} was {v} and is {now.get(k)}" for k, v in then.items() if now.get(k) != v]
    if changed:
        threads = found["hardware"].get("threads")
        remedy = f"; OMP_NUM_THREADS={threads} keeps the threads" if threads not in (None, now["threads"]) else ""
        say(f"{'; '.join(changed)}: results may not be those of a run without interruption to the last digit{remedy}")
    last = Last(folder, writes=first)
    with alone(folder) if first else nullcontext():
        if not last.exists():
            say(f"{folder} was interrupted before anything was saved, so it starts again")
        pipeline, data = prepare(config, say, folder if last.exists() else None)
        if ready:
            ready(pipeline, data)
        return _train(config, last, pipeline, data, found.get("command", ""), watcher, begin)


def _changed(before: Spec, now: Spec) -> str:
    was, has = asdict(before), asdict(now)
    return ", ".join(f"{k} was {was[k]} and is {has[k]}" for k in was if was[k] != has[k])


def _first() -> bool:
    """Of several processes, this one writes and talks."""
    return not int(os.environ.get("RANK", 0))


def _train(
    config: Config,
    last: Last,
    pipeline: Pipeline,
    data: Dataset,
    command: str,
    watcher: Watcher | None,
    begin: float,
) -> dict[str, Any]:
    folder = last.run
    before = time.time() - begin
    try:
        fitted = fit(pipeline, data, watcher, last, **config.options("train"))
        after = time.time()
        with deterministic_algorithms(config.options("train").get("deterministic", False)):
            result = _result(config, pipeline, data, fitted, command)
        result["seconds"] = round(before + fitted.seconds + time.time() - after, 2)
        if last.writes:
            save_weights(pipeline, folder / WEIGHTS, fitted.weights)
            write_json(folder / RESULT, result)
            last.remove()
    except TrainingError as e:
        kept = f". {folder} keeps the best weights so far" if (folder / WEIGHTS).is_file() else ""
        raise TrainingError(f"{e}{kept}") from None
    except DiskFull as e:
        goes_on = f", then continue with: tstk train --resume {quote(str(folder))}" if last.exists() else ""
        raise DiskFull(f"{e}{goes_on}") from None
    return result


def _result(config: Config, pipeline: Pipeline, data: Dataset, fitted: Fitted, command: str) -> dict[str, Any]:
    task = "pretraining" if pipeline.head is None and not pipeline.foretells else data.task
    part = data.test
    settled, _ = settle(config.options("train"), pipeline, data)
    simple = baselines(pipeline, data, part) if part is not None else Baselines()
    return {
        "task": task,
        "data": data.name,
        "test": evaluate(pipeline, part, seed=config.options("train")["seed"]) if part is not None else {},
        "val": fitted.best["val"],
        **simple.as_result(),
        "selected": {"epoch": fitted.best["epoch"], "of": len(fitted.history), "by": settled["select"]},
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
    if is_unfinished(folder):
        raise OptionError(
            f"--out {out}: an unfinished run is there; continue with: tstk train --resume {quote(str(out))}, or choose "
            "another name"
        )
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise OptionError(f"--out {out}: something is there already; choose another name or remove it")
    return folder
