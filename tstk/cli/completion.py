"""What a shell completes: names of components, configs and recipes, options of the chosen components, data sets, runs.

Each function here is a `shell_complete` of a click parameter. Like help, none imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from tstk.errors import TstkError
from tstk.plugins.registry import registry

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def names(*kinds: str, files: bool = False) -> Complete:
    """Names of these kinds, with their summaries.

    Args:
        kinds: as in an `Entry`
        files: a path will do as well
    """

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        found = [(n, e.summary) for k in kinds for n, e in zip(registry().names(k), registry().entries(k), strict=True)]
        return _starting(found, incomplete) or _files(incomplete, files)

    return complete


def component(kind: str) -> Complete:
    """Names of a kind, then the runs whose part can be mounted instead."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return names(kind)(ctx, param, incomplete) + runs(ctx, param, incomplete)

    return complete


def runs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Run directories here, under runs/ and under what was typed."""
    typed = Path(incomplete) if incomplete.endswith("/") else Path(incomplete).parent
    folders = dict.fromkeys((Path(), Path("runs"), typed))
    found = [p.parent for f in folders for deep in ("*", "*/*") for p in sorted(f.glob(f"{deep}/config.json"))]
    return _starting([(str(p), "a run") for p in dict.fromkeys(found)], incomplete)


def data_sets(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Data sets with a name, under the root that was given; else files."""
    from tstk.data.catalog import available

    try:
        rows = available(ctx.params.get("data_root"))
    except TstkError:
        rows = []
    return _starting([(row.name, row.kind) for row in rows], incomplete) or _files(incomplete, True)


def words(*choices: str) -> Complete:
    """One of these."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return _starting([(c, "") for c in choices], incomplete)

    return complete


def entry_of_kind(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of the kind that stands before, in `tstk show KIND NAME`."""
    from tstk.cli.commands.list import kind_of

    try:
        return names(kind_of(ctx.params.get("kind") or ""))(ctx, param, incomplete)
    except TstkError:
        return []


def plugins(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Installed plugins."""
    return _starting([(p.dist, p.version) for p in registry().plugins], incomplete)


def _starting(found: Iterable[tuple[str, str]], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name, help=about) for name, about in found if name.startswith(incomplete)]


def _files(incomplete: str, wanted: bool) -> list[CompletionItem]:
    return [CompletionItem(incomplete, type="file")] if wanted else []
