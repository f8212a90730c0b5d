"""The Python interface, with the options of the command line: `tstk.fit(encoder="bert", data="har", epochs=10)`.

`api.pyi` lists the options for type checkers and editors; `make docs` writes it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tstk.config.python_signature import add_options
from tstk.config.records import RunConfig, RunResult
from tstk.config.resolve import Config, Layer, find_config, parse_overrides, resolve_config
from tstk.config.toml import read_toml
from tstk.core.pipeline import Pipeline
from tstk.core.types import Spec
from tstk.data.frames import refuse_frames, take_frames
from tstk.errors import OptionError
from tstk.inference.frames import load
from tstk.plugins.hooks import SLOTS
from tstk.plugins.local import provide_components
from tstk.plugins.registry import get_registry
from tstk.report.hub import push
from tstk.runs.build import build_component
from tstk.runs.checkpoint import initialize_for_training
from tstk.runs.importing import import_run
from tstk.training.callbacks import Callback
from tstk.training.runs import prepare_training, resume_run, train
from tstk.tuning.algorithms import PrunerName
from tstk.tuning.results import TrialRecord, TuneResult
from tstk.tuning.space import SEARCH_TABLE, Dimension, SearchSpace, parse_search
from tstk.tuning.study import Reporters, TuneSettings, run_study

__all__ = ["build", "build_component", "fit", "import_run", "list_components", "load", "push", "resume", "tune"]

logger = logging.getLogger("tstk")
logger.addHandler(logging.NullHandler())


def list_components(kind: str | None = None) -> tuple[str, ...] | dict[str, tuple[str, ...]]:
    """Return the names of the components of a kind: `tstk.list_components("encoder")`.

    Args:
        kind: tokenizer, encoder, decoder, head or loss; None returns all of them, kind -> names
    """
    if kind is None:
        return {slot: tuple(get_registry().list_names(slot)) for slot in SLOTS}
    return tuple(get_registry().list_names(kind))


@add_options
def build(
    config: Config | Mapping[str, Any] | str | Path | None = None, spec: Spec | None = None, **options: Any
) -> Pipeline:
    """Build an untrained pipeline.

    Args:
        config: tables as in a config file, a file, or the name of a config that a plugin ships
        spec: of the data; if None, the data set of the config is loaded, and its mean and deviation are stored
        component_options: the options of `fit`
    """
    options, frames = take_frames(options)
    resolved = _merge_config(config, options)
    if others := sorted(frames.keys() - {"data"}):
        raise OptionError(f"{others[0]} is a data frame, which has no effect on a pipeline that is not trained")
    if frames:
        resolved.values["data"]["use"] = frames["data"]
    return prepare_training(resolved, logger.info)[0] if spec is None else initialize_for_training(resolved, spec)[0]


@add_options
def fit(
    config: Config | Mapping[str, Any] | str | Path | None = None,
    *,
    out: str | Path | None = None,
    callbacks: Sequence[str | Callback] | None = None,
    verbose: bool | None = None,
    **options: Any,
) -> RunResult:
    """Train a pipeline, as `tstk train` does, and return its scores and run directory.

    Notes on data and options are logged at level INFO by the logger "tstk". A component or data set that is None is
    left to `config`, or is the default for the task.

    A data frame is stored in the run directory, as `data.parquet`, from which the run is resumed and scored.

    Args:
        config: tables as in a config file, a file, or the name of a config that a plugin ships
        out: the run directory; if None, a new one under `runs/`
        callbacks: `Callback` instances, and names of those that plugins register
        verbose: show a progress bar and the notes on stderr; None does so on a terminal and in a notebook
        <options>
        component_options: options of components, with two underscores for a dot: `encoder__depth=4`
    """
    instances = [c for c in callbacks or () if not isinstance(c, str)]
    if callbacks is not None:
        options["callbacks"] = [c for c in callbacks if isinstance(c, str)]
    options, frames = take_frames(options)
    resolved = _merge_config(config, options)
    arguments = ", ".join(f"{k}={v.__name__ if isinstance(v, type) else repr(v)}" for k, v in options.items())
    command = f"tstk.fit({arguments})"
    return train(resolved, out, command=command, frames=frames, **_make_reporters(verbose, instances))


def resume(
    run_dir: str | Path,
    *,
    callbacks: Sequence[Callback] = (),
    verbose: bool | None = None,
    **components: type | str,
) -> RunResult:
    """Resume an interrupted run, as `tstk train --resume` does, and return what `fit` would have returned.

    Args:
        run_dir: of the run
        callbacks: instances that were passed to `fit`; those that have a name are recorded in the run
        verbose: as for `fit`
        components: the classes of components that belong to no plugin, as for `load`

    Raises:
        CheckpointError: the run is finished or damaged
    """
    provide_components(run_dir, RunConfig.read(run_dir).local, components)
    return resume_run(run_dir, **_make_reporters(verbose, callbacks))


@add_options
def tune(
    search: Mapping[str, Any] | None = None,
    config: Config | Mapping[str, Any] | str | Path | None = None,
    *,
    out: str | Path,
    trials: int = 30,
    time_limit: float | None = None,
    pruner: PrunerName = "median",
    metric: str | None = None,
    verbose: bool | None = None,
    **options: Any,
) -> TuneResult:
    """Search for the options with the best validation score, as `tstk tune` does; test is never scored.

    `tstk.tune({"lr": "1e-4..1e-2:log"}, head="linear", out="tuned")`. The same call continues a stopped search.

    Args:
        search: option -> values: a range as text, such as "1..4", "1e-4..1e-2:log" or "64..256:64", or a list of
            choices; options of components as "encoder.depth" or encoder__depth. Added to the table [search] of `config`
        config: tables as in a config file, a file, or the name of a config that a plugin ships
        out: folder of the search, new or to continue
        trials: number of trials, those that `out` has already included
        time_limit: longest time of this call in seconds
        pruner: stops trials early: median, those worse than the median of the others at an epoch; hyperband; none
        metric: of the validation split, by which trials are compared; None for the main metric of the task
        verbose: as for `fit`: a line per trial on stderr
        <options>
        component_options: the options of `fit`
    """
    refuse_frames(take_frames(options)[1], "and a search is continued and repeated from files")
    layers: list[Layer] = []
    dimensions: dict[str, Dimension] = {}
    for source, tables in _make_layers(config, options):
        layers.append((source, {key: table for key, table in tables.items() if key != SEARCH_TABLE}))
        dimensions |= {d.path: d for d in parse_search(tables.get(SEARCH_TABLE, {}))}
    dimensions |= {d.path: d for d in parse_search(search or {})}
    space = SearchSpace(layers, list(dimensions.values()))
    reporters = _make_reporters(verbose, ())["print_fn"]
    settings = TuneSettings(trials, time_limit, pruner, metric)

    def report_trial(result: TuneResult, trial: TrialRecord) -> None:
        reporters(f"{trial.number}/{max(trials, trial.number)} {result.format_trial(trial)}")

    return run_study(space, out, settings, Reporters(report_trial, print_fn=reporters))


def _merge_config(config: Config | Mapping[str, Any] | str | Path | None, options: Mapping[str, Any]) -> Config:
    layers = _make_layers(config, options)
    if isinstance(config, Config) and not any(tables for _, tables in layers[1:]):
        return config
    return resolve_config(*layers)


def _make_layers(config: Config | Mapping[str, Any] | str | Path | None, options: Mapping[str, Any]) -> list[Layer]:
    """Return the layers of a config and of the options that override it."""
    overrides = {
        k: os.fspath(v) if isinstance(v, os.PathLike) else v
        for k, v in options.items()
        if v is not None or k not in (*SLOTS, "data")
    }
    layers: list[Layer] = []
    if isinstance(config, Config):
        layers.append(("config", config.values))
    elif isinstance(config, Mapping):
        layers.append(("config", config))
    elif config is not None:
        layers.append((str(config), read_toml(find_config(str(config)))))
    return [*layers, ("argument", parse_overrides(overrides))]


def _make_reporters(verbose: bool | None, callbacks: Sequence[Callback]) -> dict[str, Any]:
    """Return the arguments of `train` for callbacks and notes: notes go to the logger, if verbose also to stderr."""
    from tstk.cli.output import print_note
    from tstk.cli.progress import is_interactive, make_progress_callback

    if not (is_interactive() if verbose is None else verbose):
        return {"callbacks": callbacks, "print_fn": logger.info}

    def report_note(line: str) -> None:
        logger.info(line)
        print_note(f"note: {line}")

    return {"callbacks": [*callbacks, make_progress_callback()], "print_fn": report_note}
