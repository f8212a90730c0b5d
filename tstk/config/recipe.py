"""Recipes: stages that follow each other, each a config and what it mounts from earlier ones.

    summary = "Pretrain, probe, fine-tune"

    [[stage]]
    name = "pretrain"
    config = "timemae/pretrain"

    [[stage]]
    name = "finetune"
    config = "timemae/finetune"
    from = "pretrain"              # or a slot: tokenizer = "pretrain"

A stage may also hold tables as a config does (`[stage.train]`). Every stage is a run directory OUT/NAME; one that has
its result is not run again, and one that was interrupted goes on, so a recipe continues where it stopped. Nothing here
imports torch.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tstk.config.resolve import SECTIONS, Config, Layer, Table, chosen, find_config, read_toml, resolve, shipped
from tstk.config.run_directory import RESULT, is_unfinished, read_config
from tstk.errors import OptionError, did_you_mean
from tstk.plugins.registry import SLOTS, registry

NAME = re.compile(r"\w[\w.+-]*")
"""What a stage may be called."""


@dataclass(frozen=True)
class Stage:
    """One training run of a recipe.

    Args:
        name: of the stage, and of its run directory
        config: name or path of the config it starts from; empty for none
        mounts: "from" or a slot -> name of an earlier stage
        tables: what it changes in its config
    """

    name: str
    config: str
    mounts: dict[str, str]
    tables: Table


def read_recipe(name: str) -> list[Stage]:
    """The stages of a recipe: a path, or the name of one that a plugin ships.

    Raises:
        NameUnknown, OptionError: what is wrong with it, all faults at once
    """
    path = Path(name)
    if path.suffix != ".toml":
        path = shipped(registry().find("recipe", name))
    stages: list[Stage] = []
    faults: list[str] = []
    rows = read_toml(path).get("stage", [])
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise OptionError(f"recipe {path}: stage is no list of tables; begin each stage with [[stage]]")
    for row in rows:
        stage, wrong = _stage(row, [s.name for s in stages], len(stages) + 1)
        stages.append(stage)
        faults += wrong
    if not stages:
        faults.append("it has no [[stage]]")
    if faults:
        raise OptionError("\n".join(f"recipe {path}: {fault}" for fault in faults))
    return stages


def _stage(row: Mapping[str, Any], before: list[str], number: int) -> tuple[Stage, list[str]]:
    known = ("name", "config", "from", *SLOTS, *SECTIONS)
    name = str(row.get("name", f"stage{number}"))
    faults = (
        []
        if NAME.fullmatch(name)
        else [f"stage {name!r}: a name has letters, digits and . + - _ only; a folder is called by it"]
    )
    faults += [f"stage {name!r} has no key {k!r}.{did_you_mean(k, known)}" for k in row.keys() - set(known)]
    if name in before:
        faults.append(f"two stages are called {name!r}")
    mounts = {k: v for k, v in row.items() if k in ("from", *SLOTS) and isinstance(v, str)}
    for key, stage in mounts.items():
        if stage not in before:
            hint = did_you_mean(stage, before)
            faults.append(f"stage {name!r} mounts {key} = {stage!r}, which is no earlier stage.{hint}")
    tables = {k: v for k, v in row.items() if isinstance(v, Mapping)}
    return Stage(name, str(row.get("config", "")), mounts, tables), faults


def configs(
    stages: list[Stage], out: Path, choices: Layer, changes: Mapping[str, Mapping[str, Any]]
) -> Iterator[Config]:
    """The resolved config of each stage in turn; a stage that mounts another needs that one's run directory.

    Args:
        stages: from `read_recipe`
        out: folder of the recipe's run directories
        choices: a layer for every stage, such as the data and the seed
        changes: stage -> choices for it alone, as `tstk.fit` takes them

    Raises:
        OptionError: `changes` names no stage
    """
    names = [s.name for s in stages]
    for name in changes:
        if name not in names:
            raise OptionError(f"no stage is called {name!r}.{did_you_mean(name, names)} There are: {', '.join(names)}.")
    for stage in stages:
        layers: list[Layer] = []
        if stage.config:
            layers.append((stage.config, read_toml(find_config(stage.config))))
        mounts: Table = {k: {"use": str(out / v)} for k, v in stage.mounts.items() if k != "from"}
        if "from" in stage.mounts:
            mounts["pipeline"] = {"from": str(out / stage.mounts["from"])}
        layers += [(f"stage {stage.name}", stage.tables), ("mounts", mounts), choices]
        layers.append(("change", chosen(changes.get(stage.name, {}))))
        yield resolve(*layers)


def run_recipe(
    name: str,
    out: str | Path,
    train: Callable[[Config, Path, str], dict[str, Any]],
    *,
    choices: Layer = ("flag", {}),
    changes: Mapping[str, Mapping[str, Any]] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, dict[str, Any]]:
    """Run the stages that have no result yet.

    Args:
        name: of the recipe, or its path
        out: folder of the run directories
        train: trains one stage: (config, run directory, name of the stage) -> result; where the directory is there
            already, the stage was interrupted and is to be continued
        choices, changes: see `configs`
        say: receives lines for the user

    Returns:
        stage -> what its result.json holds

    Raises:
        OptionError: a stage was run with other options
    """
    stages, folder = read_recipe(name), Path(out)
    resolved = zip(stages, configs(stages, folder, choices, changes or {}), strict=True)
    return {stage.name: once(config, folder / stage.name, train, stage.name, say) for stage, config in resolved}


def once(
    config: Config,
    run: Path,
    train: Callable[[Config, Path, str], dict[str, Any]],
    name: str,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """What is in result.json, after whatever training that still takes.

    Args:
        config: resolved
        run: its directory
        train, say: as for `run_recipe`
        name: of the run, for `train` and `say`

    Raises:
        OptionError: it was begun with other options
    """
    if (run / RESULT).is_file():
        _unchanged(run, config)
        say(f"{name}: {run} has its result already")
        return json.loads((run / RESULT).read_text(encoding="utf-8"))
    if is_unfinished(run):
        _unchanged(run, config)
        say(f"{name}: {run} was interrupted and goes on")
    elif run.is_dir():
        shutil.rmtree(run)  # interrupted before it said what it was
    return train(config, run, name)


def _unchanged(run: Path, config: Config) -> None:
    before = read_config(run)["given"]
    now = json.loads(json.dumps(config.values))
    for section in before.keys() | now.keys():
        old, new = before.get(section, {}), now.get(section, {})
        for key in old.keys() | new.keys():
            if old.get(key) != new.get(key):
                raise OptionError(
                    f"{run} was run with {section}.{key} = {old.get(key)!r}, now it is {new.get(key)!r}; "
                    "choose another --out, or remove that directory to run it again"
                )
