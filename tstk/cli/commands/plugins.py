"""`tstk plugins`: which plugins are installed, what they cost, and which are broken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import rich_click

from tstk.cli import completion
from tstk.cli.output import as_json, examples, note, table
from tstk.diagnostics.plugin_checks import burdens, faults, licence
from tstk.plugins.registry import Plugin, registry
from tstk.plugins.scaffold import KINDS, write


@click.group(cls=rich_click.RichGroup)
def command() -> None:
    """List installed plugins, working or not; start one of your own, and check it."""


@command.command(cls=rich_click.RichCommand, epilog=examples("tstk plugins new wavelets --kind tokenizer"))
@click.argument("name")
@rich_click.option(
    "--kind",
    default="tokenizer",
    show_default=True,
    metavar="|".join(KINDS),
    help="what to make",
    shell_complete=completion.words(*KINDS),
)
@rich_click.option("--out", metavar="DIR", help="the folder to write; NAME if not given")
def new(name: str, kind: str, out: str | None) -> None:
    """Write a plugin of your own that works before a line is changed: project file, entry, part, config, tests, CI."""
    folder = Path(name if out is None else out)
    for path in write(name, kind, folder):
        click.echo(str(path))
    short = name.removeprefix("tstk-plugins-")
    steps = (
        f"pip install --editable {folder}",
        f"tstk show {kind} {short}",
        f"tstk plugins check tstk-plugins-{short}",
    )
    click.echo("\n  ".join(["\nNext:", *steps]))


@command.command(cls=rich_click.RichCommand, epilog=examples("tstk plugins check tstk"))
@click.argument("names", metavar="PLUGIN...", shell_complete=completion.plugins, nargs=-1, required=True)
@rich_click.option("--json", "json_", is_flag=True, help="print JSON")
@rich_click.option("--mixes", is_flag=True, help="also train its parts with everything that is installed, a step each")
def check(names: tuple[str, ...], json_: bool, mixes: bool) -> None:
    """Check that a plugin's parts do what the pipeline expects of them; for its author.

    PLUGIN is the name of a distribution (tstk-plugins-NAME), or of its entry point. The same checks run in a plugin's
    own tests by tstk.testing.contract. The exit code is 1 if one fails.
    """
    from tstk.testing import Outcome, examine
    from tstk.testing.case import plugin_of
    from tstk.testing.mixes import mixes as tried

    def tell(outcome: Outcome) -> None:
        if outcome.state == "failed":
            click.echo(f"{click.style('failed', fg='red')}  {outcome.case}\n        {outcome.reason}")
        elif outcome.state == "excused":
            note(f"excused  {outcome.case}: {outcome.reason}")

    reports = {}
    for name in names:
        reports[name] = examine(name, (lambda outcome: None) if json_ else tell)
        if not json_:
            click.echo((f"{name}: " if names[1:] else "") + str(reports[name]))
    rows = [
        {"plugin": name, "check": str(o.case), "state": o.state, "reason": o.reason}
        for name, report in reports.items()
        for o in report.outcomes
    ]
    for name in names if mixes else ():
        found = [
            {"plugin": name, "mix": str(m), "state": m.state, "reason": m.reason} for m in tried(plugin_of(name).dist)
        ]
        rows += found
        if not json_:
            click.echo(
                "".join(f"failed  {r['mix']}\n        {r['reason']}\n" for r in found if r["state"] == "failed"),
                nl=False,
            )
            told = [f"{sum(r['state'] == s for r in found)} {s}" for s in ("trained", "refused", "failed")]
            click.echo(f"{len(found)} mixes: {', '.join(told)}")
    if json_:
        as_json(rows)
    if any(row["state"] == "failed" for row in rows):
        raise click.exceptions.Exit(1)


@command.command("list", cls=rich_click.RichCommand, epilog=examples("tstk plugins list", "tstk plugins list --json"))
@rich_click.option("--json", "json_", is_flag=True, help="print JSON")
def list_(json_: bool) -> None:
    """List installed plugins: version, entries, milliseconds to import, licence, papers, and what is wrong with them.

    The variable TSTK_PLUGINS chooses which are read: none, or names with commas between them. With TSTK_STRICT=1 a
    plugin that fails stops every command, with its traceback.
    """
    rows = [_about(p) for p in registry().plugins]
    if json_:
        as_json(rows)
        return
    table(
        ["plugin", "version", "entries", "ms", "state", "licence", "papers"],
        [
            [
                r["plugin"],
                r["version"],
                r["entries"],
                f"{r['milliseconds']:.1f}",
                _state(r),
                r["licence"],
                _some(r["papers"]),
            ]
            for r in rows
        ],
        right=["entries", "ms"],
    )
    for row in rows:
        for line in (*row["faults"], *row["burdens"]):
            click.echo(f"warning: {row['plugin']}: {line}", err=True)


def _about(plugin: Plugin) -> dict[str, Any]:
    """A plugin, JSON-able."""
    return {
        "plugin": plugin.dist,
        "version": plugin.version,
        "module": plugin.module,
        "entries": len(plugin.entries),
        "milliseconds": round(plugin.milliseconds, 1),
        "heavy": plugin.heavy,
        "error": plugin.error,
        "faults": faults(plugin),
        "burdens": burdens(plugin),
        "licence": licence(plugin.dist),
        "papers": list(dict.fromkeys(e.paper for e in plugin.entries if e.paper)),
    }


def _state(row: dict[str, Any]) -> str:
    if row["error"]:
        return "broken"
    return "has faults" if row["faults"] else "slow" if row["burdens"] else "works"


def _some(papers: list[str], most: int = 2) -> str:
    return "; ".join(papers[:most]) + (f" and {len(papers) - most} more" if len(papers) > most else "")
