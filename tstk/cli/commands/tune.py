"""`tstk tune`: search for the options with the best validation score."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import click
import rich_click

from tstk.cli.completion import complete_choices, complete_names
from tstk.cli.options import ConfigCommand, collect_layers
from tstk.cli.output import echo, format_examples, print_json, print_note, print_table
from tstk.config.resolve import Layer
from tstk.errors import OptionError
from tstk.evaluation.formatting import format_number
from tstk.tuning.results import format_value
from tstk.tuning.space import SEARCH_TABLE, Dimension, SearchSpace, parse_search

if TYPE_CHECKING:
    from tstk.tuning.results import TrialRecord, TuneResult

_TRIALS_SHOWN = 10
_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?")


class DurationType(click.ParamType):
    """A time such as 2h, 1h30m, 90m, 45s, or a number of seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds."""
        match = _DURATION.fullmatch(str(value).strip())
        seconds = (
            sum(float(n or 0) * unit for n, unit in zip(match.groups(), (3600, 60, 1), strict=True)) if match else 0
        )
        if not seconds:
            raise OptionError(f"--time-limit {value}: expected a time such as 2h, 1h30m, 45s, or seconds")
        return seconds


class TuneCommand(ConfigCommand):
    """Command whose config files may have a table [search], and whose function receives a search space."""

    def read_layers(self, files: Sequence[str]) -> list[Layer]:
        """Return the tables of config files without [search]."""
        layers = super().read_layers(files)
        return [(name, {key: table for key, table in tables.items() if key != SEARCH_TABLE}) for name, tables in layers]

    def invoke(self, ctx: click.Context) -> Any:
        """Build the search space and call the function with it as `space`."""
        dimensions: dict[str, Dimension] = {}
        for name, tables in super().read_layers(ctx.params["config"]):
            table = tables.get(SEARCH_TABLE, {})
            if not isinstance(table, dict):
                raise OptionError(
                    f"{name}: {SEARCH_TABLE} is no table; write [{SEARCH_TABLE}] with OPTION = VALUES below"
                )
            dimensions |= {d.path: d for d in parse_search(table)}
        dimensions |= {d.path: d for d in parse_search(ctx.params.pop("search"))}
        ctx.params["space"] = SearchSpace(collect_layers(ctx), list(dimensions.values()))
        del ctx.params["config"]
        return super(ConfigCommand, self).invoke(ctx)


@click.command(
    cls=TuneCommand,
    epilog=format_examples(
        "tstk tune --head linear --search encoder.depth=1..4 --search lr=1e-4..1e-2:log --out tuned",
        "tstk tune --config search.toml --trials 50 --time-limit 2h --out tuned",
        "tstk train --config tuned/best.toml",
    ),
)
@rich_click.option(
    "--config",
    multiple=True,
    metavar="NAME|FILE",
    shell_complete=complete_names("config", files=True),
    panel="start from",
    help="config file, or config name (tstk config list); a table [search] has OPTION = VALUES",
)
@rich_click.option(
    "--search",
    multiple=True,
    metavar="OPTION=VALUES",
    panel="search",
    help="option to search, and its values: 1..4, 1e-4..1e-2:log, 64..256:64 or a,b,c. Any option of a component or of "
    "training, and components themselves",
)
@rich_click.option(
    "--trials",
    type=click.IntRange(min=1),
    default=30,
    show_default=True,
    metavar="int",
    panel="search",
    help="number of trials, those that --out has already included",
)
@rich_click.option(
    "--time-limit", type=DurationType(), metavar="TIME", panel="search", help="longest time of this call, such as 2h"
)
@rich_click.option(
    "--pruner",
    type=click.Choice(["median", "hyperband", "none"]),
    default="median",
    show_default=True,
    panel="search",
    shell_complete=complete_choices("median", "hyperband", "none"),
    help="stops trials early: median, those worse than the median of the others at the same epoch; hyperband; none",
)
@rich_click.option(
    "--metric",
    metavar="NAME",
    panel="search",
    help="of the validation split, by which trials are compared; the main metric of the task if not given, such as "
    "accuracy",
)
@rich_click.option(
    "--out", required=True, metavar="DIR", panel="output", help="folder of the search, new or to continue"
)
@rich_click.option("--json", "json_", is_flag=True, panel="output", help="print the result as JSON on stdout")
def command(
    space: SearchSpace,
    trials: int,
    time_limit: float | None,
    pruner: Literal["median", "hyperband", "none"],
    metric: str | None,
    out: str,
    json_: bool,
) -> None:
    """Search for the options with the best validation score; the test split is never scored.

    The first trial is the config itself, without the search. The same command continues a search that was killed or
    stopped, and several processes may run it at the same time. OUT/best.toml is the best config, for tstk train;
    OUT/trials.csv has all trials.
    """
    from tstk.tuning.study import Reporters, TuneSettings, TuningInterrupted, run_study

    settings = TuneSettings(trials, time_limit, pruner, metric)
    progress = _Progress(trials)
    reporters = Reporters(progress.on_trial, progress.make_callbacks, lambda line: print_note(f"note: {line}"))
    code = 0
    try:
        result = run_study(space, out, settings, reporters)
    except TuningInterrupted as e:
        result, code = e.result, 130
    if json_:
        print_json(result.to_dict())
    else:
        print_result(result)
    if code:
        echo("Interrupted. The same command continues the search.", err=True)
    raise click.exceptions.Exit(code or int(result.best is None))


class _Progress:
    """A line per trial, and on a terminal the progress bar of the trial that is running."""

    def __init__(self, num_trials: int) -> None:
        self.num_trials = num_trials

    def on_trial(self, result: TuneResult, trial: TrialRecord) -> None:
        """Print a line."""
        print_note(f"{trial.number}/{max(self.num_trials, trial.number)} {result.format_trial(trial)}")

    def make_callbacks(self) -> list[Any]:
        """Return the progress bar, where it can be drawn."""
        from tstk.cli.progress import ProgressBar, make_progress_callback

        callback = make_progress_callback()
        return [callback] if isinstance(callback, ProgressBar) else []  # lines of every trial would be too many


def print_result(result: TuneResult) -> None:
    """Print the best trials, what was counted, and the next step."""
    counts = ", ".join(f"{count} {state}" for state, count in result.count_states().items())
    seconds = sum(trial.seconds or 0.0 for trial in result.trials)
    if result.best is None:
        echo(f"No trial has finished ({counts or 'none was started'}); {result.out}/trials.csv says why.")
        return
    rows = [_make_row(result, trial) for trial in result.ranking[:_TRIALS_SHOWN]]
    names = list(dict.fromkeys(name for trial in result.trials for name in trial.options))
    print_table(["trial", result.metric, "epoch", "seconds", *names], rows, right_aligned=["trial", result.metric])
    noun = "trial" if len(result.trials) == 1 else "trials"
    echo(f"\n{len(result.trials)} {noun} ({counts}), {seconds:.3g} s of training and validation with reading the data")
    if result.importance:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in result.importance.items())
        echo(f"Share of the variance of the scores that an option explains (fANOVA): {shares}")
    _print_uncertainty(result)
    folder = shlex.quote(str(result.out))
    echo(f"\nBest options: {folder}/best.toml; all trials: {folder}/trials.csv. Next:")
    echo(f"  tstk train --config {folder}/best.toml")


def _print_uncertainty(result: TuneResult) -> None:
    best = result.best
    if best is None or best.score is None:
        return
    if best.number == 1:
        print_note("note: no trial was better than the config itself, which is trial 1")
    if count := result.count_within_error():
        others = "1 other trial is" if count == 1 else f"{count} other trials are"
        print_note(
            f"note: {others} as good or within one standard error, so their order is largely chance: the scores are "
            f"of {best.val_series:,} validation series"
        )
    print_note(
        f"note: {result.metric} {format_number(best.score)} is the best of {len(result.ranking)} and therefore "
        "optimistic; a run of best.toml is scored on the test split, which was not used here"
    )


def _make_row(result: TuneResult, trial: TrialRecord) -> list[Any]:
    names = dict.fromkeys(name for t in result.trials for name in t.options)
    cells = [format_value(trial.options[name]) if name in trial.options else None for name in names]
    return [trial.number, trial.format_score(), trial.epoch, f"{trial.seconds:.3g}", *cells]
