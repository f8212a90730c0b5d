"""`tstk bench`: compare methods over data sets and seeds."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
import rich_click

from tstk.cli.commands.run import SHARED_OPTIONS, parse_stage_overrides
from tstk.cli.completion import complete_choices
from tstk.cli.options import ConfigCommand, resolve_from_context
from tstk.cli.output import echo, format_examples, make_console, print_note, print_table
from tstk.config.resolve import Config, parse_overrides
from tstk.config.toml import read_toml
from tstk.errors import OptionError, TstkError, did_you_mean, escape_control_characters
from tstk.evaluation.formatting import find_main_metric, format_number

if TYPE_CHECKING:
    from tstk.benchmarking.suite import Cell, ConfigFactory, Method

FILE_KEYS = ("methods", "data", "seeds", "folds", "common", "data_root")
METHOD_NAME_PATTERN = re.compile(r"\w[\w.+=-]*")


@click.command(
    cls=rich_click.RichCommand,
    epilog=format_examples(
        "tstk bench --method cot='--head cot' --method linear='--head linear' --data GunPoint,ArrowHead --out bench",
        "tstk bench --method cot='--head cot' --method nearest=peer:1nn --data GunPoint --out bench",
        "tstk bench bench.toml --seeds 0,1,2 --out bench",
    ),
)
@click.argument("file", required=False, metavar="[FILE]", type=click.Path(dir_okay=False))
@rich_click.option(
    "--method",
    "methods",
    multiple=True,
    metavar="NAME=FLAGS",
    help="method to compare: flags of tstk train, RECIPE [--set STAGE.OPTION=VALUE], or peer:NAME (1nn, logistic, "
    "minirocket, multirocket-hydra; for forecasting linear, season, last-value); a method without a head is "
    "scored by a linear probe",
)
@rich_click.option(
    "--data", multiple=True, metavar="NAME|PATH,...", help="data sets, separated by commas, or each with its own --data"
)
@rich_click.option("--seeds", metavar="int,...", help="training seeds, separated by commas; 0 if not given")
@rich_click.option(
    "--folds",
    type=click.IntRange(min=2),
    metavar="int",
    help="test on each of so many folds in turn, for data sets without a test split: stratified by class, no group "
    "divided, tables in time",
)
@rich_click.option(
    "--common", metavar="FLAGS", help="flags of tstk train for every method; a method's own flags override them"
)
@rich_click.option("--data-root", metavar="DIR", help="folder in which data sets are looked up by name")
@rich_click.option(
    "--score", metavar="NAME", help="metric to compare; if not given, the main metric of the task, such as accuracy"
)
@rich_click.option(
    "--test",
    type=click.Choice(["nemenyi", "holm"]),
    default="nemenyi",
    show_default=True,
    shell_complete=complete_choices("nemenyi", "holm"),
    help="significance test: nemenyi (distance of mean ranks) or holm (pairwise Wilcoxon tests, Holm-corrected)",
)
@rich_click.option("--out", required=True, metavar="DIR", help="folder for all runs and result tables")
@rich_click.option("--json", "json_", is_flag=True, help="print all results as JSON")
def command(
    file: str | None,
    methods: tuple[str, ...],
    data: tuple[str, ...],
    seeds: str | None,
    folds: int | None,
    common: str | None,
    data_root: str | None,
    score: str | None,
    test: Literal["nemenyi", "holm"],
    out: str,
    json_: bool,
) -> None:
    """Compare methods over data sets and seeds: means with intervals, mean ranks, a critical-difference diagram.

    FILE is a .toml with the table [methods] and the keys data, seeds, folds, common and data_root; flags override it.
    Each cell (method, data set, seed, fold) is an ordinary run directory OUT/METHOD/DATA/seed-N. Finished cells are
    skipped, interrupted ones are resumed, and a failed one is reported without stopping the others.
    """
    request = _parse_request(file, methods, folds, ",".join(data), seeds, common, data_root)

    from tstk.benchmarking.page import build_table, iter_notes
    from tstk.benchmarking.results import RESULTS_FILE
    from tstk.benchmarking.suite import run_benchmark

    data_sets = _locate_data_sets(request["data"], request["data_root"])
    shared = [*shlex.split(request["common"]), *(["--data-root", request["data_root"]] if request["data_root"] else [])]
    first_data = next(iter(data_sets.values()))
    benchmark_methods: dict[str, Method] = {}
    faults: list[str] = []
    for name, text in request["methods"].items():
        try:
            benchmark_methods[name] = _build_method(text, shared, first_data)
        except TstkError as e:
            faults += [f"method {name}: {line}" for line in str(e).splitlines()]
    if faults:
        raise TstkError("\n".join(faults))
    try:
        with _Progress() as on_progress:
            results = run_benchmark(
                benchmark_methods,
                data_sets,
                request["seeds"],
                out,
                folds=request["folds"],
                score=score,
                test=test,
                on_progress=on_progress,
            )
    except KeyboardInterrupt:
        print_note(f"Finished cells are kept in {out}; run the same command again to continue.")
        raise
    if json_:
        echo((Path(out) / RESULTS_FILE).read_text(encoding="utf-8").rstrip())
    else:
        head, rows = build_table(results)
        print_table(head, rows, right_aligned=head[1:])
        for paragraph in iter_notes(results):
            echo(f"\n{paragraph}")
        echo(f"\n{out} contains bench.md, bench.csv, {RESULTS_FILE} and the runs")
    if results.failed_cells:
        raise click.exceptions.Exit(1)


def _parse_request(file: str | None, methods: tuple[str, ...], folds: int | None, *flags: str | None) -> dict[str, Any]:
    """Merge the benchmark file with the flags, and report all errors at once."""
    file_values = read_toml(Path(file)) if file else {}
    faults = [f"{file}: unknown key {k!r}.{did_you_mean(k, FILE_KEYS)}" for k in file_values.keys() - set(FILE_KEYS)]
    names: dict[str, str] = {}
    file_methods = file_values.get("methods", {})
    if not isinstance(file_methods, Mapping) or not all(isinstance(v, str) for v in file_methods.values()):
        faults.append(f'{file}: methods: expected a table of NAME = "flags of tstk train"')
        file_methods = {}
    for name, text in [*file_methods.items(), *(_parse_method_flag(m) for m in methods)]:
        names[name] = text
        if not METHOD_NAME_PATTERN.fullmatch(name):
            faults.append(
                f"method {name!r}: names may contain only letters, digits and . + = - _, as they name folders"
            )
    data, seeds, common, root = flags
    sets = [d.strip() for d in data.split(",")] if data else file_values.get("data", [])
    if not names:
        faults.append("no methods: give --method NAME='--head cot', or a file with a [methods] table")
    if not isinstance(sets, list) or not sets or not all(isinstance(d, str) and d for d in sets):
        faults.append("no data sets: give --data GunPoint,ArrowHead")
    numbers: Any = file_values.get("seeds", [0])
    if seeds is not None:
        numbers = [int(s) if s.strip().isdigit() else None for s in seeds.split(",")]
    if not isinstance(numbers, list) or not numbers or not all(type(n) is int and n >= 0 for n in numbers):
        faults.append(f"seeds {numbers if seeds is None else seeds}: expected non-negative integers, such as 0,1,2")
    folds = file_values.get("folds") if folds is None else folds
    if folds is not None and (type(folds) is not int or folds < 2):
        faults.append(f"{file}: folds is {folds!r}; expected a number of 2 or more")
    for key, value in (("common", file_values.get("common", "")), ("data_root", file_values.get("data_root", ""))):
        if not isinstance(value, str):
            faults.append(f"{file}: {key} is {value!r}; expected a string")
    if faults:
        raise OptionError("\n".join(faults))
    common = file_values.get("common", "") if common is None else common
    return {
        "methods": names,
        "data": list(dict.fromkeys(sets)),
        "seeds": list(dict.fromkeys(numbers)),
        "folds": folds,
        "common": common,
        "data_root": root or file_values.get("data_root"),
    }


def _parse_method_flag(text: str) -> tuple[str, str]:
    name, equals, flags = text.partition("=")
    if not equals:
        raise OptionError(f"--method {text}: expected NAME=FLAGS, such as --method cot='--encoder bert --head cot'")
    return name, flags


def _locate_data_sets(data: list[str], root: str | None) -> dict[str, str]:
    """Map data set names to the specifications; locate all of them now, so that errors appear before the first run."""
    from tstk.data.catalog import locate

    sets: dict[str, str] = {}
    for use in data:
        name = "+".join(locate(source.strip(), root).name for source in use.split(",") if source.strip())
        name = re.sub(r"[^\w.+=-]", "_", name)
        if name in sets:
            raise OptionError(f"{sets[name]} and {use} have the same name {name}; rename one of the files")
        sets[name] = use
    return sets


def _build_method(text: str, shared: list[str], first_data: str) -> Method:
    """Build a method from its command line, and validate its config on the first data set without reading data."""
    from tstk.benchmarking.peers import PEER_PREFIX, make_peer_runner
    from tstk.benchmarking.suite import Method, make_config_runner, make_recipe_runner
    from tstk.config.recipe import read_recipe, validate_stages

    words = shlex.split(text)
    full_text = shlex.join([*words, *shared])
    if words and words[0].startswith(PEER_PREFIX):
        if words[1:]:
            raise OptionError(f"{text}: a peer takes no options; remove {shlex.join(words[1:])}")
        return Method(full_text, make_peer_runner(words[0].removeprefix(PEER_PREFIX), _make_config_factory(shared)))
    if not words or words[0].startswith("-"):
        make_config = _make_config_factory([*shared, *words])
        _validate_config(make_config(first_data, 0, {}))
        return Method(full_text, make_config_runner(make_config))
    name, *set_flags = words
    overrides = parse_stage_overrides(tuple(set_flags[1::2]))
    if len(set_flags) % 2 or set(set_flags[::2]) - {"--set"}:
        raise OptionError(f"{text}: expected RECIPE, then any number of --set STAGE.OPTION=VALUE")
    common = _parse_common_flags(shared)
    stages = read_recipe(name)
    if unknown := overrides.keys() - {s.name for s in stages}:
        raise OptionError(
            f"recipe {name} has no stage {', '.join(unknown)}; it has {', '.join(s.name for s in stages)}"
        )
    tables = parse_overrides({**common, "data": first_data})
    validate_stages(stages, Path(name), ("flag", tables), overrides, _validate_config)
    return Method(full_text, make_recipe_runner(name, overrides, common))


def _make_config_factory(words: list[str]) -> ConfigFactory:
    """Return a function that maps a cell to the config that `tstk train` resolves from these arguments.

    Raises:
        OptionError: there is a flag that a benchmark sets itself, or that is not an option of a config
    """
    from tstk.cli.commands.train import command as train

    assert isinstance(train, ConfigCommand)
    reserved = {flag for param in train.params if param.name != "config" for flag in param.opts}
    reserved |= {"--data", "--seed", "--folds", "--fold", "--help"}
    if rejected := [flag for word in words if (flag := word.partition("=")[0]) in reserved]:
        raise OptionError(
            f"{shlex.join(words)}: remove {', '.join(rejected)}; the benchmark sets data, seed, folds (its own "
            "--folds) and run directory, and trains each cell to its end"
        )

    def make_config(data: str, seed: int, fold_options: Mapping[str, int]) -> Config:
        fold_flags = [word for name, value in fold_options.items() for word in (f"--{name}", str(value))]
        try:
            with train.make_context("train", [*words, "--data", data, "--seed", str(seed), *fold_flags]) as ctx:
                return resolve_from_context(ctx)
        except click.ClickException as e:
            raise OptionError(e.format_message()) from None

    return make_config


def _parse_common_flags(words: list[str]) -> dict[str, Any]:
    """Parse common flags into the overrides that a recipe accepts."""
    overrides: dict[str, Any] = {}
    for flag, value in zip(words[::2], words[1::2], strict=False):
        overrides[flag.removeprefix("--").replace("-", "_")] = value
    if len(words) % 2 or overrides.keys() - {*SHARED_OPTIONS, "data_root"}:
        raise OptionError(
            f"common flags {shlex.join(words)}: a recipe accepts only --{' --'.join(SHARED_OPTIONS)}, "
            f"each with a value; set others with --set STAGE.OPTION=VALUE"
        )
    return overrides


def _validate_config(config: Config) -> None:
    from tstk.runs.build import validate_on_meta

    validate_on_meta(config)


class _Progress:
    """Progress bar over the cells on a terminal, and one line per finished cell."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self.bar = Progress(
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            console=make_console(stderr=True),
            transient=True,
        )
        self.task = self.bar.add_task("")

    def __enter__(self) -> Callable[[Cell, int, int], None]:
        if self.bar.console.is_terminal:
            self.bar.start()
        return self.on_cell

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def on_cell(self, cell: Cell, position: int, total: int) -> None:
        label = escape_control_characters(cell.label, keep="")
        if not cell.result and not cell.error:
            self.bar.update(self.task, total=total, completed=position - 1, description=label)
            return
        self.bar.update(self.task, total=total, completed=position, description=label)
        outcome = cell.error.replace("\n", "; ")
        if not outcome:
            scores = cell.result.get("scores", {})
            metric = find_main_metric(scores)
            parts = [] if metric is None else [f"{metric} {format_number(scores[metric])}"]
            outcome = ", ".join([*parts, f"{cell.result['seconds']:g} s in all"])
        print_note(f"{position}/{total} {label}: {'failed: ' if cell.error else ''}{outcome}")
        for line in cell.result.get("notes", []):
            print_note(f"note: {line}")
