"""`tstk kernels`: list the backends of each operation on this machine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click
import rich_click

from tstk.cli.output import format_examples, print_json, print_note, print_table

if TYPE_CHECKING:
    from tstk.kernels.dispatch import Backend


@click.command(
    cls=rich_click.RichCommand, epilog=format_examples("tstk kernels", "tstk kernels --build", "tstk kernels --json")
)
@rich_click.option("--build", is_flag=True, help="compile the kernels in C++ now, not when a call is large enough")
@rich_click.option("--json", "json_", is_flag=True, help="print JSON")
def command(build: bool, json_: bool) -> None:
    """List operations and their backends, and why a backend is unavailable on this machine.

    A call uses the first backend that supports its device, dtypes and shapes and that computes a small call
    correctly on this machine. The backend cpp is compiled by the C++ compiler of this machine. The variable
    TSTK_KERNELS selects a backend for all calls, or with OPERATION=BACKEND for one operation; if that backend does not
    support a call, it is an error, without fallback.
    """
    import tstk.kernels  # noqa: F401  registers the operations
    from tstk.kernels.dispatch import OPERATIONS

    backends = [(name, backend) for name, operation in OPERATIONS.items() for backend in operation.backends.values()]
    libraries = [backend.get_library() for _, backend in backends if backend.get_library]
    for library in libraries if build else ():
        library.load()
    if json_:
        rows = [(name, b.name, b.dist, b.why_not_selected()) for name, b in backends]
        print_json([dict(zip(("operation", "backend", "plugin", "absent"), row, strict=True)) for row in rows])
        return
    print_table(
        ["operation", "backend", "on this machine", "plugin"],
        [[name, b.name, b.why_not_selected() or _format_state(b), b.dist] for name, b in backends],
    )
    if requested := os.environ.get("TSTK_KERNELS"):
        print_note(f"TSTK_KERNELS={requested}: calls use this backend, or fail.")


def _format_state(backend: Backend) -> str:
    is_compiled = not backend.get_library or backend.get_library().is_built()
    return "yes" if is_compiled else "yes, once compiled: `tstk kernels --build`"
