"""`tstk plugins`: list, create and check plugins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import rich_click

from tstk.cli import completion
from tstk.cli.output import echo, format_examples, print_json, print_note, print_table
from tstk.diagnostics.plugin_checks import find_faults, find_import_costs, read_licence
from tstk.errors import OptionError
from tstk.plugins.hooks import KINDS
from tstk.plugins.registry import Plugin, get_registry
from tstk.plugins.scaffold import add_to_plugin, find_plugin_file, write_plugin


@click.group(cls=rich_click.RichGroup)
def command() -> None:
    """List installed plugins, including broken ones; create a plugin, and check it."""


@command.command(
    cls=rich_click.RichCommand,
    epilog=format_examples(
        "tstk plugins new wavelets --kind tokenizer", "tstk plugins new energy --kind head --into wavelets"
    ),
)
@click.argument("name")
@rich_click.option(
    "--kind",
    default="tokenizer",
    show_default=True,
    metavar="KIND",
    help=f"what to add: {', '.join(KINDS)}",
    shell_complete=completion.complete_choices(*KINDS),
)
@rich_click.option("--out", metavar="DIR", help="folder to create; NAME if not given")
@rich_click.option("--into", metavar="DIR", help="folder of an existing plugin to add the component to")
def new(name: str, kind: str, out: str | None, into: str | None) -> None:
    """Create a working plugin from a template: project file, entry, component, config, tests, CI.

    With --into, add a component to an existing plugin: its file and its entry. No file is overwritten.
    """
    if out is not None and into is not None:
        raise OptionError("--out creates a plugin and --into extends one; give one of them")
    folder = Path(into or out or name)
    paths = write_plugin(name, kind, folder) if into is None else add_to_plugin(name, kind, folder)
    for path in paths:
        echo(str(path))
    short_name = name.removeprefix("tstk-plugins-")
    entry_name = f"nearest_code/{short_name}" if kind == "kernel" else short_name
    steps = (
        f"pip install --editable {folder}",
        f"tstk show {kind} {entry_name}",
        f"tstk plugins check {find_plugin_file(folder)[0]}",
    )
    echo("\n  ".join(["\nNext:", *steps]))


@command.command(cls=rich_click.RichCommand, epilog=format_examples("tstk plugins check tstk"))
@click.argument("names", metavar="PLUGIN...", shell_complete=completion.complete_plugins, nargs=-1, required=True)
@rich_click.option("--json", "json_", is_flag=True, help="print JSON")
@rich_click.option(
    "--mixes", is_flag=True, help="also train its components for one step in every combination with installed ones"
)
def check(names: tuple[str, ...], json_: bool, mixes: bool) -> None:
    """Check that the components of a plugin conform to their interfaces; for plugin authors.

    PLUGIN is the name of a distribution (tstk-plugins-NAME), or of its entry point. The same checks run in a plugin's
    own tests with tstk.testing.parametrize_with_checks. The exit code is 1 if a check fails.
    """
    from tstk.testing import Outcome, run_checks
    from tstk.testing.case import find_plugin
    from tstk.testing.mixes import try_mixes

    def print_outcome(outcome: Outcome) -> None:
        if outcome.state == "failed":
            echo(f"  {outcome.case}\n        {outcome.reason}", lead="failed", fg="red")
            echo(f"        {outcome.location}")
        elif outcome.state == "expected failure":
            print_note(f"expected failure  {outcome.case}: {outcome.reason}")

    reports = {}
    for name in names:
        reports[name] = run_checks(name, (lambda outcome: None) if json_ else print_outcome)
        if not json_:
            echo((f"{name}: " if names[1:] else "") + str(reports[name]))
    rows = [
        {"plugin": name, "check": str(o.case), "state": o.state, "reason": o.reason, "location": o.location}
        for name, report in reports.items()
        for o in report.outcomes
    ]
    for name in names if mixes else ():
        mix_rows = [
            {"plugin": name, "mix": str(m), "state": m.state, "reason": m.reason, "location": ""}
            for m in try_mixes(find_plugin(name).dist)
        ]
        rows += mix_rows
        if not json_:
            echo(
                "".join(f"failed  {r['mix']}\n        {r['reason']}\n" for r in mix_rows if r["state"] == "failed"),
                nl=False,
            )
            counts = [f"{sum(r['state'] == s for r in mix_rows)} {s}" for s in ("trained", "refused", "failed")]
            echo(f"{len(mix_rows)} mixes: {', '.join(counts)}")
    if json_:
        print_json(rows)
    if any(row["state"] == "failed" for row in rows):
        raise click.exceptions.Exit(1)


@command.command(
    "list", cls=rich_click.RichCommand, epilog=format_examples("tstk plugins list", "tstk plugins list --json")
)
@rich_click.option("--json", "json_", is_flag=True, help="print JSON")
def list_(json_: bool) -> None:
    """List installed plugins: version, entries, milliseconds to import, licence, papers, and faults.

    The variable TSTK_PLUGINS selects which are loaded: none, or names separated by commas. With TSTK_STRICT=1 a plugin
    that fails to load stops every command with its traceback.
    """
    rows = [_plugin_to_dict(p) for p in get_registry().plugins]
    if json_:
        print_json(rows)
        return
    print_table(
        ["plugin", "version", "entries", "ms", "state", "licence", "papers"],
        [
            [
                r["plugin"],
                r["version"],
                r["entries"],
                f"{r['milliseconds']:.1f}",
                _summarize_state(r),
                r["licence"],
                _join_first(r["papers"]),
            ]
            for r in rows
        ],
        right_aligned=["entries", "ms"],
    )
    for row in rows:
        for line in (*row["faults"], *row["burdens"]):
            echo(f"warning: {row['plugin']}: {line}", err=True)


def _plugin_to_dict(plugin: Plugin) -> dict[str, Any]:
    """Return a plugin as a JSON-serializable dict."""
    return {
        "plugin": plugin.dist,
        "version": plugin.version,
        "module": plugin.module,
        "entries": len(plugin.entries),
        "milliseconds": round(plugin.load_ms, 1),
        "heavy": plugin.imports_torch,
        "error": plugin.error,
        "faults": find_faults(plugin),
        "burdens": find_import_costs(plugin),
        "licence": read_licence(plugin.dist),
        "papers": list(dict.fromkeys(e.paper for e in plugin.entries if e.paper)),
    }


def _summarize_state(row: dict[str, Any]) -> str:
    if row["error"]:
        return "broken"
    return "has faults" if row["faults"] else "slow" if row["burdens"] else "works"


def _join_first(papers: list[str]) -> str:
    return "; ".join(papers[:2]) + (f" and {len(papers) - 2} more" if len(papers) > 2 else "")
