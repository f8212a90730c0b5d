"""`tstk list`: what has a name."""

from __future__ import annotations

import click
import rich_click

from tstk.cli.completion import words
from tstk.cli.output import as_json, examples, table
from tstk.errors import NameUnknown, did_you_mean
from tstk.plugins.registry import KINDS, Entry, registry


@click.command(cls=rich_click.RichCommand, epilog=examples("tstk list", "tstk list encoders", "tstk list loss --json"))
@click.argument("kind", required=False, metavar="[KIND]", shell_complete=words(*KINDS))
@rich_click.option("--json", "json_", is_flag=True, help="print JSON")
def command(kind: str | None, json_: bool) -> None:
    """List components, configs, data readers and commands by kind; all of them if no kind is given.

    KIND is one of tokenizer, encoder, decoder, head, loss, data, config, recipe, command, callback, kernel; the plural
    will do.
    """
    kinds = [k for k in KINDS if registry().entries(k)] if kind is None else [kind_of(kind)]
    if json_:
        as_json([about(entry) for k in kinds for entry in registry().entries(k)])
        return
    for k in kinds:
        rows = [
            [name, e.summary, f"{e.dist}", e.paper]
            for name, e in zip(registry().names(k), registry().entries(k), strict=True)
        ]
        if rows:
            table([k, "what it is", "plugin", "paper"], rows)
        else:
            click.echo(f"No {k} is installed; plugins bring them.")
        if k != kinds[-1]:
            click.echo()


def kind_of(word: str) -> str:
    """The kind that a word means, singular or plural.

    Raises:
        NameUnknown: none
    """
    plurals = {"losses": "loss"} | {f"{k}s": k for k in KINDS}
    kind = plurals.get(word.lower(), word.lower())
    if kind not in KINDS:
        raise NameUnknown(f"There is no kind {word!r}.{did_you_mean(word, KINDS)} There are: {', '.join(KINDS)}.")
    return kind


def about(entry: Entry) -> dict[str, object]:
    """An entry, JSON-able."""
    return {
        "kind": entry.kind,
        "name": entry.name,
        "summary": entry.summary,
        "plugin": entry.dist,
        "provides": sorted(entry.provides),
        "paper": entry.paper,
    }
