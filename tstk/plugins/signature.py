"""What a component looks like from outside, read from its source without importing it.

A component's options are the keyword-only parameters of its constructor. They are literals by contract, so
`ast` is enough: help, completion and the checking of options cost milliseconds and never import torch.
"""

from __future__ import annotations

import ast
import importlib.util
from dataclasses import dataclass, field, replace
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any

from tstk.errors import OptionError, TstkError, did_you_mean
from tstk.plugins.registry import SLOTS

_SCALARS = {"int": int, "float": float, "str": str, "bool": bool}
_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}

_SIZES = {"accumulate", "batch_size", "context", "crop", "dim", "heads", "hidden", "horizon", "length", "probe"}
_SIZES |= {"stride", "window"}
_SHARES = ("dropout", "smoothing")
"""Ranges that a name implies wherever it is used; what else a component asks of a value, it checks itself."""


@dataclass(frozen=True)
class Option:
    """One thing that a user may choose.

    Args:
        name: as in the constructor
        type: `int`, `float`, `str`, `bool`, `choice`, or the slot that a nested component fills
        default: used when nothing is said
        help: one line
        choices: for `choice`
        optional: None is a value too
        many: a tuple of `type`, written with commas
    """

    name: str
    type: str
    default: Any = None
    help: str = ""
    choices: tuple[Any, ...] = ()
    optional: bool = False
    many: bool = False

    @property
    def nested(self) -> bool:
        """The value is a component with options of its own."""
        return self.type in SLOTS

    @property
    def flag(self) -> str:
        """The name as the command line spells it."""
        return self.name.replace("_", "-")

    @property
    def hint(self) -> str:
        """The type in a word, for help pages."""
        word = "|".join(map(str, self.choices)) if self.choices else self.type
        return word + (",..." if self.many else "")

    def convert(self, value: Any, where: str = "") -> Any:
        """The value as this option's type, from text (a flag) or from a native value (a file, Python).

        Raises:
            OptionError: it cannot be; the message names `where` and what would work
        """
        if value is None or (self.optional and isinstance(value, str) and value.lower() == "none"):
            if self.optional:
                return None
            raise OptionError(f"{where or self.name} cannot be none; it is {self.hint}")
        if self.nested:
            return value
        if self.many:
            parts = value.split(",") if isinstance(value, str) else value
            if not isinstance(parts, list | tuple):
                raise OptionError(f"{where or self.name} is {value!r}; expected {self.hint}")
            return tuple(self._one(p, where) for p in parts)
        return self._one(value, where)

    def _one(self, value: Any, where: str) -> Any:
        try:
            if self.type == "choice":
                return next(c for c in self.choices if str(c) == str(value))
            if self.type == "bool":
                return _WORDS[str(value).lower()]
            if isinstance(value, bool) or (self.type == "int" and isinstance(value, float) and value % 1):
                raise ValueError(value)
            if self.type == "str" and not isinstance(value, str):
                raise ValueError(value)
            found = _SCALARS[self.type](value)
        except (ValueError, KeyError, TypeError, StopIteration):
            hint = did_you_mean(str(value), map(str, self.choices)) if self.choices else ""
            raise OptionError(f"{where or self.name} is {value!r}; expected {self.hint}.{hint}") from None
        if isinstance(found, float) and not isfinite(found):
            raise OptionError(f"{where or self.name} is {value!r}; expected a finite number")
        if self.type == "int" and abs(found) >= 2**63:
            raise OptionError(f"{where or self.name} is {value!r}; expected a number of 64 bits")
        least = 1 if self.name in _SIZES else 0
        if self.type == "int" and found < least:
            raise OptionError(f"{where or self.name} is {value!r}; expected {self.hint}, {least} or more")
        if self.name.endswith(_SHARES) and not 0 <= found < 1:
            raise OptionError(f"{where or self.name} is {value!r}; expected a share of 0 or more and less than 1")
        return found


@dataclass(frozen=True)
class Outline:
    """The outside of a component: documentation, options, and class attributes that are literals."""

    doc: str
    options: dict[str, Option]
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The first paragraph of the documentation."""
        return self.doc.partition("\n\n")[0].replace("\n", " ")


@cache
def outline(target: str) -> Outline:
    """Read `package.module:attribute` from its source.

    Raises:
        TstkError: the source cannot be found or its options are not literals
    """
    module, _, name = target.partition(":")
    lineage = _lineage(module, name)
    doc = next((d for node, _ in lineage if (d := ast.get_docstring(node))), "")
    facts: dict[str, Any] = {}
    signature = None
    for node, _ in lineage:
        if isinstance(node, ast.FunctionDef):
            signature = signature or node
            continue
        for item in node.body:
            if isinstance(item, ast.FunctionDef) and item.name == "__init__":
                signature = signature or item
            name_, value = _assigned(item)
            if name_ and name_ not in facts:
                try:
                    facts[name_] = ast.literal_eval(value)  # type: ignore[arg-type]
                except ValueError:
                    continue
    text, helps = _docstring(doc)
    options = {}
    if signature is not None:
        for arg, default in zip(signature.args.kwonlyargs, signature.args.kw_defaults, strict=True):
            # a trailing underscore keeps a Python keyword (`from_`) usable as an option's name
            name_ = arg.arg.rstrip("_")
            options[name_] = replace(_option(arg, default, helps.get(name_, ""), target), name=name_)
    return Outline(text, options, facts)


def _assigned(node: ast.stmt) -> tuple[str, ast.expr | None]:
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
        return node.target.id, node.value
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id, node.value
    return "", None


def _lineage(module: str, name: str) -> list[tuple[ast.ClassDef | ast.FunctionDef, str]]:
    """The definition and its bases, nearest first, following imports as far as source can be found."""
    for node in _statements(module):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return [(node, module)]
        if isinstance(node, ast.ClassDef) and node.name == name:
            found: list[tuple[ast.ClassDef | ast.FunctionDef, str]] = [(node, module)]
            for base in node.bases:
                found += _base(module, base)
            return found
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if name == (alias.asname or alias.name):
                    return _lineage(_absolute(module, node), alias.name)
    raise TstkError(f"{module} defines no class or function {name!r}")


def _base(module: str, base: ast.expr) -> list[tuple[ast.ClassDef | ast.FunctionDef, str]]:
    """The lineage of a base class, written as `Name` or `package.Name`; empty if it is none of ours."""
    owner, _, name = ast.unparse(base).rpartition(".")
    for node in _statements(module):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if owner and owner == (alias.asname or alias.name):
                    module, owner = alias.name, ""
    home = "" if owner else _home(module, name)
    return _lineage(module, name) if home and home.partition(".")[0] not in ("torch", "typing", "builtins") else []


def _home(module: str, name: str) -> str:
    """The module from which `module` has a name: itself, or one that it imports from; empty if it has not."""
    if module.partition(".")[0] == "torch":
        return "torch"
    for node in _statements(module):
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module
        if isinstance(node, ast.ImportFrom) and any(name == (a.asname or a.name) for a in node.names):
            return _absolute(module, node)
    return ""


def _absolute(module: str, node: ast.ImportFrom) -> str:
    """The module that `from ... import` in a module names, also with leading dots."""
    if not node.level:
        return node.module or ""
    package = source_file(module).name == "__init__.py"
    parts = module.split(".")[: None if package and node.level == 1 else -(node.level - package)]
    return ".".join([*parts, *([node.module] if node.module else [])])


def _statements(module: str) -> list[ast.stmt]:
    """What a module holds at its top, and under `if TYPE_CHECKING:`, where lazy packages name what they offer."""
    body = _parse(module).body
    return body + [inner for node in body if isinstance(node, ast.If) for inner in node.body]


@cache
def _parse(module: str) -> ast.Module:
    return ast.parse(source_file(module).read_text(encoding="utf-8"))


def source_file(module: str) -> Path:
    """Where a module's source lies, found without importing its parents.

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


def _option(arg: ast.arg, default: ast.expr | None, text: str, target: str) -> Option:
    where = f"{target}: option {arg.arg!r}"
    if arg.annotation is None or default is None:
        raise TstkError(f"{where} needs an annotation and a default")
    try:
        value = ast.literal_eval(default)
    except ValueError:
        raise TstkError(f"{where} has the default {ast.unparse(default)}; expected a literal") from None
    annotation = arg.annotation
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        annotation = ast.parse(annotation.value, mode="eval").body
    parts = _union(annotation)
    optional = any(isinstance(p, ast.Constant) and p.value is None for p in parts)
    kinds = [p for p in parts if not (isinstance(p, ast.Constant) and p.value is None)]
    if len(kinds) == 1:
        kind = kinds[0]
        if isinstance(kind, ast.Name) and (kind.id in _SCALARS or kind.id.lower() in SLOTS):
            return Option(arg.arg, kind.id.lower(), value, text, optional=optional)
        if isinstance(kind, ast.Subscript) and isinstance(kind.value, ast.Name):
            inner = kind.slice.elts if isinstance(kind.slice, ast.Tuple) else [kind.slice]
            if kind.value.id == "Literal":
                choices = tuple(ast.literal_eval(i) for i in inner)
                return Option(arg.arg, "choice", value, text, choices, optional)
            if kind.value.id == "tuple" and isinstance(inner[0], ast.Name) and inner[0].id in _SCALARS:
                return Option(arg.arg, inner[0].id, value, text, optional=optional, many=True)
    raise TstkError(
        f"{where} has the type {ast.unparse(annotation)}; expected int, float, str, bool, Literal[...], "
        "tuple[int, ...], a slot such as Encoder, or one of these | None"
    )


def _union(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _union(node.left) + _union(node.right)
    return [node]


def _docstring(doc: str) -> tuple[str, dict[str, str]]:
    """Split a Google-style docstring into its text and the lines of its `Args:`."""
    head, _, tail = doc.partition("\nArgs:\n")
    helps: dict[str, str] = {}
    name = ""
    for line in tail.splitlines():
        if line.strip() and not line.startswith(" "):
            break
        indent = len(line) - len(line.lstrip())
        if indent == 4 and ":" in line:
            name, _, text = line.strip().partition(":")
            helps[name] = text.strip()
        elif line.strip() and name:
            helps[name] += " " + line.strip()
    return head.strip(), helps
