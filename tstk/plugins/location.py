"""Where a plugin's author has to look: the line of a definition, and the line of their files that raised an error."""

from __future__ import annotations

import ast
import importlib.util
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tstk.errors import TstkError


def find_definition_line(path: Path, name: str) -> int | None:
    """Return the line at which a module defines or imports a name at top level; None if it does not.

    A name that may be defined inside a top-level `if` or `try` is taken to be defined there.
    """
    if path.suffix != ".py":
        return 1
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        bound = {getattr(node, "name", "")}
        if isinstance(node, ast.Import | ast.ImportFrom):
            bound |= {alias.asname or alias.name for alias in node.names}
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        bound |= {t.id for t in targets if isinstance(t, ast.Name)}
        if name in bound or isinstance(node, ast.If | ast.Try):
            return node.lineno
    return None


def locate_definition(target: str) -> str:
    """Return `FILE:LINE` of a target `package.module:name`, or the file of `package:path`; empty if there is none."""
    module, _, name = target.partition(":")
    try:
        source = find_source_file(module)
        if (source.parent / name).is_file():
            return _format_path(source.parent / name)
        line = find_definition_line(source, name) if name else None
    except (TstkError, OSError, SyntaxError):
        return ""
    return f"{_format_path(source)}:{line}" if line else _format_path(source)


def locate_function(function: Callable[..., Any]) -> str:
    """Return `FILE:LINE` of a function that is loaded; empty if it is in no file, as in a notebook."""
    code = getattr(function, "__code__", None)
    if code is None or not Path(code.co_filename).is_file():
        return ""
    return f"{_format_path(Path(code.co_filename))}:{code.co_firstlineno}"


def locate_error(error: BaseException, module: str) -> str:
    """Return `FILE:LINE`, the innermost line of an error, or of its cause, in a module's package; empty if none."""
    try:
        source = find_source_file(module.partition(".")[0])
    except TstkError:
        return ""
    root = source.parent if source.name == "__init__.py" else source
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, SyntaxError) and cause.filename and Path(cause.filename).is_relative_to(root):
            return f"{_format_path(Path(cause.filename))}:{cause.lineno}"
        for frame in reversed(traceback.extract_tb(cause.__traceback__)):
            path = Path(frame.filename)
            if path.is_relative_to(root) and not path.is_relative_to(root / "testing"):
                return f"{_format_path(path)}:{frame.lineno}"
        cause = cause.__cause__ or cause.__context__
    return ""


def _format_path(path: Path) -> str:
    """Return a path relative to the working directory, if it lies inside."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def find_source_file(module: str) -> Path:
    """Return the source file of a module without importing it or its parents.

    Raises:
        TstkError: there is no such module
    """
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None:
        raise TstkError(f"the module {top!r} is not installed")
    folders = [Path(p) for p in spec.submodule_search_locations or []]
    if not rest and spec.origin:
        return Path(spec.origin)
    for folder in folders:
        path = folder.joinpath(*rest)
        for candidate in (path.with_suffix(".py"), path / "__init__.py"):
            if candidate.is_file():
                return candidate
    raise TstkError(f"there is no module {module!r}")
