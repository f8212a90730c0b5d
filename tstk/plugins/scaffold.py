"""Write a new plugin package from the files in `templates/`; it passes its checks unchanged.

The templates are a working package called `sketch`, whose names are replaced. `templates/all` has the files of every
plugin, `templates/KIND` those that a kind adds.
"""

from __future__ import annotations

import re
from pathlib import Path

from tstk.errors import OptionError, did_you_mean
from tstk.plugins.registry import get_registry

TEMPLATES = Path(__file__).parents[1] / "templates"
TEMPLATE_KINDS = tuple(sorted(path.name for path in TEMPLATES.iterdir() if path.is_dir() and path.name != "all"))
"""The kinds of components for which there is a template."""

_TRIAL_COMMANDS = {
    "data": "tstk data info YOUR-FILE.NAME",
    "decoder": "tstk train --loss masked --decoder NAME --dry-run",
}


def write_plugin(name: str, kind: str, folder: Path) -> list[Path]:
    """Write a plugin package with one working component.

    Args:
        name: of the component; the distribution is called tstk-plugins-NAME
        kind: one of `TEMPLATE_KINDS`
        folder: must not exist yet

    Returns:
        the files written

    Raises:
        OptionError: the kind is unknown, the name is not allowed or taken, or the folder exists
    """
    name = name.removeprefix("tstk-plugins-")
    if kind not in TEMPLATE_KINDS:
        raise OptionError(
            f"--kind {kind}: expected one of {', '.join(TEMPLATE_KINDS)}.{did_you_mean(kind, TEMPLATE_KINDS)}"
        )
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        suggestion = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-0123456789")
        hint = suggestion and f", such as {suggestion!r}"
        raise OptionError(f"{name!r} cannot be the name of a {kind}; expected lower case with hyphens{hint}")
    if namesakes := [e for e in get_registry().list_entries(kind) if e.name == name]:
        raise OptionError(f"{namesakes[0].dist} already has a {kind} {name!r}; choose another name")
    if folder.exists():
        raise OptionError(f"{folder} already exists; choose another name or remove it")
    trial = _TRIAL_COMMANDS.get(kind, f"tstk train --{kind} NAME --dry-run").replace("NAME", name)
    replacements = {
        "tstk_plugins_sketch": f"tstk_plugins_{name.replace('-', '_')}",
        "Sketch": "".join(part.capitalize() for part in name.split("-")),
        "sketch": name,
        "KIND": kind,
        "TRY": trial,
    }
    paths = []
    for template, relative_path in _list_templates(kind):
        inner = "/".join(_substitute(part, replacements).replace("dot_", ".") for part in relative_path.parts)
        path = folder / inner
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_substitute(template.read_text(encoding="utf-8"), replacements), encoding="utf-8")
        paths.append(path)
    return paths


def _list_templates(kind: str) -> list[tuple[Path, Path]]:
    """Return the template files of a kind, each with its path inside the new package."""
    roots = (TEMPLATES / "all", TEMPLATES / kind)
    files = [(path, path.relative_to(root)) for root in roots for path in root.rglob("*")]
    return sorted((p, relative) for p, relative in files if p.is_file() and "__pycache__" not in p.parts)


def _substitute(text: str, replacements: dict[str, str]) -> str:
    return re.sub("|".join(replacements), lambda match: replacements[match[0]], text)
