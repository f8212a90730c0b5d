"""`tstk data`: list, describe, convert, split and download data sets."""

from __future__ import annotations

from typing import Any, Literal

import click
import rich_click

from tstk.cli.completion import complete_data_sets
from tstk.cli.files import add_force_option
from tstk.cli.options import ReaderCommand, build_section_options
from tstk.cli.output import echo, format_examples, print_json, print_note, print_table
from tstk.data.config import CONVERT_OPTIONS, SPLIT_OPTIONS, DataConfig
from tstk.errors import escape_control_characters

_MAX_CHANNELS = 12
"""Most channels listed by name."""


@click.group(cls=rich_click.RichGroup)
def command() -> None:
    """List, describe, convert, split and download data sets."""


@command.command("list", cls=rich_click.RichCommand, epilog=format_examples("tstk data list", "tstk data list --json"))
@rich_click.option("--data-root", metavar="DIR", help="folder to search; the variable TSTK_DATA if not given")
@rich_click.option("--json", "json_", is_flag=True, help="print JSON")
def list_(data_root: str | None, json_: bool) -> None:
    """List the named data sets: the embedded ones, and those under the data root."""
    from tstk.data import list_datasets

    rows = list_datasets(data_root)
    if json_:
        print_json([{"name": r.name, "path": str(r.path), "kind": r.kind} for r in rows])
    else:
        print_table(["data set", "content", "path"], [[r.name, r.kind, r.path] for r in rows])


@command.command(
    cls=ReaderCommand,
    epilog=format_examples("tstk data info har-demo", "tstk data info table.csv --context 96 --horizon 24"),
)
@click.argument("data", metavar="NAME|PATH", shell_complete=complete_data_sets)
@rich_click.option("--json", "json_", is_flag=True, help="print JSON")
def info(data: str, json_: bool, **options: Any) -> None:
    """Describe a data set: sizes, lengths, classes, missing values, ranges, splits, duplicates."""
    from tstk.data import load_data

    description = load_data(data, DataConfig(**options)).describe()
    if json_:
        print_json(description)
    else:
        _print_description(description)


info.params += build_section_options("data")


@command.command(
    cls=ReaderCommand,
    epilog=format_examples("tstk data convert har-demo har.npz", "tstk data convert record.hea record --length 3000"),
)
@click.argument("data", metavar="NAME|PATH", shell_complete=complete_data_sets)
@click.argument("out", metavar="OUT")
@add_force_option
def convert(data: str, out: str, force: bool, **options: Any) -> None:
    """Write a data set as NumPy arrays: OUT is a new .npz archive, or a new folder of .npy files.

    They are fast to read, and data sets larger than memory are read from disk as needed. An existing archive is
    replaced only with --force, an existing folder never.
    """
    from rich.progress import Progress

    from tstk.cli.output import make_console
    from tstk.data.convert import convert

    with Progress(console=make_console(stderr=True), transient=True) as progress:
        bar = progress.add_task("series")
        shapes, notes = convert(
            data,
            out,
            DataConfig(**options),
            lambda done, total: progress.update(bar, completed=done, total=total),
            force=force,
        )
    for split, shape in shapes.items():
        echo(f"{out}: X_{split} " + " x ".join(map(str, shape)))
    for note in notes:
        print_note(f"note: {note}")


convert.params += [o for o in build_section_options("data") if o.key in CONVERT_OPTIONS]


@command.command(
    cls=ReaderCommand,
    epilog=format_examples(
        "tstk data split people.csv --out people --test-fraction 0.2",
        "tstk data split table.csv --out table --test-fraction 0.2 --val-fraction 0.1",
    ),
)
@click.argument("data", metavar="NAME|PATH", shell_complete=complete_data_sets)
@rich_click.option("--out", required=True, metavar="DIR", help="folder for the files of the splits")
@rich_click.option(
    "--by",
    type=click.Choice(["class", "group", "time"]),
    help="class: the same fraction of every class; group: whole groups; time: the last rows. If not given, time for a "
    "table, group if there are groups, class otherwise",
)
@rich_click.option("--force", is_flag=True, help="replace the splits in the folder, if there are any")
def split(data: str, out: str, by: Literal["class", "group", "time"] | None, force: bool, **options: Any) -> None:
    """Divide a data set into training, test and perhaps validation data, and write them as files for --data DIR.

    Series become .npy files with their labels, groups, ids, targets and names of channels; tables become .csv files.
    """
    from tstk.data.split_files import split_data

    counts, notes = split_data(data, out, DataConfig(**options), by=by, force=force)
    for name, count in counts.items():
        echo(f"{out}: {name} {count:,}")
    for note in notes:
        print_note(f"note: {note}")


split.params += [o for o in build_section_options("data") if o.key in SPLIT_OPTIONS]


@command.command(
    cls=rich_click.RichCommand, epilog=format_examples("tstk data fetch GunPoint", "tstk data fetch ETTh1 ETTm1")
)
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@rich_click.option(
    "--trust-first-download",
    is_flag=True,
    help="accept sets whose SHA-256 is not known, and store the SHA-256 of each for later downloads",
)
def fetch(names: tuple[str, ...], trust_first_download: bool) -> None:
    """Download public data sets for --data NAME: UCR and UEA data sets, and ETTh1, ETTh2, ETTm1, ETTm2.

    A URI, such as s3://bucket/folder, hf://datasets/org/name or https://host/file.csv, is copied for --data URI.

    They are stored in the folder of the variable TSTK_CACHE, or in the user's cache folder. Existing data sets are not
    downloaded again, and interrupted downloads are resumed. With TSTK_OFFLINE=1 nothing is downloaded. The SHA-256 of
    ECG200, GunPoint and the ETT tables is known and checked; any other set takes --trust-first-download once.
    """
    from rich.markup import escape
    from rich.progress import DownloadColumn, Progress

    from tstk.cli.output import make_console
    from tstk.data.catalog import list_suffixes
    from tstk.data.download import fetch
    from tstk.data.remote import fetch_uri, is_uri

    for name in names:
        with Progress(
            *Progress.get_default_columns(), DownloadColumn(), console=make_console(True), transient=True
        ) as bar:
            task = bar.add_task(escape(escape_control_characters(name, keep="")), total=None)

            def on_progress(done: int, total: int, bar: Progress = bar, task: Any = task) -> None:
                bar.update(task, completed=done, total=total or None)

            if is_uri(name):
                folder = fetch_uri(name, list_suffixes(), on_progress)
            else:
                folder = fetch(name, on_progress, trust_first_download=trust_first_download)
        echo(f"{name}: {folder}")


def _print_description(description: dict[str, Any]) -> None:
    echo(f"  {description['task']}", lead=description["name"], bold=True)
    splits = description["parts"]
    lengths = {n for s in splits.values() for n in s["length"].values()}
    num_channels = len(description["channels"])
    properties: dict[str, Any] = {
        "files": ", ".join(description["source"]),
        "channels": f"{num_channels}, the first {_MAX_CHANNELS} below"
        if num_channels > _MAX_CHANNELS
        else num_channels,
        "length": f"{description['length']} samples" + (" each" if lengths == {description["length"]} else " at most"),
        "horizon": description["horizon"],
        "split": description["split"],
        "duplicates": _format_duplicates(description),
        "constant": _join_first([c for c, r in description["ranges"].items() if r["min"] == r["max"]]),
        "imbalance": description.get("imbalance")
        and f"largest class / smallest class = {description['imbalance']:.2f}",
    }
    for key, value in properties.items():
        if value:
            echo(f"{key + ':':12}" + escape_control_characters(str(value), keep=""))
    echo()
    rows: list[list[Any]] = [["series or windows", *(f"{s['size']:,}" for s in splits.values())]]
    if lengths != {description["length"]}:
        for key, label in (("min", "shortest"), ("median", "median"), ("max", "longest")):
            rows.append([f"samples, {label}", *(s["length"][key] for s in splits.values())])
    rows.append(["missing samples", *(f"{s['missing']:,}" for s in splits.values())])
    if any("groups" in s for s in splits.values()):
        rows.append(["groups", *(s.get("groups") for s in splits.values())])
    names = dict.fromkeys(c for s in splits.values() for c in s.get("classes", ()))
    rows += [[f"class {c}", *(s.get("classes", {}).get(c) for s in splits.values())] for c in names]
    names = dict.fromkeys(c for s in splits.values() for c in s.get("sample_classes", ()))
    rows += [[f"samples of class {c}", *(s.get("sample_classes", {}).get(c) for s in splits.values())] for c in names]
    labels = dict.fromkeys(c for s in splits.values() for c in s.get("labels", ()))
    rows += [[f"label {c}", *(s.get("labels", {}).get(c) for s in splits.values())] for c in labels]
    targets = dict.fromkeys(t for s in splits.values() for t in s.get("targets", ()))
    rows += [[f"target {t}", *(_format_range(s.get("targets", {}).get(t)) for s in splits.values())] for t in targets]
    print_table(["", *splits], rows, right_aligned=list(splits))
    echo()
    shown = list(description["ranges"].items())[:_MAX_CHANNELS]
    cells = [[c, *(None if v is None else f"{v:.4g}" for v in r.values())] for c, r in shown]
    print_table(["channel (train)", "min", "mean", "max"], cells, right_aligned=["min", "mean", "max"])
    for line in description["notes"]:
        if line != description["split"]:
            print_note(f"note: {line}")


def _format_range(target: dict[str, Any] | None) -> str | None:
    """Return the range of a target and the number of series for which it is unknown."""
    if target is None or target["min"] is None:
        return None
    unknown = f", {target['missing']:,} unknown" if target["missing"] else ""
    return f"{target['min']:.4g} to {target['max']:.4g}{unknown}"


def _format_duplicates(description: dict[str, Any]) -> str:
    """Return the numbers of duplicate series: within train, and between test and the other splits."""
    if "repeated" not in description:
        return ""
    counts = [f"{description['repeated']:,} within train"]
    if "duplicates" in description:
        counts.insert(0, f"{description['duplicates']:,} series of test are also in train or val")
    return ", ".join(counts) if description["repeated"] or description.get("duplicates") else "none"


def _join_first(names: list[str], limit: int = _MAX_CHANNELS) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
