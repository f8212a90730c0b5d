"""Recipes: training runs in sequence, each with a config and the earlier runs whose weights it starts from.

    summary = "Pretrain, probe, fine-tune"

    [[stage]]
    name = "pretrain"
    config = "timemae/pretrain"

    [[stage]]
    name = "finetune"
    config = "timemae/finetune"
    init_from = "pretrain"         # or a slot: tokenizer = "pretrain"

A stage may also have the tables of a config (`[stage.train]`). Each stage has the run directory OUT/NAME. A finished
stage is not run again and an interrupted one is resumed, so the same command continues a recipe. Nothing here imports
torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tstk.config.records import RunConfig, RunResult
from tstk.config.resolve import (
    SECTIONS,
    Config,
    Layer,
    Table,
    find_config,
    get_entry_file,
    parse_overrides,
    resolve_config,
    select_for_task,
)
from tstk.config.run_directory import RESULT_FILE, is_unfinished, remove_saved_state
from tstk.config.toml import read_toml
from tstk.errors import OptionError, TstkError, did_you_mean
from tstk.plugins.hooks import SLOTS
from tstk.plugins.registry import get_registry

STAGE_NAME_PATTERN = re.compile(r"\w[\w.+-]*")
"""Allowed names of a stage, which is also the name of its folder."""


@dataclass(frozen=True)
class Stage:
    """One training run of a recipe.

    Args:
        name: of the stage and of its run directory
        config: name or path of its config; empty for none
        init_from: slot, or "init_from" for all -> name of the earlier stage whose weights it starts from
        tables: options that override its config
    """

    name: str
    config: str
    init_from: dict[str, str]
    tables: Table


def read_recipe(name: str) -> list[Stage]:
    """Return the stages of a recipe: a path, or the name of one that a plugin ships.

    Raises:
        UnknownNameError: no plugin ships a recipe of this name
        OptionError: the file is not a recipe; all faults, one line each
    """
    path = Path(name)
    if path.suffix != ".toml":
        path = get_entry_file(get_registry().find("recipe", name))
    stages: list[Stage] = []
    faults: list[str] = []
    rows = read_toml(path).get("stage", [])
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise OptionError(f"recipe {path}: stage is not a list of tables; begin each stage with [[stage]]")
    for row in rows:
        stage, stage_faults = _parse_stage(row, [s.name for s in stages], len(stages) + 1)
        stages.append(stage)
        faults += stage_faults
    if not stages:
        faults.append("it has no [[stage]]")
    if faults:
        raise OptionError("\n".join(f"recipe {path}: {fault}" for fault in faults))
    return stages


def _parse_stage(row: Mapping[str, Any], earlier_names: list[str], number: int) -> tuple[Stage, list[str]]:
    types = {
        "name": "",
        "config": "a string",
        "init_from": "the name of a stage",
        **dict.fromkeys(SLOTS, "the name of a stage, or a table"),
        **dict.fromkeys(SECTIONS, "a table"),
        "data": "the name of a data set, or a table",
    }
    name = str(row.get("name", f"stage{number}"))
    faults = []
    if not STAGE_NAME_PATTERN.fullmatch(name):
        faults.append(f"stage {name!r}: a name has only letters, digits and . + - _, since it names a folder")
    for key, value in row.items():
        if key not in types:
            faults.append(f"stage {name!r} has no key {key!r}.{did_you_mean(key, types)}")
        elif types[key] and not (
            (isinstance(value, str) and types[key] != "a table")
            or (isinstance(value, Mapping) and types[key].endswith("table"))
        ):
            faults.append(f"stage {name!r} has {key} = {value!r}; expected {types[key]}")
    if name in earlier_names:
        faults.append(f"two stages are called {name!r}")
    init_from = {k: v for k, v in row.items() if k in ("init_from", *SLOTS) and isinstance(v, str)}
    for key, stage in init_from.items():
        if stage not in earlier_names:
            hint = did_you_mean(stage, earlier_names)
            faults.append(f"stage {name!r} has {key} = {stage!r}, which is not an earlier stage.{hint}")
    tables = {k: v for k, v in row.items() if k == "data" or isinstance(v, Mapping)}
    return Stage(name, str(row.get("config", "")), init_from, tables), faults


def resolve_stages(
    stages: list[Stage], out: Path, overrides: Layer, stage_overrides: Mapping[str, Mapping[str, Any]]
) -> Iterator[Config]:
    """Yield the resolved config of each stage; the run directories that it starts from must exist by then.

    Args:
        stages: from `read_recipe`
        out: folder of the recipe's run directories
        overrides: a layer for every stage, such as the data and the seed
        stage_overrides: stage -> options for it alone, as `tstk.fit` takes them
    """
    for stage in stages:
        layers: list[Layer] = []
        if stage.config:
            layers.append((stage.config, read_toml(find_config(stage.config))))
        runs: Table = {k: {"use": str(out / v)} for k, v in stage.init_from.items() if k != "init_from"}
        if "init_from" in stage.init_from:
            runs["pipeline"] = {"init_from": str(out / stage.init_from["init_from"])}
        layers += [(f"stage {stage.name}", stage.tables), ("earlier stage", runs), overrides]
        layers.append(("stage override", parse_overrides(stage_overrides.get(stage.name, {}))))
        yield resolve_config(*layers)


def validate_stages(
    stages: list[Stage],
    out: Path,
    overrides: Layer,
    stage_overrides: Mapping[str, Mapping[str, Any]],
    validate: Callable[[Config], None],
) -> None:
    """Resolve and validate the config of every stage, before any of them is trained.

    A run that a stage starts from is stood in for by a directory that holds the config of its stage alone.

    Args:
        stages: from `read_recipe`
        out: see `resolve_stages`
        overrides: likewise
        stage_overrides: likewise
        validate: raises an error if no pipeline can be built from a config

    Raises:
        OptionError: `stage_overrides` names an unknown stage
        TstkError: that of the first stage which is at fault, with its name
    """
    names = [s.name for s in stages]
    for name in stage_overrides:
        if name not in names:
            raise OptionError(f"no stage is called {name!r}.{did_you_mean(name, names)} There are: {', '.join(names)}.")
    with TemporaryDirectory() as folder:
        configs = resolve_stages(stages, Path(folder), overrides, stage_overrides)
        for stage in stages:
            try:
                validate(config := next(configs))
            except TstkError as e:
                raise type(e)(f"stage {stage.name}: {e}".replace(folder, str(out))) from None
            run_dir = Path(folder, stage.name)
            run_dir.mkdir()
            RunConfig(
                run_dir=run_dir,
                interface_version=0,
                values=config.values,
                given=config.values,
                sources=config.sources,
                init_from={},
                spec={},
                input_schema={},
                versions={},
                hardware={},
                command="",
            ).write()


def run_recipe(
    name: str,
    out: str | Path,
    train: Callable[[Config, Path, str], RunResult],
    *,
    validate: Callable[[Config], None] = lambda config: None,
    overrides: Layer = ("flag", {}),
    stage_overrides: Mapping[str, Mapping[str, Any]] | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> dict[str, RunResult]:
    """Run the stages that are not finished yet.

    Args:
        name: of the recipe, or its path
        out: folder of the run directories
        train: (config, run directory, stage name) -> result; must resume if a run in the directory is unfinished
        validate: see `validate_stages`
        overrides: see `resolve_stages`
        stage_overrides: see `resolve_stages`
        log: receives lines for the user

    Returns:
        stage -> its result

    Raises:
        OptionError: a stage was run with other options before
        TstkError: a stage cannot be trained, see `validate_stages`
    """
    stages, folder = read_recipe(name), Path(out)
    validate_stages(stages, folder, overrides, stage_overrides or {}, validate)
    resolved = zip(stages, resolve_stages(stages, folder, overrides, stage_overrides or {}), strict=True)
    return {
        stage.name: train_unless_done(config, folder / stage.name, train, stage.name, log) for stage, config in resolved
    }


def train_unless_done(
    config: Config,
    run_dir: Path,
    train: Callable[[Config, Path, str], RunResult],
    name: str,
    log: Callable[[str], None] = lambda line: None,
) -> RunResult:
    """Return the result of a run; train or resume the run first if it has none.

    Args:
        config: resolved
        run_dir: its directory
        train: see `run_recipe`
        name: of the run, for `train` and `log`
        log: receives lines for the user

    Raises:
        OptionError: the run was started with other options
    """
    if (run_dir / RESULT_FILE).is_file():
        _check_unchanged(run_dir, config)
        remove_saved_state(run_dir)  # the training may have been killed between writing its result and this
        log(f"{name}: {run_dir} is finished")
        return RunResult.read(run_dir)
    if is_unfinished(run_dir):
        _check_unchanged(run_dir, config)
        log(f"{name}: {run_dir} was interrupted and is resumed")
    return train(config, run_dir, name)


def _check_unchanged(run_dir: Path, config: Config) -> None:
    run_config = RunConfig.read(run_dir)
    select_for_task(config, run_config.spec.get("task"))  # as its training did when it had read the data
    before = run_config.given
    after = json.loads(json.dumps(config.values))
    for section in before.keys() | after.keys():
        old, new = before.get(section, {}), after.get(section, {})
        for key in old.keys() | new.keys():
            if old.get(key) != new.get(key):
                raise OptionError(
                    f"{run_dir} was run with {section}.{key} = {old.get(key)!r} and is now {new.get(key)!r}; "
                    "choose another --out, or remove that directory"
                )
