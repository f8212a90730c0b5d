"""`tstk plugins`: which plugins are installed, what they cost, and which are broken."""

from __future__ import annotations

import click
import rich_click

from tstk.cli.say import as_json, examples, table
from tstk.registry import registry


@click.group(cls=rich_click.RichGroup)
def command() -> None:
    """List installed plugins, working or not."""


@command.command("list", cls=rich_click.RichCommand, epilog=examples("tstk plugins list", "tstk plugins list --json"))
@rich_click.option("--json", "json_", is_flag=True, help="print JSON")
def list_(json_: bool) -> None:
    """List installed plugins: version, number of entries, milliseconds to import, and what is wrong with them.

    The variable TSTK_PLUGINS chooses which are read: none, or names with commas between them.
    """
    plugins = registry().plugins
    if json_:
        as_json(
            [
                {
                    "plugin": p.dist,
                    "version": p.version,
                    "module": p.module,
                    "entries": len(p.entries),
                    "milliseconds": round(p.milliseconds, 1),
                    "heavy": p.heavy,
                    "error": p.error,
                }
                for p in plugins
            ]
        )
    else:
        table(
            ["plugin", "version", "entries", "ms", "state"],
            [
                [
                    p.dist,
                    p.version,
                    len(p.entries),
                    f"{p.milliseconds:.1f}",
                    "broken" if p.error else "imports torch" if p.heavy else "works",
                ]
                for p in plugins
            ],
            right=["entries", "ms"],
        )
    for p in plugins:
        if p.error:
            click.echo(f"warning: the plugin {p.dist} failed to load: {p.error}", err=True)
        elif p.heavy:
            click.echo(
                f"warning: the plugin {p.dist} imports torch when it is listed, which makes every command slow",
                err=True,
            )
