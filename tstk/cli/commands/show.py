"""`tstk show KIND NAME`: all there is to know about a component, read from its source."""

from __future__ import annotations

from typing import Any

import click
import rich_click

from tstk.cli.commands.list import about, kind_of
from tstk.cli.completion import entry_of_kind, words
from tstk.cli.output import as_json, examples, table
from tstk.config.resolve import shipped
from tstk.plugins.registry import KINDS, SLOTS, registry
from tstk.plugins.signature import Option, Outline, outline


@click.command(cls=rich_click.RichCommand, epilog=examples("tstk show encoder bert", "tstk show loss masked --json"))
@click.argument("kind", shell_complete=words(*KINDS))
@click.argument("name", shell_complete=entry_of_kind)
@rich_click.option("--json", "json_", is_flag=True, help="print JSON")
def command(kind: str, name: str, json_: bool) -> None:
    """Show a component: what it does, its options, what it needs and provides, its paper."""
    entry = registry().find(kind_of(kind), name)
    version = next((p.version for p in registry().plugins if p.dist == entry.dist), "")
    if entry.kind in ("config", "recipe"):
        seen, facts = Outline("", {}), {"file": str(shipped(entry))}
    elif entry.kind == "kernel":
        operation, _, backend = entry.name.partition("/")
        seen, facts = Outline("", {}), {"serves": operation, "called": f"TSTK_KERNELS={operation}={backend}"}
    else:
        seen = outline(entry.target)
        facts = {"needs": ", ".join(seen.facts.get("needs", ())), "provides": ", ".join(sorted(entry.provides))}
    if json_:
        as_json(
            {
                **about(entry),
                "version": version,
                "doc": seen.doc,
                "needs": list(seen.facts.get("needs", ())),
                "options": {o.name: _json(o) for o in seen.options.values()},
            }
        )
        return
    click.echo(click.style(f"{entry.kind} {entry.name}", bold=True) + f"  {entry.summary}\n")
    if seen.doc:
        click.echo(f"{seen.doc}\n")
    if seen.options:
        table(
            ["option", "type", "default", "what it does"],
            [[o.flag, o.hint, default(o), o.help] for o in seen.options.values()],
        )
        click.echo()
    facts |= {"paper": entry.paper, "plugin": f"{entry.dist} {version}"}
    for key, value in facts.items():
        if value:
            click.echo(f"{key + ':':10}{value}")
    if trial := example(entry.kind, name):
        click.echo(f"{'try:':10}{trial}")


def example(kind: str, name: str) -> str:
    """A command that tries a thing out; empty if there is none."""
    if kind in SLOTS:
        return f"tstk train --{kind} {name} --dry-run"
    return {"config": f"tstk train --config {name}", "command": f"tstk {name} --help"}.get(kind, "")


def default(option: Option) -> str:
    """The default of an option, as it is typed."""
    if isinstance(option.default, bool):
        return "on" if option.default else "off"
    if isinstance(option.default, tuple):
        return ",".join(map(str, option.default))
    return "none" if option.default is None else str(option.default)


def _json(option: Option) -> dict[str, Any]:
    return {"type": option.hint, "default": option.default, "help": option.help}
