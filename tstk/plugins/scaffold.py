"""`write`: a plugin that works before a line is changed, from the files in `templates/`.

The templates are a real package called `sketch`; only its names are replaced. `templates/all` is what every plugin has,
`templates/KIND` what this kind adds.
"""

from __future__ import annotations

import re
from pathlib import Path

from tstk.errors import OptionError, did_you_mean
from tstk.plugins.registry import registry

TEMPLATES = Path(__file__).parents[1] / "templates"
KINDS = tuple(sorted(path.name for path in TEMPLATES.iterdir() if path.is_dir() and path.name != "all"))
"""The kinds that `write` knows."""

_TRY = {
    "data": "tstk data info YOUR-FILE.NAME",
    "decoder": "tstk train --loss masked --decoder NAME --dry-run",
}


def write(name: str, kind: str, folder: Path) -> list[Path]:
    """Write a plugin package with one working part.

    Args:
        name: of the part, and in its distribution's name, tstk-plugins-NAME
        kind: one of `KINDS`
        folder: must not exist yet

    Returns:
        the files written

    Raises:
        OptionError: the name cannot be, is taken, or something is in the folder's place
    """
    name = name.removeprefix("tstk-plugins-")
    if kind not in KINDS:
        raise OptionError(f"--kind {kind}: expected one of {', '.join(KINDS)}.{did_you_mean(kind, KINDS)}")
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        near = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-0123456789")
        raise OptionError(
            f"{name!r} cannot be the name of a {kind}; expected lower case with hyphens{near and f', such as {near!r}'}"
        )
    if taken := [e for e in registry().entries(kind) if e.name == name]:
        raise OptionError(f"there is a {kind} {name!r} already, of {taken[0].dist}; choose another name")
    if folder.exists():
        raise OptionError(f"{folder}: something is there already; choose another name or remove it")
    trial = _TRY.get(kind, f"tstk train --{kind} NAME --dry-run").replace("NAME", name)
    words = {
        "tstk_plugins_sketch": f"tstk_plugins_{name.replace('-', '_')}",
        "Sketch": "".join(part.capitalize() for part in name.split("-")),
        "sketch": name,
        "KIND": kind,
        "TRY": trial,
    }
    written = []
    for source in _files(kind):
        inner = "/".join(_replaced(part, words).replace("dot_", ".") for part in source[1].parts)
        path = folder / inner
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_replaced(source[0].read_text(encoding="utf-8"), words), encoding="utf-8")
        written.append(path)
    return written


def _files(kind: str) -> list[tuple[Path, Path]]:
    """The templates of a kind, and where each goes."""
    found = [
        (path, path.relative_to(root)) for root in (TEMPLATES / "all", TEMPLATES / kind) for path in root.rglob("*")
    ]
    return sorted((p, to) for p, to in found if p.is_file() and "__pycache__" not in p.parts)


def _replaced(text: str, words: dict[str, str]) -> str:
    return re.sub("|".join(words), lambda found: words[found[0]], text)
