"""`tstk list`: list registry entries."""

from __future__ import annotations

import click
import rich_click

from tstk.cli.completion import complete_choices
from tstk.cli.output import echo, format_examples, print_json, print_table
from tstk.plugins.hooks import KINDS, Entry, parse_kind
from tstk.plugins.registry import get_registry


@click.command(
    cls=rich_click.RichCommand, epilog=format_examples("tstk list", "tstk list encoders", "tstk list loss --json")
)
@click.argument("kind", required=False, metavar="[KIND]", shell_complete=complete_choices(*KINDS))
@rich_click.option("--json", "json_", is_flag=True, help="print JSON")
def command(kind: str | None, json_: bool) -> None:
    """List components, configs, data readers and commands by kind; all kinds if KIND is not given.

    KIND is one of tokenizer, encoder, decoder, head, loss, task, reader, config, recipe, command, callback, probe,
    report, kernel, masking, augmentation, tracker, importer; plurals are accepted.
    """
    kinds = [k for k in KINDS if get_registry().list_entries(k)] if kind is None else [parse_kind(kind)]
    if json_:
        print_json([entry_to_dict(entry) for k in kinds for entry in get_registry().list_entries(k)])
        return
    for k in kinds:
        rows = [
            [name, e.summary, f"{e.dist}", e.paper]
            for name, e in zip(get_registry().list_names(k), get_registry().list_entries(k), strict=True)
        ]
        if rows:
            print_table([k, "description", "plugin", "paper"], rows)
        else:
            echo(f"No {k} is installed; plugins provide them.")
        if k != kinds[-1]:
            echo()


def entry_to_dict(entry: Entry) -> dict[str, object]:
    """Return an entry as a JSON-serializable dict."""
    return {
        "kind": entry.kind,
        "name": entry.name,
        "summary": entry.summary,
        "plugin": entry.dist,
        "provides": sorted(entry.provides),
        "paper": entry.paper,
    }
