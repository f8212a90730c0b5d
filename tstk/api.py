"""The Python interface, with the options of the command line: `tstk.fit(encoder="bert", data="har", epochs=10)`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tstk.config.resolve import Config, find_config, parse_overrides, resolve_config
from tstk.config.run_directory import read_run_config
from tstk.config.toml import read_toml
from tstk.core.pipeline import Pipeline
from tstk.core.types import Spec
from tstk.plugins.local import provide_components
from tstk.plugins.registry import get_registry
from tstk.runs.build import build_component
from tstk.runs.checkpoint import initialize_for_training, load
from tstk.training.runs import prepare_training, resume_run, suggest_run_dir, train

__all__ = ["build", "build_component", "fit", "list_components", "load", "resume"]


def list_components(kind: str) -> tuple[str, ...]:
    """Return the names of the components of a kind: `tstk.list_components("encoder")`."""
    return tuple(get_registry().list_names(kind))


def _merge_config(config: Config | Mapping[str, Any] | str | Path | None, overrides: Mapping[str, Any]) -> Config:
    layers: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    if isinstance(config, Config):
        if not overrides:
            return config
        layers = (("config", config.values),)
    elif isinstance(config, Mapping):
        layers = (("config", config),)
    elif config is not None:
        layers = ((str(config), read_toml(find_config(str(config)))),)
    return resolve_config(*layers, ("argument", parse_overrides(overrides)))


def build(
    config: Config | Mapping[str, Any] | str | Path | None = None, spec: Spec | None = None, **overrides: Any
) -> Pipeline:
    """Build an untrained pipeline.

    Args:
        config: tables as in a config file, a file, or the name of a config that a plugin ships
        spec: of the data; if None, the data set of the config is loaded, and its mean and deviation are stored
        overrides: see `fit`
    """
    resolved = _merge_config(config, overrides)
    return prepare_training(resolved)[0] if spec is None else initialize_for_training(resolved, spec)[0]


def fit(
    config: Config | Mapping[str, Any] | str | Path | None = None, *, out: str | Path | None = None, **overrides: Any
) -> dict[str, Any]:
    """Train a pipeline, as `tstk train` does, and return the contents of `result.json`; `"run"` is the run directory.

    Args:
        config: tables as in a config file, a file, or the name of a config that a plugin ships
        out: the run directory; if None, a new one under `runs/`
        overrides: options as on the command line, with two underscores for a dot:
            `encoder="bert", encoder__depth=4, data="har", data_root="data", epochs=10`; a component may be a class of
            your own, `encoder=MyEncoder`, or its import path
    """
    resolved = _merge_config(config, overrides)
    run_dir = Path(out) if out is not None else suggest_run_dir(resolved)
    arguments = ", ".join(f"{k}={v.__name__ if isinstance(v, type) else repr(v)}" for k, v in overrides.items())
    return {**train(resolved, run_dir, command=f"tstk.fit({arguments})"), "run": str(run_dir)}


def resume(run_dir: str | Path, **components: type | str) -> dict[str, Any]:
    """Resume an interrupted run, as `tstk train --resume` does, and return what `fit` would have returned.

    Args:
        run_dir: the run directory
        components: see `load`

    Raises:
        CheckpointError: the run is finished or damaged
    """
    provide_components(run_dir, read_run_config(run_dir).get("local", {}), components)
    return {**resume_run(run_dir), "run": str(run_dir)}
