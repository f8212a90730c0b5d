"""The registry: one table of the named entries of all installed plugins.

Discovery imports the light `plugin.py` of each plugin through the entry-point group `tstk`; the target of an entry is
imported when it is first used. A plugin that fails to load is listed with the reason and does not affect the others.
Nothing here imports torch.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module, metadata
from typing import Any

import pluggy

from tstk.errors import OptionError, TstkError, UnknownNameError, did_you_mean
from tstk.plugins.hooks import INTERFACE_VERSION, KINDS, LOCAL, Entry, HookSpecs
from tstk.plugins.import_watch import watch_import
from tstk.plugins.location import locate_error


@dataclass
class Plugin:
    """An installed plugin with its entries, or with the reason why it failed to load.

    Args:
        name: of its entry point
        dist: its distribution; `tstk` for the core
        version: of the distribution
        module: its light module
        entries: empty if loading failed
        load_ms: milliseconds that loading took
        imports_torch: whether loading imported torch, which slows down every command
        error: why loading failed; empty if it did not
    """

    name: str
    dist: str
    version: str
    module: str
    entries: list[Entry] = field(default_factory=list)
    load_ms: float = 0.0
    imports_torch: bool = False
    error: str = ""


@dataclass(frozen=True)
class PluginSource:
    """A plugin before it is loaded.

    Args:
        name: of its entry point
        dist: its distribution; `tstk` for the core
        version: of the distribution
        module: its light module
        load: imports and returns that module
    """

    name: str
    dist: str
    version: str
    module: str
    load: Callable[[], Any]


def discover_plugins(selection: str | None = None) -> list[PluginSource]:
    """Return the installed plugins, the core first.

    Args:
        selection: `none`, or names separated by commas, as in `TSTK_PLUGINS`; None selects all. The core is always kept
    """
    names = None if selection is None else {n.strip() for n in selection.split(",")}
    sources = {}
    for point in metadata.entry_points(group="tstk"):
        is_core = point.value == "tstk.builtin.plugin"  # whatever the distribution is called
        dist = "tstk" if is_core else point.dist.name if point.dist else point.name
        if names is None or dist == "tstk" or names & {dist, point.name}:
            version = point.dist.version if point.dist else ""
            sources[dist, point.value] = PluginSource(point.name, dist, version, point.module, point.load)
    return sorted(sources.values(), key=lambda s: (s.dist != "tstk", s.dist, s.name))


class Registry:
    """The table of entries.

    Args:
        sources: the plugins to load; None for the installed ones that the variable `TSTK_PLUGINS` selects
    """

    def __init__(self, sources: Iterable[PluginSource] | None = None) -> None:
        self._manager = pluggy.PluginManager("tstk")
        self._manager.add_hookspecs(HookSpecs)
        sources = discover_plugins(os.environ.get("TSTK_PLUGINS")) if sources is None else sources
        self.plugins = [self._load_plugin(s) for s in sources]
        self._table: dict[tuple[str, str], list[Entry]] = {}
        for plugin in self.plugins:
            for entry in plugin.entries:
                self._table.setdefault((entry.kind, entry.name), []).append(entry)

    def _load_plugin(self, source: PluginSource) -> Plugin:
        plugin = Plugin(source.name, source.dist, source.version, source.module)
        had_torch, start = "torch" in sys.modules, time.perf_counter()
        with watch_import(source.dist) as interrupted:
            try:
                plugin.entries = self._read_entries(source)
            except BaseException as e:
                if interrupted.is_set() or os.environ.get("TSTK_STRICT") == "1":
                    raise
                plugin.error = " ".join((str(e) if isinstance(e, TstkError) else f"{type(e).__name__}: {e}").split())
                if not isinstance(e, TstkError) and (place := locate_error(e, source.module)):
                    plugin.error += f" ({place})"
        plugin.load_ms = (time.perf_counter() - start) * 1000
        plugin.imports_torch = not had_torch and "torch" in sys.modules
        return plugin

    def _read_entries(self, source: PluginSource) -> list[Entry]:
        """Import the light module of a plugin and return its entries."""
        with redirect_stdout(sys.stderr):  # programs read the results on stdout
            module = source.load()
        self._manager.register(module, f"{source.dist}:{source.name}")
        hooks = [h for h in self._manager.hook.tstk_entries.get_hookimpls() if h.plugin is module]
        if not hooks:
            raise TstkError(f"{source.module} has no function tstk_entries marked with @tstk.hookimpl")
        entries: list[Entry] = []
        for entry in hooks[0].function():  # type: ignore[attr-defined]
            if any((e.kind, e.name) == (entry.kind, entry.name) for e in entries):
                raise TstkError(f"announces the {entry.kind} {entry.name!r} twice")
            entries.append(replace(_validate_entry(entry, source.dist), dist=source.dist))
        return entries

    def add(self, entry: Entry) -> str:
        """Add a component without a plugin, replacing an earlier one of its name; return the name that selects it.

        Raises:
            OptionError: the core has a component of this name
        """
        entries = [e for e in self._table.get((entry.kind, entry.name), []) if e.dist != LOCAL]
        if any(e.dist == "tstk" for e in entries):
            raise OptionError(f"{entry.kind} {entry.name!r} is a component of the core; register yours by another name")
        self._table[entry.kind, entry.name] = [*entries, entry]
        return entry.qualified_name if entries else entry.name

    def list_entries(self, kind: str | None = None) -> list[Entry]:
        """Return the entries of a kind, or all: those of the core first, then by plugin."""
        return [e for (k, _), entries in self._table.items() for e in entries if kind in (None, k)]

    def list_names(self, kind: str) -> list[str]:
        """Return the names that `find` accepts for a kind: short where unambiguous, qualified otherwise."""
        return [
            e.name if self._resolve_short_name(kind, e.name) == [e] else e.qualified_name
            for e in self.list_entries(kind)
        ]

    def _resolve_short_name(self, kind: str, name: str) -> list[Entry]:
        """Return the entries of a short name; the core's takes precedence, so installing a plugin never changes it."""
        entries = self._table.get((kind, name), [])
        return [e for e in entries if e.dist == "tstk"] or entries

    def find(self, kind: str, name: str) -> Entry:
        """Return the entry of this kind and name (short, or `dist/name`).

        Raises:
            UnknownNameError: there is no such entry, or several plugins use the short name
        """
        dist, short = "", name
        matches = self._resolve_short_name(kind, name)
        if not matches and "/" in name:  # the short name of a config may have a slash; a distribution's never does
            dist, _, short = name.partition("/")
            matches = [e for e in self._table.get((kind, short), []) if e.dist == dist]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise UnknownNameError(
                f"Several plugins have the {kind} {short!r}; use the qualified name: "
                + " or ".join(repr(e.qualified_name) for e in matches)
            )
        raise UnknownNameError(self._format_unknown_name(kind, name, dist, short))

    def _format_unknown_name(self, kind: str, name: str, dist: str, short: str) -> str:
        text = f"No {kind} is called {name!r}."
        hint = did_you_mean(name, self.list_names(kind))
        is_name_prefix = any(e.name.startswith(f"{dist}/") for e in self.list_entries(kind))
        if not hint and ":" in name:
            hint = f" An import path is followed only if it is typed: --{kind} {name}, or {kind}={name!r} in Python."
        if not hint and dist == LOCAL:
            hint = f" It belongs to no plugin; give the class: --{kind} MODULE:CLASS, or {kind}=CLASS in Python."
        if not hint and dist and not is_name_prefix and all(p.dist != dist for p in self.plugins):
            hint = f" The plugin {dist} is not installed: pip install {dist}"
        hint = hint or did_you_mean(short, self.list_names(kind))
        if not hint:
            other_kinds = [k for k in KINDS if k != kind and (k, short) in self._table]
            hint = f" {short!r} is a {other_kinds[0]}." if other_kinds else ""
        if not hint and self.list_names(kind):
            hint = f" There are: {', '.join(self.list_names(kind))}."
        broken = [f"{p.dist} ({p.error})" for p in self.plugins if p.error and dist in ("", p.dist)]
        return text + hint + (f" Plugins that failed to load: {'; '.join(broken)}." if broken else "")

    def load(self, entry: Entry) -> Any:
        """Import and return the class or function of an entry.

        Raises:
            TstkError: the target cannot be imported; the message names the missing package, if that is the cause
        """
        if not isinstance(entry.target, str):
            return entry.target
        module, _, attribute = entry.target.partition(":")
        label = f"{entry.kind} {entry.name!r}" + (f" of {entry.dist}" if entry.dist != LOCAL else "")
        try:
            return getattr(import_module(module), attribute)
        except (TstkError, KeyboardInterrupt):
            raise
        except ModuleNotFoundError as e:
            if os.environ.get("TSTK_STRICT") == "1":
                raise
            raise TstkError(
                f"{label} needs the package {e.name!r}, which is not installed: "
                f"pip install {(e.name or '').partition('.')[0]}"
            ) from e
        except BaseException as e:
            if os.environ.get("TSTK_STRICT") == "1":
                raise
            raise TstkError(f"{label} cannot be loaded from {entry.target}: {type(e).__name__}: {e}") from e

    def find_entry_of(self, obj: Any) -> Entry | None:
        """Return the entry whose target is this class or function, or None."""
        target = f"{getattr(obj, '__module__', '')}:{getattr(obj, '__qualname__', '')}"
        return next((e for e in self.list_entries() if e.import_path == target), None)

    def find_providers(self, kind: str, spec_field: str) -> list[str]:
        """Return the names of the entries of a kind that provide a `Spec` field."""
        return [e.name for e in self.list_entries(kind) if spec_field in e.provides]


def is_same_component(a: str, b: str) -> bool:
    """Return whether two names mean the same component, as `tstk/bert` and `bert` do."""
    return a == b if "/" in a and "/" in b else a.rpartition("/")[2] == b.rpartition("/")[2]


def _validate_entry(entry: Any, dist: str) -> Entry:
    if not isinstance(entry, Entry):
        raise TstkError(f"tstk_entries yielded {entry!r}; expected a tstk.Entry")
    if entry.kind not in KINDS:
        raise TstkError(
            f"entry {entry.name!r} has the unknown kind {entry.kind!r}.{did_you_mean(entry.kind, KINDS)} "
            f"There are: {', '.join(KINDS)}."
        )
    if not isinstance(entry.target, str):
        raise TstkError(f"entry {entry.name!r} has the target {entry.target!r}; expected 'package.module:attribute'")
    if dist != "tstk" and entry.interface_version != INTERFACE_VERSION:
        raise TstkError(f"needs interface version {entry.interface_version}, and this tstk has {INTERFACE_VERSION}")
    return entry if isinstance(entry.provides, frozenset) else replace(entry, provides=frozenset(entry.provides))


@cache
def get_registry() -> Registry:
    """Return the registry of this process, creating it on the first call."""
    return Registry()
