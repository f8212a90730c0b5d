"""`tstk run`: the stages of a recipe, one run directory each."""

from __future__ import annotations

import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click
import rich_click
from click.core import ParameterSource

from tstk.cli.completion import data_sets, names
from tstk.cli.options import Choice, section_options
from tstk.cli.output import as_json, baseline_notes, examples, note, table
from tstk.cli.progress import watcher
from tstk.config.resolve import Config, chosen
from tstk.errors import OptionError
from tstk.evaluation.formatting import MEASURES, number

EVERYWHERE = ("seed", "device", "precision", "threads", "deterministic")
"""Training options that make sense for all stages alike."""


SCORES = (*MEASURES, "loss")


def _shared() -> list[Choice]:
    """The options that every stage takes: the data, and a few of training."""
    training = [option for option in section_options("train") if option.key in EVERYWHERE]
    return [*section_options("data"), *training]


@click.command(
    cls=rich_click.RichCommand,
    params=list(_shared()),
    epilog=examples("tstk run timemae --data har", "tstk run recipe.toml --set pretrain.epochs=5"),
)
@click.argument("recipe", metavar="RECIPE", shell_complete=names("recipe", files=True))
@rich_click.option("--data", metavar="NAME|PATH", shell_complete=data_sets, help="data set for all stages")
@rich_click.option(
    "--set", "changes", multiple=True, metavar="STAGE.OPTION=VALUE", help="an option of one stage: pretrain.epochs=5"
)
@rich_click.option("--out", metavar="DIR", help="folder of the stages' run directories; runs/RECIPE-DATA if not given")
@rich_click.option("--json", "json_", is_flag=True, help="print all results as JSON")
@click.pass_context
def command(
    ctx: click.Context, recipe: str, data: str | None, changes: tuple[str, ...], out: str | None, json_: bool, **_: Any
) -> None:
    """Run a recipe: a list of stages, each a config and what it mounts from earlier stages.

    A stage that has its result is not run again, and one that was interrupted goes on where it was.
    `tstk config list` shows the recipes.
    """
    from tstk.config.recipe import run_recipe

    given = {"data": data} if data else {}
    typed = [p for p in _shared() if ctx.get_parameter_source(str(p.name)) == ParameterSource.COMMANDLINE]
    tables = chosen(given | {p.key: ctx.params[str(p.name)] for p in typed})
    folder = Path(out) if out else Path("runs", "-".join(Path(n).stem for n in (recipe, data) if n))
    results = run_recipe(recipe, folder, _train, choices=("flag", tables), changes=stage_changes(changes), say=note)
    if json_:
        as_json(results)
        return
    rows = [
        [name, r["task"], *(number(r["test"][k]) if k in r["test"] else None for k in SCORES), str(folder / name)]
        for name, r in results.items()
    ]
    table(["stage", "task", *SCORES, "run"], rows, right=SCORES)
    for name, r in results.items():
        baseline_notes(r["test"], r, of=f"{name}: ")


def _train(config: Config, run: Path, stage: str) -> dict[str, Any]:
    from tstk.training.interrupt import Stopped
    from tstk.training.runs import resume, train

    watch = watcher()
    note(f"{stage}: {run}")
    start = resume if run.is_dir() else partial(train, config, command=shlex.join(["tstk", *sys.argv[1:]]))
    try:
        return start(out=run, watcher=watch, say=note)
    except Stopped as e:
        note(f"Interrupted: {stage} {e}; the same command continues with it")
        raise click.exceptions.Exit(128 + e.number) from None
    finally:
        watch.end()


def stage_changes(texts: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Options of single stages, by stage, from words such as `pretrain.epochs=5`."""
    changes: dict[str, dict[str, Any]] = {}
    for text in texts:
        path, equals, value = text.partition("=")
        stage, dot, option = path.partition(".")
        if not equals or not dot:
            raise OptionError(f"--set {text}: expected STAGE.OPTION=VALUE, such as pretrain.epochs=5")
        changes.setdefault(stage, {})[option.replace("-", "_")] = value
    return changes
