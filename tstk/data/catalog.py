"""Where data lie: from a name, a file or a folder to the files to read, and from a file to its reader.

A *name* is that of the embedded set or of anything under the data root (an option, or the variable TSTK_DATA).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tstk.data.download import NAME, fetched
from tstk.errors import DataError, NameUnknown, did_you_mean
from tstk.plugins.registry import Entry, registry

DEMO = Path(__file__).parent / "demo" / "har_demo.npz"
SYNTHETIC = "synthetic"
"""Name of the data that are generated."""
ALIASES = {"har": "uci-har", "illness": "national-illness"}
PARTS = ("train", "val", "test")
ARRAYS = ("X", "x", "data", "samples")
"""Names of the array that holds the series, in an archive or as a file of its own."""
DEPTH = 2
"""How many folders deep under the root a set may lie: root/ucr/GunPoint/GunPoint_TRAIN.ts."""

VAL_FRACTION = 0.2
"""Share of the training part that validates unless something else is said."""

END = re.compile(r"(?:^|[_-])(train|val|test)$", re.IGNORECASE)
"""How the name of a file ends that holds one part; it may be all of the name, and the set has that of the folder."""


class Row(NamedTuple):
    """One line of `tstk data list`: a name, where it lies, and what is there, as "train+test .ts"."""

    name: str
    path: Path
    kind: str


@dataclass
class Found:
    """The files of one data set.

    Args:
        name: what to call it
        files: part ("train", "val", "test") -> file; a file that is not of a pair counts as "train"
    """

    name: str
    files: dict[str, Path]

    @property
    def row(self) -> Row:
        """The set as a line of a listing."""
        path = next(iter(self.files.values()))
        parts = "+".join(self.files) if END.search(path.stem) else "one file"
        return Row(self.name, path, f"{parts}, {path.suffix}")


def reader_for(path: Path) -> Callable[..., Any]:
    """The function that reads this file: `read(path, *, label=None) -> dict[str, Raw] | Table`.

    Raises:
        DataError: nobody reads this suffix, or two plugins do
    """
    readers = _readers()
    if not (entries := readers.get(path.suffix.lower())):
        kind = path.suffix or "files without a suffix"
        raise DataError(f"{path}: nobody reads {kind}; readable are {', '.join(readers)}")
    own = [e for e in entries if e.dist == "tstk"]
    if len(own or entries) > 1:
        names = " and ".join(e.qualified for e in entries)
        raise DataError(f"{path}: {names} read {path.suffix}; leave one out with the variable TSTK_PLUGINS")
    return registry().load((own or entries)[0])


def _readers() -> dict[str, list[Entry]]:
    """Suffix -> the entries of kind "data" that read it; the core's own goes before plugins'."""
    found: dict[str, list[Entry]] = {}
    for entry in registry().entries("data"):
        for suffix in sorted(entry.provides):
            found.setdefault(suffix, []).append(entry)
    return found


def available(data_root: str | None = None) -> list[Row]:
    """Everything that has a name: the embedded set, what lies under the root, and what was fetched.

    Args:
        data_root: folder to look in; None means the variable TSTK_DATA, or the embedded set alone
    """
    return [Row("har-demo", DEMO, "embedded"), *(found.row for found in _named(_root(data_root)))]


def locate(use: str, data_root: str | None = None) -> Found:
    """The files that `use` means.

    Args:
        use: a name, a file, one file of a TRAIN/TEST pair, or a folder with one data set in it
        data_root: as for `available`

    Raises:
        NameUnknown: no data set has this name
        DataError: the file or folder is missing, unreadable, or holds none or several data sets
    """
    path = Path(use).expanduser()
    if path.suffix.lower() in _readers() or path.is_file() or len(path.parts) != 1:
        return _at(path)
    root = _root(data_root)
    sets = [Found("har-demo", {"train": DEMO}), *_named(root)]
    alias = ALIASES.get(_key(use), use)
    for name, same in ((use, str), (use, str.lower), (use, _key), (alias, _key)):  # the strictest meaning first
        matches = [found for found in sets if same(found.name) == same(name)]
        if len(matches) > 1:
            raise DataError(f"{use}: more than one data set; name one: {', '.join(map(_first, matches))}")
        if matches:
            return matches[0]
    if path.is_dir():
        return _at(path)
    where = f"under {root}" if root else "nowhere else, for want of a root: give --data-root FOLDER or set TSTK_DATA"
    hint = did_you_mean(use, [*(found.name for found in sets), *ALIASES, SYNTHETIC])
    public = f"; a public set comes by: tstk data fetch {use}" if NAME.fullmatch(use) and not hint else ""
    raise NameUnknown(f"no data set is called {use!r}.{hint} Looked at the embedded set and {where}{public}")


def _named(root: Path | None) -> list[Found]:
    """What lies under the root, then what was fetched and is not there."""
    sets = list(_under(root))
    have = {found.name for found in sets}
    here = fetched() if fetched().is_dir() else None
    return [*sets, *(found for found in _under(here) if found.name not in have)]


def _key(name: str) -> str:
    return name.lower().replace("_", "-")


def _root(data_root: str | None) -> Path | None:
    given = data_root or os.environ.get("TSTK_DATA")
    if not given:
        return None
    root = Path(given).expanduser()
    if not root.is_dir():
        named = "--data-root" if data_root else "TSTK_DATA"
        raise DataError(f"{named} {given}: there is no such folder")
    return root


def _at(path: Path) -> Found:
    """The data set at a path."""
    if path.is_dir():
        sets = _in(path)
        if not sets:
            raise DataError(f"{path}: no data in this folder; looked for *{', *'.join(_readers())}")
        if len(sets) > 1:
            raise DataError(f"{path}: several data sets; name one: {', '.join(map(_first, sets))}")
        return sets[0]
    if not path.is_file():
        raise DataError(f"{path}: there is no such file or folder")
    reader_for(path)
    if END.search(path.stem) is None and path.suffix.lower() != ".npy":
        return Found(path.stem, {"train": path})
    return next(
        (found for found in _in(path.parent) if path in found.files.values()), Found(path.stem, {"train": path})
    )


def _first(found: Found) -> str:
    return str(found.row.path)


def _in(folder: Path) -> list[Found]:
    """The data sets whose files lie in this very folder."""
    sets: dict[tuple[str, str], Found] = {}
    for path in sorted(folder.iterdir()):
        end = END.search(path.stem)
        if path.suffix.lower() not in _readers() or not path.is_file():
            continue
        if path.suffix.lower() == ".txt" and end is None:
            continue  # a text file is data only if its name says so
        name = END.sub("", path.stem) or folder.resolve().name
        if path.suffix.lower() == ".npy":
            if name not in ARRAYS:
                continue  # labels and the like, which are read with their X
            name = folder.resolve().name
        found = sets.setdefault((name, path.suffix if end else f"alone{path.suffix}"), Found(name, {}))
        found.files[end[1].lower() if end else "train"] = path
    for found in sets.values():
        found.files = {part: found.files[part] for part in PARTS if part in found.files}
    return list(sets.values())


def _under(root: Path | None, depth: int = DEPTH) -> Iterator[Found]:
    if root is None:
        return
    yield from _in(root)
    if depth:
        for folder in sorted(root.iterdir()):
            if folder.is_dir() and not folder.name.startswith("."):
                yield from _under(folder, depth - 1)
