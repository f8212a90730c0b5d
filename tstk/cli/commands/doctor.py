"""`tstk doctor`: check the installation."""

from __future__ import annotations

import click
import rich_click

from tstk.cli.output import echo, format_examples, print_json, print_table


@click.command(cls=rich_click.RichCommand, epilog=format_examples("tstk doctor", "tstk doctor --json"))
@rich_click.option("--json", "json_", is_flag=True, help="print JSON")
def command(json_: bool) -> None:
    """Check this installation: versions, devices, threads, extras, plugins, kernels, data, free space, write access.

    Faults are listed last, one line each with a remedy; with faults the exit code is 1.
    """
    from tstk.diagnostics.doctor import run_diagnostics

    findings = run_diagnostics()
    faults = [f for f in findings if f.remedy]
    if json_:
        print_json({"findings": [vars(f) for f in findings], "faults": len(faults)})
    else:
        previous = ""
        rows = []
        for f in findings:
            rows.append([f.category if f.category != previous else None, f.name, f.value])
            previous = f.category
        print_table(["category", "check", "result"], rows)
        echo()
        for f in faults:
            echo(f"{f.category}, {f.name}: {f.value}. {f.remedy}", lead="Broken: ", fg="red", bold=True)
        if not faults:
            echo("No faults found.")
    if faults:
        raise click.exceptions.Exit(1)
