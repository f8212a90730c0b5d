"""The command line, spelt in Python: `tstk.fit(encoder="bert", head="cot", data="har", epochs=10)`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tstk.config.resolve import Config, chosen, find_config, read_toml, resolve
from tstk.core.pipeline import Pipeline
from tstk.core.types import Spec
from tstk.plugins.registry import registry
from tstk.runs.build import create
from tstk.runs.checkpoint import load
from tstk.training.runs import default_out, prepare, train
from tstk.training.runs import resume as go_on

__all__ = ["build", "create", "fit", "list", "load", "resume"]


def list(kind: str) -> tuple[str, ...]:
    """The names of a kind: `tstk.list("encoder")`."""
    return tuple(registry().names(kind))


def _config(config: Config | Mapping[str, Any] | str | Path | None, choices: Mapping[str, Any]) -> Config:
    layers: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    if isinstance(config, Config):
        if not choices:
            return config
        layers = (("config", config.values),)
    elif isinstance(config, Mapping):
        layers = (("config", config),)
    elif config is not None:
        layers = ((str(config), read_toml(find_config(str(config)))),)
    return resolve(*layers, ("argument", chosen(choices)))


def build(
    config: Config | Mapping[str, Any] | str | Path | None = None, spec: Spec | None = None, **choices: Any
) -> Pipeline:
    """An untrained pipeline.

    Args:
        config: tables as in a config file, a file, or the name of a config that a plugin ships
        spec: of the data; without it the data that the config names are read, and their scaling is built in
        choices: as in `fit`
    """
    from tstk.runs.checkpoint import launch

    resolved = _config(config, choices)
    return prepare(resolved)[0] if spec is None else launch(resolved, spec)[0]


def fit(
    config: Config | Mapping[str, Any] | str | Path | None = None, *, out: str | Path | None = None, **choices: Any
) -> dict[str, Any]:
    """Train, as `tstk train` does, and return what `result.json` holds; `"run"` is the run directory.

    Args:
        config: tables as in a config file, a file, or the name of a config that a plugin ships
        out: the run directory; a new one under `runs/` if not given
        choices: options by their names on the command line, with two underscores for a dot:
            `encoder="bert", encoder__depth=4, data="har", data_root="data", epochs=10`
    """
    resolved = _config(config, choices)
    folder = Path(out) if out is not None else default_out(resolved)
    call = ", ".join(f"{k}={v!r}" for k, v in choices.items())
    return {**train(resolved, folder, command=f"tstk.fit({call})"), "run": str(folder)}


def resume(run: str | Path) -> dict[str, Any]:
    """Go on with a run that was interrupted, as `tstk train --resume` does, and return what `fit` would have.

    Args:
        run: its run directory

    Raises:
        CheckpointError: it is finished or damaged
    """
    return {**go_on(run), "run": str(run)}
