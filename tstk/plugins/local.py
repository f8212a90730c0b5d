"""Components without a plugin: a class in a script, a notebook or a module becomes an entry of this process.

`tstk.fit(encoder=MyEncoder)`, `--encoder my.py:MyEncoder` and `@tstk.register("encoder", "mine")` all add an `Entry` of
the distribution `local` to the registry, under the registered name or else the name of the class. A run records where
the class was; whoever loads the run gives the class again, since an import path that was read from a file is never
followed.
"""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import Any, TypeVar

from tstk.errors import CheckpointError, OptionError, TstkError, UnknownNameError, did_you_mean
from tstk.plugins.hooks import LOCAL, SLOTS, Entry
from tstk.plugins.location import find_source_file
from tstk.plugins.registry import get_registry
from tstk.plugins.signature import is_literal, read_registrations, read_signature

T = TypeVar("T", bound=type)
_IMPORT_PATH = re.compile(r"[^:]+:[A-Za-z_]\w*")
_RECORD_KEYS = ("kind", "name", "class", "module", "file", "sha256")

Records = Mapping[str, Mapping[str, str]]
"""Dotted path of a component in a config -> kind, name, class, module, file and hash of its class."""


class ImportPath(str):
    """`module:Class` or `file.py:Class`, as typed by the user; text that was read from a file never becomes one."""


def mark_import_path(value: Any) -> Any:
    """Return a value that the user typed, as an `ImportPath` if it is written as one."""
    return ImportPath(value) if isinstance(value, str) and _IMPORT_PATH.fullmatch(value) else value


def register(kind: str, name: str) -> Callable[[T], T]:
    """Register a class as a component of this process: `@tstk.register("encoder", "mine")`.

    Args:
        kind: tokenizer, encoder, decoder, head or loss
        name: by which it is selected, as in `tstk.fit(encoder="mine", encoder__depth=3)`

    Raises:
        OptionError: there is no such kind, the class is of another kind, or the name is one of the core's
    """

    def decorate(cls: T) -> T:
        register_component(kind, cls, name)
        return cls

    return decorate


def register_component(kind: str, component: type | ImportPath, name: str = "") -> str:
    """Add a class, or the class at an import path, to the registry of this process, and return its name.

    A later class of the same name replaces it. With an import path, the other classes that its module registers can be
    selected too.

    Args:
        kind: tokenizer, encoder, decoder, head or loss
        component: a class, or its import path, which is imported when it is first used
        name: by which it is selected; if empty, the name by which it or its plugin registered it, or that of the class

    Raises:
        OptionError: it is not a component of this kind
    """
    target: Any = component
    if isinstance(component, ImportPath):
        target = _locate(component)
        for other in read_registrations(target.partition(":")[0]):
            _add(*other, label=f"{component}: {other[0]} {other[1]!r}")
    return _add(kind, name, target, f"{kind} {getattr(component, '__name__', component)}")


def _add(kind: str, name: str, target: Any, label: str) -> str:
    """Add a class, or the class that `module:Class` stands for, to the registry, and return its name."""
    if kind not in SLOTS:
        raise OptionError(f"there is no slot {kind!r}.{did_you_mean(kind, SLOTS)} There are: {', '.join(SLOTS)}.")
    mismatch = OptionError(f"{label}: expected a class derived from tstk.{kind.capitalize()}")
    if not isinstance(target, str) and (not isinstance(target, type) or getattr(target, "kind", "") != kind):
        raise mismatch
    path = Entry(kind, name, target, "").import_path
    known = [e for e in get_registry().list_entries(kind) if e.import_path == path]
    if not name and (plugin_names := [e.qualified_name for e in known if e.dist != LOCAL]):
        return plugin_names[0]
    try:
        signature = read_signature(target)
    except TstkError as e:
        raise OptionError(f"{label}: {e}") from None
    if signature.class_attrs.get("kind") != kind:
        raise mismatch
    name = name or (known[0].name if known else re.split(r"[:.]", path)[-1])
    if not re.fullmatch(r"\w[\w.+-]*", name):
        raise OptionError(f"{kind} {name!r}: a name has letters, digits, hyphens and underscores")
    provides = frozenset(signature.class_attrs.get("provides", ()))
    return get_registry().add(Entry(kind, name, target, signature.summary, provides, dist=LOCAL))


def _locate(path: ImportPath) -> str:
    """Return `module:Class` of an import path, and make the module importable."""
    module, _, name = path.rpartition(":")
    folder, file = Path.cwd(), None
    if module.endswith(".py"):
        file = Path(module).expanduser().resolve()
        if not file.is_file():
            raise OptionError(f"{path}: there is no file {module}")
        folder, module = file.parent, file.stem
    with _importable_from(folder):
        try:
            source = find_source_file(module).resolve()
        except (TstkError, ValueError):
            raise OptionError(f"{path}: there is no module {module!r} in {folder} or installed") from None
        if file is not None and source != file:
            raise OptionError(f"{path}: Python already has a module {module!r}, {source}; rename the file")
    return f"{module}:{name}"


@contextmanager
def _importable_from(folder: Path) -> Iterator[None]:
    """Put a folder first in `sys.path`, and take it out again if the block fails."""
    before = list(sys.path)
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        yield
    except OptionError:
        sys.path[:] = before
        raise


def is_local(kind: str, name: str) -> bool:
    """Return whether a component belongs to no plugin."""
    return get_registry().find(kind, name).dist == LOCAL


def describe_component(kind: str, name: str) -> dict[str, str] | None:
    """Return what a run records of a local component; None for one of a plugin."""
    entry = get_registry().find(kind, name)
    if entry.dist != LOCAL:
        return None
    cls = get_registry().load(entry)
    try:
        file = Path(inspect.getsourcefile(cls) or "")
        file = file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file
    except (TypeError, OSError):  # in a notebook
        file = Path()
    place = (cls.__qualname__, cls.__module__, file.as_posix() if file.name else "")
    return dict(zip(_RECORD_KEYS, (kind, entry.name, *place, hash_source(cls)), strict=True))


def hash_source(cls: type) -> str:
    """Return the SHA-256 of the methods and literal attributes of a class; empty if there is no source."""
    parts = []
    for name, value in sorted(vars(cls).items()):
        if inspect.isfunction(inspect.unwrap(value)):
            try:
                parts.append(textwrap.dedent(inspect.getsource(value)))
            except (OSError, TypeError, SyntaxError, TokenError):  # as in a notebook
                return ""
        elif not name.startswith("__") and is_literal(value):
            parts.append(f"{name} = {value!r}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def read_records(run: str | Path, records: Any) -> Records:
    """Return the records of a run's local components, checked.

    Raises:
        CheckpointError: config.json was changed by hand
    """
    rows = records.values() if isinstance(records, dict) else [None]
    texts = [r.get(k) if isinstance(r, dict) else None for r in rows for k in _RECORD_KEYS]
    if not all(isinstance(text, str) and text.isprintable() for text in texts):
        raise CheckpointError(f"{run}: config.json was changed by hand; train the run again")
    return records


def provide_components(run: str | Path, records: Any, components: Mapping[str, Any]) -> None:
    """Register classes under the names by which a run recorded its local components.

    Args:
        run: the run directory, for messages
        records: of its local components, from its config.json
        components: slot -> class or import path; `encoder__inner` is the `inner` of the encoder

    Raises:
        OptionError: the run has no local component there
    """
    records = read_records(run, records)
    for key, component in components.items():
        path = key.replace("__", ".")
        if path not in records:
            slots = f"it has {', '.join(records)}" if records else "all its components are of plugins"
            raise OptionError(f"{key}={_format(component)}: {run} has no {path} without a plugin; {slots}")
        component = mark_import_path(component)
        if not isinstance(component, type | ImportPath):
            raise OptionError(f"{key}={component!r}: expected a class, or its import path, such as my.py:MyEncoder")
        register_component(records[path]["kind"], component, records[path]["name"])


def require_components(run: str | Path, records: Any, slots: Collection[str] = SLOTS) -> None:
    """Check that the local components of a run, those in `slots`, are registered.

    Raises:
        CheckpointError: one is not; the message says what it was and how to give it
    """
    for path, record in _select_records(run, records, slots).items():
        kind, name, cls = record["kind"], record["name"], record["class"]
        try:
            get_registry().find(kind, f"{LOCAL}/{name}")
        except UnknownNameError:
            origin = _get_origin(record)
            flag = f"--{path} {format_import_path(record)}, or " if path in SLOTS else ""
            raise CheckpointError(
                f"{run} uses {kind} {name!r}, the class {cls} of {origin}, which belongs to no plugin; give the class: "
                f"{flag}tstk.load({str(run)!r}, {path.replace('.', '__')}=CLASS), or register it before with "
                f'@tstk.register("{kind}", "{name}")'
            ) from None


def _get_origin(record: Mapping[str, str]) -> str:
    return record["file"] if record["file"] and "." not in record["module"] else record["module"]


def format_import_path(record: Mapping[str, str]) -> str:
    """Return the import path at which a run found the class of a local component; a placeholder if it has none."""
    is_importable = "<locals>" not in record["class"] and _get_origin(record) != "__main__"
    return f"{_get_origin(record)}:{record['class']}" if is_importable else "MODULE:CLASS"


def _select_records(run: str | Path, records: Any, slots: Collection[str]) -> Records:
    return {path: r for path, r in read_records(run, records).items() if path.partition(".")[0] in slots}


def list_changes(run: str | Path, records: Any, slots: Collection[str] = SLOTS) -> list[str]:
    """Return a line for each local component of a run, of those in `slots`, whose source has changed since."""
    return [
        f"the source of {record['kind']} {record['name']!r} has changed since {run} was trained"
        for record in _select_records(run, records, slots).values()
        if (cls := get_registry().load(get_registry().find(record["kind"], f"{LOCAL}/{record['name']}")))
        and record["sha256"] not in ("", hash_source(cls))
    ]


def _format(component: Any) -> str:
    return component.__name__ if isinstance(component, type) else str(component)
