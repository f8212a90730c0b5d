"""`tstk data`: which data sets have a name, what is in one, and the same as NumPy arrays."""

from __future__ import annotations

from typing import Any

import click
import rich_click

from tstk.cli.completion import data_sets
from tstk.cli.options import section_options
from tstk.cli.output import as_json, examples, note, table

_MOST = 12
"""Channels that a report names."""


@click.group(cls=rich_click.RichGroup)
def command() -> None:
    """List data sets, report on one, convert one."""


@command.command("list", cls=rich_click.RichCommand, epilog=examples("tstk data list", "tstk data list --json"))
@rich_click.option("--data-root", metavar="DIR", help="folder to look in; without it the variable TSTK_DATA is asked")
@rich_click.option("--json", "json_", is_flag=True, help="print JSON")
def list_(data_root: str | None, json_: bool) -> None:
    """List the data sets that have a name: the embedded one, and those under the data root."""
    from tstk.data import available

    rows = available(data_root)
    if json_:
        as_json([{"name": r.name, "path": str(r.path), "kind": r.kind} for r in rows])
    else:
        table(["data set", "what is there", "path"], [[r.name, r.kind, r.path] for r in rows])


@command.command(
    cls=rich_click.RichCommand,
    epilog=examples("tstk data info har-demo", "tstk data info table.csv --context 96 --horizon 24"),
)
@click.argument("data", metavar="NAME|PATH", shell_complete=data_sets)
@rich_click.option("--json", "json_", is_flag=True, help="print JSON")
def info(data: str, json_: bool, **options: Any) -> None:
    """Report on a data set: sizes, lengths, classes, missing values, ranges, how it is split, duplicates."""
    from tstk.data import load

    facts = load(data, **options).facts()
    if json_:
        as_json(facts)
    else:
        _report(facts)


info.params += section_options("data")


@command.command(
    cls=rich_click.RichCommand,
    epilog=examples("tstk data convert har-demo har.npz", "tstk data convert record.hea record --length 3000"),
)
@click.argument("data", metavar="NAME|PATH", shell_complete=data_sets)
@click.argument("out", metavar="OUT")
@rich_click.option(
    "--data-root", metavar="DIR", help="folder with data sets; without it the variable TSTK_DATA is asked"
)
@rich_click.option("--label", metavar="NAME", help="column or array that holds the labels, if it has an unusual name")
@rich_click.option("--length", type=int, metavar="N", help="cut a table or record into series of so many rows")
@rich_click.option("--stride", type=int, metavar="N", help="rows from one of them to the next; --length if not given")
def convert(data: str, out: str, **options: Any) -> None:
    """Write a data set as NumPy arrays: OUT is a new .npz archive, or a new folder of .npy files.

    Reading them is fast, and sets larger than memory stay in them. Nothing is ever overwritten.
    """
    from rich.progress import Progress

    from tstk.cli.output import console
    from tstk.data.convert import convert

    with Progress(console=console(stderr=True), transient=True) as progress:
        bar = progress.add_task("series")
        shapes = convert(data, out, say=lambda done, all_: progress.update(bar, completed=done, total=all_), **options)
    for part, shape in shapes.items():
        click.echo(f"{out}: X_{part} " + " x ".join(map(str, shape)))


@command.command(cls=rich_click.RichCommand, epilog=examples("tstk data fetch GunPoint", "tstk data fetch ETTh1 ETTm1"))
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
def fetch(names: tuple[str, ...]) -> None:
    """Fetch public data sets, so that --data NAME finds them: UCR and UEA sets, and ETTh1, ETTh2, ETTm1, ETTm2.

    They are kept in the folder of the variable TSTK_CACHE, or the user's folder of caches. A set that is there already
    is not fetched again, and a download that broke off is continued. With TSTK_OFFLINE=1 nothing is fetched.
    """
    from rich.progress import DownloadColumn, Progress

    from tstk.cli.output import console
    from tstk.data.download import fetch

    for name in names:
        with Progress(*Progress.get_default_columns(), DownloadColumn(), console=console(True), transient=True) as bar:
            task = bar.add_task(name, total=None)
            folder = fetch(name, lambda done, of, task=task: bar.update(task, completed=done, total=of or None))  # type: ignore[misc]
        click.echo(f"{name}: {folder}")


def _report(facts: dict[str, Any]) -> None:
    click.echo(click.style(facts["name"], bold=True) + f"  {facts['task']}")
    channels = facts["channels"]
    about = {
        "files": ", ".join(facts["source"]),
        "channels": f"{len(channels)}: {_some(channels)}",
        "length": facts["length"],
        "horizon": facts["horizon"],
        "split": facts["split"],
        "duplicates": _duplicates(facts),
        "constant": _some([c for c, r in facts["ranges"].items() if r["min"] == r["max"]]),
        "imbalance": facts.get("imbalance") and f"largest class / smallest class = {facts['imbalance']:.2f}",
    }
    for key, value in about.items():
        if value:
            click.echo(f"{key + ':':12}{value}")
    click.echo()
    parts = facts["parts"]
    rows: list[list[Any]] = [
        ["series or windows", *(f"{p['size']:,}" for p in parts.values())],
        ["samples, shortest", *(p["length"]["min"] for p in parts.values())],
        ["samples, median", *(p["length"]["median"] for p in parts.values())],
        ["samples, longest", *(p["length"]["max"] for p in parts.values())],
        ["missing samples", *(f"{p['missing']:,}" for p in parts.values())],
    ]
    if any("groups" in p for p in parts.values()):
        rows.append(["groups", *(p.get("groups") for p in parts.values())])
    names = dict.fromkeys(c for p in parts.values() for c in p.get("classes", ()))
    rows += [[f"class {c}", *(p.get("classes", {}).get(c) for p in parts.values())] for c in names]
    table(["", *parts], rows, right=list(parts))
    click.echo()
    shown = list(facts["ranges"].items())[:_MOST]
    cells = [[c, *(None if v is None else f"{v:.4g}" for v in r.values())] for c, r in shown]
    table(["channel, in train", "min", "mean", "max"], cells, right=["min", "mean", "max"])
    for line in facts["notes"]:
        note(f"note: {line}")


def _duplicates(facts: dict[str, Any]) -> str:
    """What is there twice, which flatters a model that remembers."""
    if "repeated" not in facts:
        return ""
    said = [f"{facts['repeated']:,} within train"]
    if "duplicates" in facts:
        said.insert(0, f"{facts['duplicates']:,} series of test are also in train or val")
    return ", ".join(said) if facts["repeated"] or facts.get("duplicates") else "none"


def _some(names: list[str], most: int = _MOST) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
