"""`tstk config`: list, show and copy the configs of installed plugins."""

from __future__ import annotations

from pathlib import Path

import click
import rich_click

from tstk.cli.commands.list import entry_to_dict
from tstk.cli.completion import complete_names
from tstk.cli.files import add_force_option
from tstk.cli.output import echo, format_examples, print_json, print_table
from tstk.config.resolve import find_config
from tstk.files import check_new_file, write_text
from tstk.plugins.registry import get_registry


@click.group(cls=rich_click.RichGroup)
def command() -> None:
    """List, show and copy configs (for tstk train --config NAME); list recipes (for tstk run NAME)."""


@command.command("list", cls=rich_click.RichCommand, epilog=format_examples("tstk config list"))
@rich_click.option("--json", "json_", is_flag=True, help="print JSON")
def list_(json_: bool) -> None:
    """List the installed configs (tstk train --config NAME) and recipes (tstk run NAME)."""
    entries = [*get_registry().list_entries("config"), *get_registry().list_entries("recipe")]
    if json_:
        print_json([entry_to_dict(e) for e in entries])
    elif entries:
        names = [*get_registry().list_names("config"), *get_registry().list_names("recipe")]
        print_table(
            ["name", "for", "description", "plugin"],
            [
                [n, "train --config" if e.kind == "config" else "run", e.summary, e.dist]
                for n, e in zip(names, entries, strict=True)
            ],
        )
    else:
        echo("No config is installed; plugins provide them. tstk train --print-config prints one to edit.")


@command.command(cls=rich_click.RichCommand, epilog=format_examples("tstk config show my.toml"))
@click.argument("name", shell_complete=complete_names("config", files=True))
def show(name: str) -> None:
    """Print a config, by name or file."""
    echo(find_config(name).read_text(encoding="utf-8"), nl=False)


@command.command(cls=rich_click.RichCommand, epilog=format_examples("tstk config copy my.toml other.toml"))
@click.argument("name", shell_complete=complete_names("config", files=True))
@click.argument("path")
@add_force_option
def copy(name: str, path: str, force: bool) -> None:
    """Copy a config to a file, to edit and use with tstk train --config."""
    target = Path(path)
    target = target / f"{name.replace('/', '-')}.toml" if target.is_dir() else target
    check_new_file(target, force)
    write_text(target, find_config(name).read_text(encoding="utf-8"), replace=force)
    echo(f"{target}\ntstk train --config {target}")
