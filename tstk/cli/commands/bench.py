"""`tstk bench`: methods x data sets x seeds, compared."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
import rich_click

from tstk.cli.commands.run import EVERYWHERE, stage_changes
from tstk.cli.completion import words as any_of
from tstk.cli.options import Configured, configured
from tstk.cli.output import console, examples, note, table
from tstk.config.resolve import Config, chosen, read_toml
from tstk.errors import OptionError, TstkError, did_you_mean
from tstk.evaluation.formatting import number

if TYPE_CHECKING:
    from tstk.benchmarking.suite import Cell, Method

KEYS = ("methods", "data", "seeds", "common", "data_root")
NAME = re.compile(r"\w[\w.+=-]*")


@click.command(
    cls=rich_click.RichCommand,
    epilog=examples(
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
    help="something to compare: flags of tstk train, RECIPE [--set STAGE.OPTION=VALUE], or peer:NAME (1nn, logistic, "
    "minirocket, multirocket-hydra; of forecasts linear, season, last-value); one without a head is "
    "scored by a linear probe",
)
@rich_click.option("--data", metavar="NAME|PATH,...", help="data sets, commas between them")
@rich_click.option("--seeds", metavar="int,...", help="seeds of training, commas between them; 0 if not given")
@rich_click.option("--common", metavar="FLAGS", help="flags that every method gets, before its own")
@rich_click.option("--data-root", metavar="DIR", help="folder with data sets to be found by name")
@rich_click.option("--score", metavar="NAME", help="what to compare; accuracy, or mse for forecasts, if not given")
@rich_click.option(
    "--test",
    type=click.Choice(["nemenyi", "holm"]),
    default="nemenyi",
    show_default=True,
    shell_complete=any_of("nemenyi", "holm"),
    help="what tells methods apart: distance of mean ranks, or Wilcoxon's test of each pair with Holm's correction",
)
@rich_click.option("--out", required=True, metavar="DIR", help="folder of all runs and of the tables")
@rich_click.option("--json", "json_", is_flag=True, help="print all as JSON")
def command(
    file: str | None,
    methods: tuple[str, ...],
    data: str | None,
    seeds: str | None,
    common: str | None,
    data_root: str | None,
    score: str | None,
    test: Literal["nemenyi", "holm"],
    out: str,
    json_: bool,
) -> None:
    """Compare methods over data sets and seeds: means with intervals, mean ranks, a critical-difference diagram.

    FILE is a .toml with the table [methods] and the keys data, seeds, common and data_root; flags go on top. Each cell
    is an ordinary run directory OUT/METHOD/DATA/seed-N. A finished one is not run again and one that was interrupted
    goes on; one that fails is reported and does not stop the rest.
    """
    asked = _asked(file, methods, data, seeds, common, data_root)

    from tstk.benchmarking.page import grid, words
    from tstk.benchmarking.suite import BOOK, bench

    sets = _sets(asked["data"], asked["data_root"])
    shared = [*shlex.split(asked["common"]), *(["--data-root", asked["data_root"]] if asked["data_root"] else [])]
    first = next(iter(sets.values()))
    ready: dict[str, Method] = {}
    faults: list[str] = []
    for name, text in asked["methods"].items():
        try:
            ready[name] = _method(text, shared, first)
        except TstkError as e:
            faults += [f"method {name}: {line}" for line in str(e).splitlines()]
    if faults:
        raise TstkError("\n".join(faults))
    try:
        with _Progress() as told:
            found = bench(ready, sets, asked["seeds"], out, score=score, test=test, told=told)
    except KeyboardInterrupt:
        note(f"{out} keeps the cells that are finished; the same command goes on from there.")
        raise
    if json_:
        click.echo((Path(out) / BOOK).read_text(encoding="utf-8").rstrip())
    else:
        head, rows = grid(found)
        table(head, rows, right=head[1:])
        for paragraph in words(found):
            click.echo(f"\n{paragraph}")
        click.echo(f"\n{out} has bench.md, bench.csv, {BOOK} and the runs")
    if found.failed:
        raise click.exceptions.Exit(1)


def _asked(file: str | None, methods: tuple[str, ...], *given: str | None) -> dict[str, Any]:
    """What the file and the flags ask for, every fault at once."""
    held = read_toml(Path(file)) if file else {}
    faults = [f"{file}: there is no key {k!r}.{did_you_mean(k, KEYS)}" for k in held.keys() - set(KEYS)]
    names: dict[str, str] = {}
    told = held.get("methods", {})
    if not isinstance(told, Mapping) or not all(isinstance(v, str) for v in told.values()):
        faults.append(f'{file}: methods: expected a table of NAME = "flags of tstk train"')
        told = {}
    for name, text in [*told.items(), *(_pair(m) for m in methods)]:
        names[name] = text
        if not NAME.fullmatch(name):
            faults.append(
                f"method {name!r}: a name has letters, digits and . + = - _ only, as folders are called by it"
            )
    data, seeds, common, root = given
    sets = [d.strip() for d in data.split(",")] if data else held.get("data", [])
    if not names:
        faults.append("no methods: say --method NAME='--head cot', or name a file that has some")
    if not isinstance(sets, list) or not sets or not all(isinstance(d, str) and d for d in sets):
        faults.append("no data sets: say --data GunPoint,ArrowHead")
    numbers: Any = held.get("seeds", [0])
    if seeds is not None:
        numbers = [int(s) if s.strip().isdigit() else None for s in seeds.split(",")]
    if not isinstance(numbers, list) or not numbers or not all(type(n) is int and n >= 0 for n in numbers):
        faults.append(f"seeds {numbers if seeds is None else seeds}: expected whole numbers, such as 0,1,2")
    for key, value in (("common", held.get("common", "")), ("data_root", held.get("data_root", ""))):
        if not isinstance(value, str):
            faults.append(f"{file}: {key} is {value!r}; expected text")
    if faults:
        raise OptionError("\n".join(faults))
    common = held.get("common", "") if common is None else common
    return {
        "methods": names,
        "data": list(dict.fromkeys(sets)),
        "seeds": list(dict.fromkeys(numbers)),
        "common": common,
        "data_root": root or held.get("data_root"),
    }


def _pair(text: str) -> tuple[str, str]:
    name, equals, flags = text.partition("=")
    if not equals:
        raise OptionError(f"--method {text}: expected NAME=FLAGS, such as --method cot='--encoder bert --head cot'")
    return name, flags


def _sets(data: list[str], root: str | None) -> dict[str, str]:
    """Name -> what was said, each found now, so that a slip does not cost a night."""
    from tstk.data.catalog import locate

    sets: dict[str, str] = {}
    for use in data:
        name = "+".join(locate(one.strip(), root).name for one in use.split(",") if one.strip())
        name = re.sub(r"[^\w.+=-]", "_", name)
        if name in sets:
            raise OptionError(f"{sets[name]} and {use} are both called {name}; rename a file")
        sets[name] = use
    return sets


def _method(text: str, shared: list[str], first: str) -> Method:
    """A method from its words, tried on the first data set without reading it."""
    from tstk.benchmarking.peers import PREFIX, by_peer
    from tstk.benchmarking.suite import Method, by_config, by_recipe
    from tstk.config.recipe import configs, read_recipe

    words = shlex.split(text)
    said = shlex.join([*words, *shared])
    if words and words[0].startswith(PREFIX):
        if words[1:]:
            raise OptionError(f"{text}: a peer takes no options of its own; leave out {shlex.join(words[1:])}")
        return Method(said, by_peer(words[0].removeprefix(PREFIX), _config(shared)))
    if not words or words[0].startswith("-"):
        make = _config([*shared, *words])
        _rehearsed(make(first, 0))
        return Method(said, by_config(make))
    name, *rest = words
    changes = stage_changes(tuple(rest[1::2]))
    if len(rest) % 2 or set(rest[::2]) - {"--set"}:
        raise OptionError(f"{text}: expected RECIPE, then any number of --set STAGE.OPTION=VALUE")
    common = _common(shared)
    stages = read_recipe(name)
    if unknown := changes.keys() - {s.name for s in stages}:
        raise OptionError(
            f"recipe {name} has no stage {', '.join(unknown)}; it has {', '.join(s.name for s in stages)}"
        )
    config = next(configs(stages[:1], Path(), ("flag", chosen({**common, "data": first})), {}))
    _rehearsed(config)
    return Method(said, by_recipe(name, changes, common))


def _config(words: list[str]) -> Callable[[str, int], Config]:
    """What `tstk train` would make of these words, for any data and seed."""
    from tstk.cli.commands.train import command as train

    assert isinstance(train, Configured)
    if own := {"--data", "--seed"} & {word.partition("=")[0] for word in words}:
        raise OptionError(f"{shlex.join(words)}: {' and '.join(sorted(own))} are for the bench to say, for all methods")

    def make(data: str, seed: int) -> Config:
        try:
            with train.make_context("train", [*words, "--data", data, "--seed", str(seed)]) as ctx:
                config = configured(ctx)
        except click.ClickException as e:
            raise OptionError(e.format_message()) from None
        for name in ("out", "dry_run", "print_config", "json_", "quiet"):
            if ctx.params.get(name):
                raise OptionError(
                    f"{shlex.join(words)}: --{name.strip('_').replace('_', '-')} has no place in a method"
                )
        return config

    return make


def _common(words: list[str]) -> dict[str, Any]:
    """Shared flags as a recipe takes them."""
    found: dict[str, Any] = {}
    for flag, value in zip(words[::2], words[1::2], strict=False):
        found[flag.removeprefix("--").replace("-", "_")] = value
    if len(words) % 2 or found.keys() - {*EVERYWHERE, "data_root"}:
        raise OptionError(
            f"common flags {shlex.join(words)}: a recipe takes --{' --'.join(EVERYWHERE)} alone, each with a value; "
            f"say others with --set STAGE.OPTION=VALUE"
        )
    return found


def _rehearsed(config: Config) -> None:
    from tstk.runs.build import rehearse

    rehearse(config)


class _Progress:
    """A bar over the cells on a terminal, and a line for each that is done."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self.bar = Progress(
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=console(stderr=True),
            transient=True,
        )
        self.task = self.bar.add_task("")

    def __enter__(self) -> Callable[[Cell, int, int], None]:
        if self.bar.console.is_terminal:
            self.bar.start()
        return self.told

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def told(self, cell: Cell, at: int, of: int) -> None:
        who = f"{cell.method}, {cell.data}, seed {cell.seed}"
        if not cell.facts and not cell.error:
            self.bar.update(self.task, total=of, completed=at - 1, description=who)
            return
        self.bar.update(self.task, total=of, completed=at, description=who)
        scores = {k: v for k, v in cell.facts.get("scores", {}).items() if k in ("accuracy", "mse")}
        said = cell.error or ", ".join(f"{k} {number(v)}" for k, v in scores.items()) + f", {cell.facts['seconds']:g} s"
        note(f"{at}/{of} {who}: {'failed: ' if cell.error else ''}{said}")
        for line in cell.facts.get("notes", []):
            note(f"note: {line}")
