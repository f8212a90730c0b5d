"""`tstk config`: configs that plugins ship, to be listed, read and copied."""

from __future__ import annotations

from pathlib import Path

import click
import rich_click

from tstk.cli.commands.list import about
from tstk.cli.completion import names
from tstk.cli.output import as_json, examples, table
from tstk.config.resolve import find_config
from tstk.config.run_directory import write_text
from tstk.errors import OptionError
from tstk.plugins.registry import registry


@click.group(cls=rich_click.RichGroup)
def command() -> None:
    """List, show and copy configs, which tstk train --config NAME uses; list recipes, which tstk run NAME does."""


@command.command("list", cls=rich_click.RichCommand, epilog=examples("tstk config list"))
@rich_click.option("--json", "json_", is_flag=True, help="print JSON")
def list_(json_: bool) -> None:
    """List the configs (tstk train --config NAME) and recipes (tstk run NAME) that are installed."""
    entries = [*registry().entries("config"), *registry().entries("recipe")]
    if json_:
        as_json([about(e) for e in entries])
    elif entries:
        called = [*registry().names("config"), *registry().names("recipe")]
        table(
            ["name", "for", "what it is", "plugin"],
            [
                [n, "train --config" if e.kind == "config" else "run", e.summary, e.dist]
                for n, e in zip(called, entries, strict=True)
            ],
        )
    else:
        click.echo("No config is installed; plugins bring them. Any TOML file will do: tstk train --print-config")


@command.command(cls=rich_click.RichCommand, epilog=examples("tstk config show my.toml"))
@click.argument("name", shell_complete=names("config", files=True))
def show(name: str) -> None:
    """Print a config: one by name, or a file."""
    click.echo(find_config(name).read_text(encoding="utf-8"), nl=False)


@command.command(cls=rich_click.RichCommand, epilog=examples("tstk config copy my.toml other.toml"))
@click.argument("name", shell_complete=names("config", files=True))
@click.argument("path")
def copy(name: str, path: str) -> None:
    """Copy a config to a file of your own, to edit and give to tstk train --config."""
    to = Path(path)
    to = to / f"{name.replace('/', '-')}.toml" if to.is_dir() else to
    if to.exists():
        raise OptionError(f"{to}: something is there already; choose another name or remove it")
    if not to.parent.is_dir():
        raise OptionError(f"{to}: there is no folder {to.parent}; make it first")
    write_text(to, find_config(name).read_text(encoding="utf-8"))
    click.echo(f"{to}\ntstk train --config {to}")
