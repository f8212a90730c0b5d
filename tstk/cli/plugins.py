"""`tstk plugins`: which plugins are installed, what they cost, and which are broken."""

from __future__ import annotations

import click
import rich_click

from tstk.cli.say import as_json, examples, note, table
from tstk.registry import registry


@click.group(cls=rich_click.RichGroup)
def command() -> None:
    """List installed plugins, working or not; start one of your own, and check it."""


@command.command(cls=rich_click.RichCommand, epilog=examples("tstk plugins check tstk"))
@click.argument("name", metavar="PLUGIN")
@rich_click.option("--json", "json_", is_flag=True, help="print JSON")
def check(name: str, json_: bool) -> None:
    """Check that a plugin's parts do what the pipeline expects of them; for its author.

    PLUGIN is the name of a distribution (tstk-plugins-NAME), or of its entry point. The same checks run in a plugin's
    own tests by tstk.testing.contract. The exit code is 1 if one fails.
    """
    from tstk.testing import Outcome, examine

    def tell(outcome: Outcome) -> None:
        if outcome.state == "failed":
            click.echo(f"{click.style('failed', fg='red')}  {outcome.case}\n        {outcome.reason}")
        elif outcome.state == "excused":
            note(f"excused  {outcome.case}: {outcome.reason}")

    report = examine(name, (lambda outcome: None) if json_ else tell)
    if json_:
        as_json([{"check": str(o.case), "state": o.state, "reason": o.reason} for o in report.outcomes])
    else:
        click.echo(str(report))
    if report.failed:
        raise click.exceptions.Exit(1)


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
