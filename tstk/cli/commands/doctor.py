"""`tstk doctor`: what this machine offers, and what is broken."""

from __future__ import annotations

import click
import rich_click

from tstk.cli.output import as_json, examples, table


@click.command(cls=rich_click.RichCommand, epilog=examples("tstk doctor", "tstk doctor --json"))
@rich_click.option("--json", "json_", is_flag=True, help="print JSON")
def command(json_: bool) -> None:
    """Look over this installation: versions, devices, threads, extras, plugins, kernels, data, room, write access.

    What is broken is said last, a line each with its remedy, and makes the exit code 1.
    """
    from tstk.diagnostics.doctor import examine

    found = examine()
    faults = [f for f in found if f.remedy]
    if json_:
        as_json({"findings": [vars(f) for f in found], "faults": len(faults)})
    else:
        about = ""
        rows = []
        for f in found:
            rows.append([f.about if f.about != about else None, f.name, f.value])
            about = f.about
        table(["about", "what", "found"], rows)
        click.echo()
        for f in faults:
            click.echo(click.style("Broken: ", fg="red", bold=True) + f"{f.about}, {f.name}: {f.value}. {f.remedy}")
        if not faults:
            click.echo("Nothing is broken.")
    if faults:
        raise click.exceptions.Exit(1)
