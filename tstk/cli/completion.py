"""Shell completion of names of components, configs and recipes, component options, data sets and runs.

Each completer is the `shell_complete` of a click parameter. None imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from tstk.errors import TstkError, escape_control_characters
from tstk.plugins.hooks import parse_kind
from tstk.plugins.registry import get_registry

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def complete_names(*kinds: str, files: bool = False) -> Completer:
    """Return a completer for the names of these kinds of entries, with their summaries.

    Args:
        kinds: kinds of `Entry`
        files: fall back to file names
    """

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        candidates = [
            (n, e.summary)
            for k in kinds
            for n, e in zip(get_registry().list_names(k), get_registry().list_entries(k), strict=True)
        ]
        return _filter_by_prefix(candidates, incomplete) or _complete_files(incomplete, files)

    return complete


def complete_component(kind: str) -> Completer:
    """Return a completer for the names of a kind, then for run directories to initialize the component from."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return complete_names(kind)(ctx, param, incomplete) + complete_runs(ctx, param, incomplete)

    return complete


def complete_runs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete run directories: here, under runs/ and under the typed folder."""
    typed = Path(incomplete) if incomplete.endswith("/") else Path(incomplete).parent
    folders = dict.fromkeys((Path(), Path("runs"), typed))
    runs = [p.parent for f in folders for depth in ("*", "*/*") for p in sorted(f.glob(f"{depth}/config.json"))]
    return _filter_by_prefix([(str(p), "a run") for p in dict.fromkeys(runs)], incomplete)


def complete_data_sets(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete named data sets under --data-root, or else files."""
    from tstk.data.catalog import list_datasets

    try:
        rows = list_datasets(ctx.params.get("data_root"))
    except TstkError:
        rows = []
    return _filter_by_prefix([(row.name, row.kind) for row in rows], incomplete) or _complete_files(incomplete, True)


def complete_choices(*choices: str) -> Completer:
    """Return a completer for fixed choices."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return _filter_by_prefix([(c, "") for c in choices], incomplete)

    return complete


def complete_entry(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete NAME in `tstk show KIND NAME` with the names of that kind."""
    try:
        return complete_names(parse_kind(ctx.params.get("kind") or ""))(ctx, param, incomplete)
    except TstkError:
        return []


def complete_plugins(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the distributions of installed plugins."""
    return _filter_by_prefix([(p.dist, p.version) for p in get_registry().plugins], incomplete)


def _filter_by_prefix(candidates: Iterable[tuple[str, str]], incomplete: str) -> list[CompletionItem]:
    return [
        CompletionItem(name, help=escape_control_characters(about, keep=""))
        for name, about in candidates
        if name.startswith(incomplete) and name == escape_control_characters(name, keep="")
    ]


def _complete_files(incomplete: str, enabled: bool) -> list[CompletionItem]:
    return [CompletionItem(incomplete, type="file")] if enabled else []
