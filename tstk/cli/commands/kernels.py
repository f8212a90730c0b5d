"""`tstk kernels`: which implementations of each operation this machine has."""

from __future__ import annotations

import os

import click
import rich_click

from tstk.cli.output import as_json, examples, note, table


@click.command(cls=rich_click.RichCommand, epilog=examples("tstk kernels", "tstk kernels --json"))
@rich_click.option("--json", "json_", is_flag=True, help="print JSON")
def command(json_: bool) -> None:
    """List operations and their backends, and why a backend can serve no call on this machine.

    A call takes the first backend that supports its device, types and shapes. The variable TSTK_KERNELS chooses
    another for all calls, or with OPERATION=BACKEND for those of one operation; one that cannot serve a call is an
    error then, never replaced in silence.
    """
    import tstk.kernels  # noqa: F401  the operations enter themselves
    from tstk.kernels.dispatch import OPERATIONS

    backends = [(name, backend) for name, operation in OPERATIONS.items() for backend in operation.backends.values()]
    if json_:
        rows = [(name, b.name, b.dist, b.absent()) for name, b in backends]
        as_json([dict(zip(("operation", "backend", "plugin", "absent"), row, strict=True)) for row in rows])
        return
    table(
        ["operation", "backend", "on this machine", "plugin"],
        [[name, b.name, b.absent() or "yes", b.dist] for name, b in backends],
    )
    if wanted := os.environ.get("TSTK_KERNELS"):
        note(f"TSTK_KERNELS={wanted}: calls use this backend, or fail.")
