"""What is wrong with a plugin, seen without importing its parts: `tstk plugins list` shows it.

Faults keep something from working. A plugin may have several, and none of them is anybody else's.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from tstk.config.resolve import shipped
from tstk.errors import TstkError
from tstk.plugins.distribution import distribution_of
from tstk.plugins.registry import Entry, Plugin, registry
from tstk.plugins.signature import source_file

SLOW = 200.0
"""Milliseconds of import from which a plugin is called slow: every command waits for it."""


def faults(plugin: Plugin) -> list[str]:
    """A line per fault: why it failed to load, packages it lacks, entries that point nowhere, names it cannot have."""
    lacking = [
        f"needs {u.need}, "
        + (f"and {u.installed} is installed" if u.installed else f"which is not installed: pip install {u.name}")
        for u in unmet(plugin.dist)
    ]
    if plugin.error:
        return [f"failed to load: {plugin.error}", *lacking]
    lost = [f"{e.kind} {e.name!r}: {why}" for e in plugin.entries if (why := _astray(e))]
    return [*lacking, *lost, *_clashes(plugin)]


def burdens(plugin: Plugin) -> list[str]:
    """What makes everybody wait: torch imported for a list of names, or an import that takes long."""
    found = []
    if plugin.heavy:
        found.append("imports torch when it is listed, which makes every command slow")
    if plugin.milliseconds >= SLOW and plugin.dist != "tstk":
        found.append(f"takes {plugin.milliseconds / 1000:.1f} s to import, and every command waits for it")
    return found


def licence(dist: str) -> str:
    """A distribution's licence, as short as it says it."""
    try:
        about = metadata.metadata(distribution_of(dist))
    except metadata.PackageNotFoundError:
        return ""
    told = next((about[key] for key in ("License-Expression", "License") if key in about), "")
    return (told.splitlines() or [""])[0]


@dataclass(frozen=True)
class Unmet:
    """A requirement that the installed packages do not meet.

    Args:
        name: of the distribution that is required
        need: the requirement, such as `numpy>=1.26`
        installed: its version here, empty if there is none
    """

    name: str
    need: str
    installed: str


def unmet(dist: str, extra: str = "") -> list[Unmet]:
    """Compare what a distribution requires, or what one of its extras adds to that, with what is installed."""
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        required = metadata.requires(distribution_of(dist)) or []
    except metadata.PackageNotFoundError:
        return []
    found = []
    for text in required:
        try:
            want = Requirement(text)
        except InvalidRequirement:
            continue
        always = want.marker is None or want.marker.evaluate({"extra": ""})
        wanted = always if not extra else not always and bool(want.marker and want.marker.evaluate({"extra": extra}))
        have = installed_version(want.name)
        if wanted and not (have and want.specifier.contains(have, prereleases=True)):
            found.append(Unmet(want.name, f"{want.name}{want.specifier}", have))
    return found


def installed_version(dist: str) -> str:
    """Return the version of a distribution, or nothing if it is not installed."""
    try:
        return metadata.version(dist)
    except metadata.PackageNotFoundError:
        return ""


def _astray(entry: Entry) -> str:
    """Why an entry's target cannot be, if it cannot."""
    module, _, name = entry.target.partition(":")
    try:
        if entry.kind in ("config", "recipe"):
            path = shipped(entry)
            return "" if path.is_file() else f"there is no file {path}"
        return "" if _names(source_file(module), name) else f"{module} has no {name!r}"
    except SyntaxError as e:
        return f"{module}, line {e.lineno}: {e.msg}"
    except (TstkError, OSError) as e:
        return str(e)


def _names(path: Path, name: str) -> bool:
    """Whether a module's source binds a name at its top."""
    if path.suffix != ".py":
        return True
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        bound = {getattr(node, "name", "")}
        if isinstance(node, ast.Import | ast.ImportFrom):
            bound |= {alias.asname or alias.name for alias in node.names}
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        bound |= {t.id for t in targets if isinstance(t, ast.Name)}
        if name in bound or isinstance(node, ast.If | ast.Try):
            return True
    return False


def _clashes(plugin: Plugin) -> list[str]:
    found = []
    for entry in plugin.entries:
        others = [e for e in registry().entries(entry.kind) if e.name == entry.name and e.dist != entry.dist]
        if others and entry.dist != "tstk":
            owners = ", ".join(e.dist for e in others)
            found.append(f"{entry.kind} {entry.name!r} is also a name of {owners}; this one is {entry.qualified!r}")
    return found
