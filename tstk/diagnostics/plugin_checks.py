"""Faults of installed plugins, found without importing their components; shown by `tstk plugins list`."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata

from tstk.config.resolve import get_entry_file
from tstk.errors import TstkError
from tstk.plugins.distribution import get_distribution
from tstk.plugins.hooks import Entry
from tstk.plugins.location import find_definition_line, find_source_file
from tstk.plugins.registry import Plugin, PluginSource, get_registry

SLOW_IMPORT_MS = 200.0
"""Import time in milliseconds from which a plugin is reported as slow, as every command waits for it."""
IMPORT_LIMIT_SECONDS = 20.0
"""Time after which the import of a plugin in a process of its own is taken to hang."""


def find_faults(plugin: Plugin) -> list[str]:
    """Return one line per fault: load error, unmet requirements, missing targets of entries, name clashes."""
    unmet = [
        f"needs {u.requirement}, "
        + (f"and {u.installed} is installed" if u.installed else f"which is not installed: pip install {u.name}")
        for u in find_unmet_requirements(plugin.dist)
    ]
    if plugin.error:
        return [f"failed to load: {plugin.error}", *unmet]
    bad_targets = [f"{e.kind} {e.name!r}: {why}" for e in plugin.entries if (why := _explain_bad_target(e))]
    return [*unmet, *bad_targets, *_find_name_clashes(plugin)]


def find_import_costs(plugin: Plugin) -> list[str]:
    """Return one line per reason why importing `plugin.py` slows down every command."""
    costs = []
    if plugin.imports_torch:
        costs.append("imports torch in plugin.py, which makes every command slow")
    if plugin.load_ms >= SLOW_IMPORT_MS and plugin.dist != "tstk":
        costs.append(f"takes {plugin.load_ms / 1000:.1f} s to import, and every command waits for it")
    return costs


def try_import(source: PluginSource) -> str:
    """Import a plugin in a process of its own; return why it takes a program down, or "" if it does not."""
    code = "from tstk.plugins.registry import get_registry as g; print('loaded', *(p.error for p in g().plugins))"
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", code],
            env={**os.environ, "TSTK_PLUGINS": source.dist, "TSTK_STRICT": "0"},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=IMPORT_LIMIT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"was not imported within {IMPORT_LIMIT_SECONDS:g} s"
    if done.returncode or not done.stdout.startswith("loaded"):
        return f"ends the process at import, with exit code {done.returncode}"
    return done.stdout.removeprefix("loaded").strip()


def read_licence(dist: str) -> str:
    """Return the licence of a distribution, first line only; "" if unknown."""
    try:
        fields = metadata.metadata(get_distribution(dist))
    except metadata.PackageNotFoundError:
        return ""
    licence = next((fields[key] for key in ("License-Expression", "License") if key in fields), "")
    return (licence.splitlines() or [""])[0]


@dataclass(frozen=True)
class UnmetRequirement:
    """A requirement that the installed packages do not meet.

    Args:
        name: required distribution
        requirement: requirement, such as `numpy>=1.26`
        installed: installed version; empty if there is none
    """

    name: str
    requirement: str
    installed: str


def find_unmet_requirements(dist: str, extra: str = "") -> list[UnmetRequirement]:
    """Return the unmet requirements of a distribution, or those that one of its extras adds."""
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        requirements = metadata.requires(get_distribution(dist)) or []
    except metadata.PackageNotFoundError:
        return []
    unmet = []
    for text in requirements:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        marker = requirement.marker
        is_base = marker is None or marker.evaluate({"extra": ""})
        applies = is_base if not extra else not is_base and bool(marker and marker.evaluate({"extra": extra}))
        installed = get_installed_version(requirement.name)
        if applies and not (installed and requirement.specifier.contains(installed, prereleases=True)):
            unmet.append(UnmetRequirement(requirement.name, f"{requirement.name}{requirement.specifier}", installed))
    return unmet


def get_installed_version(dist: str) -> str:
    """Return the version of a distribution; "" if it is not installed."""
    try:
        return metadata.version(dist)
    except metadata.PackageNotFoundError:
        return ""


def _explain_bad_target(entry: Entry) -> str:
    """Return why the target of an entry does not exist; "" if it does."""
    module, _, name = entry.import_path.partition(":")
    try:
        if entry.kind in ("config", "recipe"):
            path = get_entry_file(entry)
            return "" if path.is_file() else f"the file {path} does not exist"
        source = find_source_file(module)
        return "" if find_definition_line(source, name) else f"{source} has no {name!r}"
    except SyntaxError as e:
        return f"{module}, line {e.lineno}: {e.msg}"
    except (TstkError, OSError) as e:
        return str(e)


def _find_name_clashes(plugin: Plugin) -> list[str]:
    clashes = []
    for entry in plugin.entries:
        others = [e for e in get_registry().list_entries(entry.kind) if e.name == entry.name and e.dist != entry.dist]
        if others and entry.dist != "tstk":
            owners = ", ".join(e.dist for e in others)
            clashes.append(f"{entry.kind} {entry.name!r} is also defined by {owners}; use {entry.qualified_name!r}")
    return clashes
