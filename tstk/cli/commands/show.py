"""`tstk show KIND NAME`: describe a component, as read from its source without importing it."""

from __future__ import annotations

from typing import Any

import click
import rich_click

from tstk.cli.commands.list import entry_to_dict
from tstk.cli.completion import complete_choices, complete_entry
from tstk.cli.output import echo, format_examples, print_json, print_table
from tstk.config.resolve import get_entry_file
from tstk.plugins.hooks import KINDS, SLOTS, parse_kind
from tstk.plugins.local import ImportPath, mark_import_path, register_component
from tstk.plugins.registry import get_registry
from tstk.plugins.signature import Option, Signature, read_signature


@click.command(
    cls=rich_click.RichCommand, epilog=format_examples("tstk show encoder bert", "tstk show loss masked --json")
)
@click.argument("kind", shell_complete=complete_choices(*KINDS))
@click.argument("name", shell_complete=complete_entry)
@rich_click.option("--json", "json_", is_flag=True, help="print JSON")
def command(kind: str, name: str, json_: bool) -> None:
    """Show a component: description, options, Spec fields it needs and provides, paper."""
    kind, path = parse_kind(kind), mark_import_path(name)
    if kind in SLOTS and isinstance(path, ImportPath):
        name = register_component(kind, path)
    entry = get_registry().find(kind, name)
    version = next((p.version for p in get_registry().plugins if p.dist == entry.dist), "")
    if entry.kind in ("config", "recipe"):
        signature, facts = Signature("", {}), {"file": str(get_entry_file(entry))}
    elif entry.kind == "kernel":
        operation, _, backend = entry.name.partition("/")
        signature, facts = (
            Signature("", {}),
            {"operation": operation, "select by": f"TSTK_KERNELS={operation}={backend}"},
        )
    else:
        signature = read_signature(entry.target)
        facts = {
            "needs": ", ".join(signature.class_attrs.get("needs", ())),
            "provides": ", ".join(sorted(entry.provides)),
        }
    if json_:
        print_json(
            {
                **entry_to_dict(entry),
                "version": version,
                "doc": signature.doc,
                "needs": list(signature.class_attrs.get("needs", ())),
                "options": {o.name: _option_to_dict(o) for o in signature.options.values()},
            }
        )
        return
    echo(f"  {entry.summary}\n", lead=f"{entry.kind} {entry.name}", bold=True)
    if signature.doc:
        echo(f"{signature.doc}\n")
    if signature.options:
        print_table(
            ["option", "type", "default", "description"],
            [[o.flag, o.type_label, format_default(o), o.help] for o in signature.options.values()],
        )
        echo()
    facts |= {"paper": entry.paper, "plugin": f"{entry.dist} {version}"}
    for key, value in facts.items():
        if value:
            echo(f"{key + ':':11}{value}")
    if example := suggest_command(entry.kind, name):
        echo(f"{'try:':11}{example}")


def suggest_command(kind: str, name: str) -> str:
    """Return a command that tries an entry; "" if there is none."""
    if kind in SLOTS:
        return f"tstk train --{kind} {name} --dry-run"
    return {"config": f"tstk train --config {name}", "command": f"tstk {name} --help"}.get(kind, "")


def format_default(option: Option) -> str:
    """Return the default of an option as it would be typed."""
    if isinstance(option.default, bool):
        return "on" if option.default else "off"
    if isinstance(option.default, tuple):
        return ",".join(map(str, option.default))
    return "none" if option.default is None else str(option.default)


def _option_to_dict(option: Option) -> dict[str, Any]:
    return {"type": option.type_label, "default": option.default, "help": option.help}
