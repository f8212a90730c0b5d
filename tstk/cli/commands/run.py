"""`tstk run`: run the stages of a recipe, one run directory each."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click
import rich_click
from click.core import ParameterSource

from tstk.cli.completion import complete_data_sets, complete_names
from tstk.cli.options import ConfigOption, build_section_options
from tstk.cli.output import format_examples, print_baseline_notes, print_json, print_note, print_table
from tstk.cli.progress import make_progress_callback
from tstk.cli.run_options import RunCommand
from tstk.config.records import RunResult
from tstk.config.resolve import Config, parse_overrides
from tstk.errors import IncompatibleError, OptionError
from tstk.evaluation.formatting import MAIN_METRICS, format_number

SHARED_OPTIONS = ("seed", "device", "precision", "threads", "deterministic")
"""Training options that apply to all stages."""

SCORE_COLUMNS = (*MAIN_METRICS, "loss")


def _build_shared_options() -> list[ConfigOption]:
    """Build the options that apply to all stages: those of data, and some of training."""
    training = [option for option in build_section_options("train") if option.key in SHARED_OPTIONS]
    return [*build_section_options("data"), *training]


@click.command(
    cls=RunCommand,
    params=list(_build_shared_options()),
    epilog=format_examples("tstk run timemae --data har", "tstk run recipe.toml --set pretrain.epochs=5"),
)
@click.argument("recipe", metavar="RECIPE", shell_complete=complete_names("recipe", files=True))
@rich_click.option("--data", metavar="NAME|PATH", shell_complete=complete_data_sets, help="data set for all stages")
@rich_click.option(
    "--set",
    "stage_overrides",
    multiple=True,
    metavar="STAGE.OPTION=VALUE",
    help="set an option of one stage: pretrain.epochs=5",
)
@rich_click.option(
    "--out", metavar="DIR", help="folder for the run directories of the stages; runs/RECIPE-DATA if not given"
)
@rich_click.option("--json", "json_", is_flag=True, help="print all results as JSON")
@click.pass_context
def command(
    ctx: click.Context,
    recipe: str,
    data: str | None,
    stage_overrides: tuple[str, ...],
    out: str | None,
    json_: bool,
    **_: Any,
) -> None:
    """Run a recipe: a list of stages, each a config and the components it initializes from earlier stages.

    Finished stages are skipped, and an interrupted stage is resumed. `tstk config list` shows the recipes.
    """
    from tstk.config.recipe import run_recipe
    from tstk.runs.build import validate_on_meta

    values = {"data": data} if data else {}
    typed = [p for p in _build_shared_options() if ctx.get_parameter_source(str(p.name)) == ParameterSource.COMMANDLINE]
    tables = parse_overrides(values | {p.key: ctx.params[str(p.name)] for p in typed})
    folder = Path(out) if out else Path("runs", "-".join(Path(n).stem for n in (recipe, data) if n))
    results = run_recipe(
        recipe,
        folder,
        _train,
        validate=validate_on_meta,
        overrides=("flag", tables),
        stage_overrides=parse_stage_overrides(stage_overrides),
        log=print_note,
    )
    if json_:
        print_json({name: result.to_dict() for name, result in results.items()})
        return
    columns = [name for name in SCORE_COLUMNS if any(name in result.test for result in results.values())]
    rows = [
        [
            name,
            result.task,
            *(format_number(result.test[k]) if k in result.test else None for k in columns),
            str(result.run_dir),
        ]
        for name, result in results.items()
    ]
    print_table(["stage", "task", *columns, "run"], rows, right_aligned=columns)
    for name, result in results.items():
        print_baseline_notes(
            result.test, result.baselines, result.baselines_skipped, result.baselines_details, f"{name}: "
        )


def _train(config: Config, run: Path, stage: str) -> RunResult:
    from tstk.training.interrupt import TrainingInterrupted
    from tstk.training.runs import train_or_resume

    print_note(f"{stage}: {run}")
    command_line = shlex.join(["tstk", *sys.argv[1:]])
    try:
        return train_or_resume(
            config, run, command=command_line, callbacks=(make_progress_callback(),), print_fn=print_note
        )
    except IncompatibleError as e:
        raise IncompatibleError(f"{stage}: {e}; options of this stage are --set {stage}.OPTION=VALUE") from None
    except TrainingInterrupted as e:
        print_note(f"Interrupted: {stage} {e}; run the same command again to resume it")
        raise click.exceptions.Exit(128 + e.signum) from None


def parse_stage_overrides(texts: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Parse words such as `pretrain.epochs=5` into stage -> option -> value."""
    overrides: dict[str, dict[str, Any]] = {}
    for text in texts:
        path, equals, value = text.partition("=")
        stage, dot, option = path.partition(".")
        if not equals or not dot:
            raise OptionError(f"--set {text}: expected STAGE.OPTION=VALUE, such as pretrain.epochs=5")
        overrides.setdefault(stage, {})[option.replace("-", "_")] = value
    return overrides
