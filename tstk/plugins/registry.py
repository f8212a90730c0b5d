"""Everything that has a name: one record, one table, loaded only when used.

Discovery reads light modules of literals (`plugin.py`) through the entry-point group `tstk`; each plugin is
loaded in a try of its own, and one that fails becomes a row that says why. Nothing here imports torch.
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

from tstk.errors import NameUnknown, TstkError, did_you_mean
from tstk.plugins.hooks import INTERFACE_VERSION, Specs

SLOTS = ("tokenizer", "encoder", "decoder", "head", "loss")
KINDS = (*SLOTS, "data", "config", "recipe", "command", "callback", "kernel")


@dataclass(frozen=True)
class Entry:
    """A named thing that is loaded when it is used.

    Args:
        kind: one of `KINDS`
        name: what people type, lower case with hyphens
        target: `package.module:attribute`, or `package:path/inside/it` for a file such as a config
        summary: one line, shown in lists
        provides: for a component, the `Spec` fields it sets; for a data reader, the file suffixes it reads
        paper: where the idea was published
        interface_version: version of the slot interfaces it was written for
        dist: the distribution it came from, `tstk` if it is part of the core; filled in by the registry
    """

    kind: str
    name: str
    target: str
    summary: str
    provides: frozenset[str] = frozenset()
    paper: str = ""
    interface_version: int = 1  # never the host's: an old plugin that does not say is of version 1
    dist: str = ""

    @property
    def qualified(self) -> str:
        """`dist/name`, which always works and is what a saved config records."""
        return f"{self.dist}/{self.name}"


@dataclass
class Plugin:
    """One installed plugin, working or not."""

    name: str
    dist: str
    version: str
    module: str
    entries: list[Entry] = field(default_factory=list)
    milliseconds: float = 0.0
    heavy: bool = False
    error: str = ""


@dataclass(frozen=True)
class Source:
    """Where a plugin is to be found: its names, and a function that imports its light module."""

    name: str
    dist: str
    version: str
    module: str
    load: Callable[[], Any]


def installed() -> list[Source]:
    """The plugins that this environment announces, filtered by `TSTK_PLUGINS` (`none`, or names)."""
    chosen = os.environ.get("TSTK_PLUGINS")
    names = None if chosen is None else {n.strip() for n in chosen.split(",")}
    found = {}
    for point in metadata.entry_points(group="tstk"):
        core = point.value == "tstk.builtin.plugin"  # whatever it was installed as
        dist = "tstk" if core else point.dist.name if point.dist else point.name
        if names is None or dist == "tstk" or names & {dist, point.name}:
            version = point.dist.version if point.dist else ""
            found[dist, point.value] = Source(point.name, dist, version, point.module, point.load)
    return sorted(found.values(), key=lambda s: (s.dist != "tstk", s.dist, s.name))


class Registry:
    """The table of entries.

    Args:
        sources: the plugins to read; None means those installed
    """

    def __init__(self, sources: Iterable[Source] | None = None) -> None:
        self._manager = pluggy.PluginManager("tstk")
        self._manager.add_hookspecs(Specs)
        self.plugins = [self._read(s) for s in (installed() if sources is None else sources)]
        self._table: dict[tuple[str, str], list[Entry]] = {}
        for plugin in self.plugins:
            for entry in plugin.entries:
                self._table.setdefault((entry.kind, entry.name), []).append(entry)

    def _read(self, source: Source) -> Plugin:
        plugin = Plugin(source.name, source.dist, source.version, source.module)
        had_torch, start = "torch" in sys.modules, time.perf_counter()
        try:
            with redirect_stdout(sys.stderr):  # stdout is for results, which programs read
                module = source.load()
            self._manager.register(module, f"{source.dist}:{source.name}")
            own = [h for h in self._manager.hook.tstk_entries.get_hookimpls() if h.plugin is module]
            if not own:
                raise TstkError(f"{source.module} has no function tstk_entries marked with @tstk.hookimpl")
            for entry in own[0].function():  # type: ignore[attr-defined]
                if any((e.kind, e.name) == (entry.kind, entry.name) for e in plugin.entries):
                    raise TstkError(f"announces the {entry.kind} {entry.name!r} twice")
                plugin.entries.append(replace(_checked(entry, source.dist), dist=source.dist))
        except (Exception, SystemExit) as e:
            if os.environ.get("TSTK_STRICT") == "1":
                raise
            plugin.entries = []
            plugin.error = " ".join((str(e) if isinstance(e, TstkError) else f"{type(e).__name__}: {e}").split())
        plugin.milliseconds = (time.perf_counter() - start) * 1000
        plugin.heavy = not had_torch and "torch" in sys.modules
        return plugin

    def entries(self, kind: str | None = None) -> list[Entry]:
        """All entries of a kind (or all), in the order of listing: core first, then by plugin."""
        return [e for (k, _), found in self._table.items() for e in found if kind in (None, k)]

    def names(self, kind: str) -> list[str]:
        """The names that work for a kind: short where unique, qualified where not."""
        return [e.name if self._meant(kind, e.name) == [e] else e.qualified for e in self.entries(kind)]

    def _meant(self, kind: str, name: str) -> list[Entry]:
        """What a short name means: the core's own where it has one, or no plugin could be installed without fear."""
        found = self._table.get((kind, name), [])
        return [e for e in found if e.dist == "tstk"] or found

    def find(self, kind: str, name: str) -> Entry:
        """The entry of this kind and name (short, or `dist/name`).

        Raises:
            NameUnknown: no such entry, or several plugins use the short name
        """
        dist, short = "", name
        found = self._meant(kind, name)
        if not found and "/" in name:  # a config's own name may have a slash, a distribution's never does
            dist, _, short = name.partition("/")
            found = [e for e in self._table.get((kind, short), []) if e.dist == dist]
        if len(found) == 1:
            return found[0]
        if found:
            raise NameUnknown(
                f"Several plugins have the {kind} {short!r}; say which: "
                + " or ".join(repr(e.qualified) for e in found)
            )
        raise NameUnknown(self._unknown(kind, name, dist, short))

    def _unknown(self, kind: str, name: str, dist: str, short: str) -> str:
        text = f"No {kind} is called {name!r}."
        hint = did_you_mean(name, self.names(kind))
        folder = any(e.name.startswith(f"{dist}/") for e in self.entries(kind))
        if not hint and dist and not folder and all(p.dist != dist for p in self.plugins):
            hint = f" The plugin {dist} is not installed: pip install {dist}"
        hint = hint or did_you_mean(short, self.names(kind))
        if not hint:
            elsewhere = [k for k in KINDS if k != kind and (k, short) in self._table]
            hint = f" {short!r} is a {elsewhere[0]}." if elsewhere else ""
        if not hint and self.names(kind):
            hint = f" There are: {', '.join(self.names(kind))}."
        broken = [f"{p.dist} ({p.error})" for p in self.plugins if p.error and dist in ("", p.dist)]
        return text + hint + (f" Plugins that failed to load: {'; '.join(broken)}." if broken else "")

    def load(self, entry: Entry) -> Any:
        """The class or function behind an entry, imported now.

        Raises:
            TstkError: the target cannot be imported; the message names the missing package if that is why
        """
        module, _, attribute = entry.target.partition(":")
        try:
            return getattr(import_module(module), attribute)
        except TstkError:
            raise
        except ModuleNotFoundError as e:
            if os.environ.get("TSTK_STRICT") == "1":
                raise
            raise TstkError(
                f"{entry.kind} {entry.name!r} of {entry.dist} needs the package {e.name!r}, "
                f"which is not installed: pip install {(e.name or '').partition('.')[0]}"
            ) from e
        except (Exception, SystemExit) as e:
            if os.environ.get("TSTK_STRICT") == "1":
                raise
            raise TstkError(
                f"{entry.kind} {entry.name!r} of {entry.dist} cannot be loaded from {entry.target}: "
                f"{type(e).__name__}: {e}"
            ) from e

    def entry_of(self, thing: Any) -> Entry | None:
        """The entry whose target is this class or function, if it has one."""
        target = f"{getattr(thing, '__module__', '')}:{getattr(thing, '__qualname__', '')}"
        return next((e for e in self.entries() if e.target == target), None)

    def providers(self, kind: str, what: str) -> list[str]:
        """Names of the entries of a kind that provide a `Spec` field."""
        return [e.name for e in self.entries(kind) if what in e.provides]


def same(a: str, b: str) -> bool:
    """Two names of components mean the same: `tstk/bert` and `bert` do."""
    return a == b if "/" in a and "/" in b else a.rpartition("/")[2] == b.rpartition("/")[2]


def _checked(entry: Any, dist: str) -> Entry:
    if not isinstance(entry, Entry):
        raise TstkError(f"tstk_entries yielded {entry!r}; expected a tstk.Entry")
    if entry.kind not in KINDS:
        raise TstkError(
            f"entry {entry.name!r} has the kind {entry.kind!r};{did_you_mean(entry.kind, KINDS)} "
            f"there are: {', '.join(KINDS)}"
        )
    if dist != "tstk" and entry.interface_version != INTERFACE_VERSION:
        raise TstkError(f"needs interface version {entry.interface_version}, and this tstk has {INTERFACE_VERSION}")
    return entry if isinstance(entry.provides, frozenset) else replace(entry, provides=frozenset(entry.provides))


@cache
def registry() -> Registry:
    """The registry of this process, made when first asked for."""
    return Registry()
