"""Signatures of components, read from their source without importing them, or from a class that exists already.

The options of a component are the keyword-only parameters of its constructor, those of a config section the fields of a
dataclass. Their types and defaults are literals by contract, so `ast` can read them: help, completion and validation
take milliseconds and never import torch. A class of a script or a notebook, which is registered as it is, is inspected
instead (`_inspect_signature`).
"""

from __future__ import annotations

import ast
import inspect
import operator
import typing
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, field, fields, is_dataclass
from functools import cache
from math import isfinite
from types import NoneType, UnionType
from typing import Any

from tstk.errors import OptionError, TstkError, did_you_mean
from tstk.plugins.hooks import SLOTS
from tstk.plugins.location import find_source_file
from tstk.plugins.registry import get_registry

_SCALARS = {"int": int, "float": float, "str": str, "bool": bool}
_COMPONENT_KINDS = (*SLOTS, "reader")
"""Kinds of entries that the value of an option can be."""
_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}

_BOUNDS = {
    "Ge": (operator.ge, "{} or more"),
    "Gt": (operator.gt, "more than {}"),
    "Le": (operator.le, "{} or less"),
    "Lt": (operator.lt, "less than {}"),
}
"""Annotations of `annotated_types` -> comparison and phrase."""
_MISSING = " needs an annotation and a default"
_EXPECTED_TYPES = (
    "expected int, float, str, bool, Literal[...], tuple[int, ...], a slot such as Encoder, Annotated[int, Ge(1)], or "
    "one of these | None"
)


@dataclass(frozen=True)
class Option:
    """One option of a component or of a config section.

    Args:
        name: as in the constructor
        type: `int`, `float`, `str`, `bool`, `choice`, or the kind of a nested component
        default: the value if none is given
        help: one line
        choices: the values of a `choice`
        optional: whether None is allowed
        is_tuple: whether the value is a tuple of `type`, written with commas
        bounds: pairs such as ("Ge", 1) that a number must satisfy; integers are 0 or more unless they have bounds
        entry_kind: kind of the registry's entries that the value names; empty if it names none
    """

    name: str
    type: str
    default: Any = None
    help: str = ""
    choices: tuple[Any, ...] = ()
    optional: bool = False
    is_tuple: bool = False
    bounds: tuple[tuple[str, float], ...] = ()
    entry_kind: str = ""

    @property
    def is_component(self) -> bool:
        """Whether the value is a component with its own options."""
        return self.type in _COMPONENT_KINDS

    @property
    def flag(self) -> str:
        """The name with hyphens, as on the command line."""
        return self.name.replace("_", "-")

    @property
    def type_label(self) -> str:
        """The type as one word, for help pages."""
        label = "|".join(map(str, self.choices)) or ("NAME" if self.entry_kind else self.type)
        return label + (",..." if self.is_tuple else "")

    def parse(self, value: Any, label: str = "") -> Any:
        """Convert a value to the type of this option.

        Args:
            value: text (from a flag) or a native value (from a file or Python)
            label: what messages call the option; its name if empty

        Raises:
            OptionError: it cannot be converted or is out of range
            UnknownNameError: it names no entry
        """
        if value is None or (self.optional and isinstance(value, str) and value.lower() == "none"):
            if self.optional:
                return None
            raise OptionError(f"{label or self.name} cannot be none; it is {self.type_label}")
        if self.is_component:
            return value
        if self.is_tuple:
            parts = value.split(",") if isinstance(value, str) else value
            if not isinstance(parts, list | tuple):
                raise OptionError(f"{label or self.name} is {value!r}; expected {self.type_label}")
            return tuple(self._parse_scalar(p, label) for p in parts)
        return self._parse_scalar(value, label)

    def _parse_scalar(self, value: Any, label: str) -> Any:
        try:
            if self.type == "choice":
                return next(c for c in self.choices if str(c) == str(value))
            if self.type == "bool":
                return _BOOLEANS[str(value).lower()]
            if isinstance(value, bool) or (self.type == "int" and isinstance(value, float) and value % 1):
                raise ValueError(value)
            if self.type == "str" and not isinstance(value, str):
                raise ValueError(value)
            parsed = _SCALARS[self.type](value)
        except (ValueError, KeyError, TypeError, StopIteration):
            hint = did_you_mean(str(value), map(str, self.choices)) if self.choices else ""
            raise OptionError(f"{label or self.name} is {value!r}; expected {self.type_label}.{hint}") from None
        if self.entry_kind:
            get_registry().find(self.entry_kind, parsed)
        if isinstance(parsed, float) and not isfinite(parsed):
            raise OptionError(f"{label or self.name} is {value!r}; expected a finite number")
        if self.type == "int" and abs(parsed) >= 2**63:
            raise OptionError(f"{label or self.name} is {value!r}; expected a 64-bit integer")
        bounds = self.bounds or ((("Ge", 0),) if self.type == "int" else ())
        if not all(_BOUNDS[name][0](parsed, bound) for name, bound in bounds):
            allowed = " and ".join(_BOUNDS[name][1].format(bound) for name, bound in bounds)
            raise OptionError(f"{label or self.name} is {value!r}; expected {self.type_label}, {allowed}")
        return parsed


@dataclass(frozen=True)
class Signature:
    """The documentation, the options and the literal class attributes of a component or function."""

    doc: str
    options: dict[str, Option]
    class_attrs: dict[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The first paragraph of the documentation, as one line."""
        return self.doc.partition("\n\n")[0].replace("\n", " ")


@cache
def read_signature(target: str | type) -> Signature:
    """Return the signature of `package.module:attribute`, read from its source, or that of a class.

    Class attributes and the constructor are inherited as in Python.

    Raises:
        TstkError: the source cannot be found or its options are not literals
    """
    if not isinstance(target, str):
        return _inspect_signature(target)
    module, _, name = target.partition(":")
    lineage = _find_definitions(module, name)
    class_attrs: dict[str, Any] = {}
    for node, _ in lineage:
        for item in node.body if isinstance(node, ast.ClassDef) else ():
            attribute, value = _parse_assignment(item)
            if attribute and attribute not in class_attrs:
                try:
                    class_attrs[attribute] = ast.literal_eval(value)  # type: ignore[arg-type]
                except ValueError:
                    continue
    text, help_lines = _merge_docstrings(ast.get_docstring(node) for node, _ in lineage)
    options = {
        name: _parse_option(name, annotation, default, help_lines.get(name, ""), target, defining_module)
        for name, annotation, default, defining_module in _list_parameters(lineage)
    }
    return Signature(text, options, class_attrs)


def read_registrations(module: str) -> Iterator[tuple[str, str, str]]:
    """Yield kind, name and target of each class with `@tstk.register(kind, name)`, read from the source of a module."""
    for node in _list_statements(module):
        if not isinstance(node, ast.ClassDef):
            continue
        for decorator in node.decorator_list:
            match decorator:
                case ast.Call(func=func, args=[ast.Constant(value=str(kind)), ast.Constant(value=str(name))]):
                    if ast.unparse(func).rpartition(".")[2] == "register":
                        yield kind, name, f"{module}:{node.name}"


Definition = ast.ClassDef | ast.FunctionDef


def _list_parameters(
    lineage: list[tuple[Definition, str]],
) -> Iterator[tuple[str, ast.expr | None, ast.expr | None, str]]:
    """Yield name, annotation, default and module of each field of a dataclass, else of each keyword-only parameter."""
    node, module = lineage[0]
    if isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(d) for d in node.decorator_list):
        for item in node.body:
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                yield item.target.id, item.annotation, item.value, module
        return
    for node, module in lineage:
        methods = node.body if isinstance(node, ast.ClassDef) else [node]
        for item in methods:
            if isinstance(item, ast.FunctionDef) and item.name in ("__init__", node.name):
                _check_positional(node.name, [arg.arg for arg in item.args.args[1:]])
                for arg, default in zip(item.args.kwonlyargs, item.args.kw_defaults, strict=True):
                    yield arg.arg, arg.annotation, default, module
                return


def _check_positional(class_name: str, names: Sequence[str]) -> None:
    """Check that a constructor that takes a Spec, as those of the slots do, takes nothing else by position."""
    if names[:1] == ["spec"] and len(names) > 1:
        raise TstkError(
            f"{class_name}: parameter {names[1]!r} is no option, as it is not keyword-only; put '*' before it"
        )


def _parse_assignment(node: ast.stmt) -> tuple[str, ast.expr | None]:
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
        return node.target.id, node.value
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id, node.value
    return "", None


def _find_definitions(module: str, name: str) -> list[tuple[Definition, str]]:
    """Return a definition followed by its bases, nearest first; imports are followed where the source can be found."""
    for node in _list_statements(module):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return [(node, module)]
        if isinstance(node, ast.ClassDef) and node.name == name:
            lineage: list[tuple[Definition, str]] = [(node, module)]
            for base in node.bases:
                lineage += _find_base_definitions(module, base)
            return lineage
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if name == (alias.asname or alias.name):
                    return _find_definitions(_resolve_import(module, node), alias.name)
    raise TstkError(f"{module} defines no class or function {name!r}")


def _find_base_definitions(module: str, base: ast.expr) -> list[tuple[Definition, str]]:
    """Return the lineage of a base class, written as `Name` or `package.Name`; empty for classes of torch or Python."""
    owner, _, name = ast.unparse(base).rpartition(".")
    for node in _list_statements(module):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if owner and owner == (alias.asname or alias.name):
                    module, owner = alias.name, ""
    defining_module = "" if owner else _find_defining_module(module, name)
    if not defining_module or defining_module.partition(".")[0] in ("torch", "typing", "builtins"):
        return []
    return _find_definitions(module, name)


def _find_defining_module(module: str, name: str) -> str:
    """Return the module in which a name of `module` is defined: itself or one it imports from; empty if none."""
    if module.partition(".")[0] == "torch":
        return "torch"
    for node in _list_statements(module):
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module
        if isinstance(node, ast.ImportFrom) and any(name == (a.asname or a.name) for a in node.names):
            return _resolve_import(module, node)
    return ""


def _resolve_import(module: str, node: ast.ImportFrom) -> str:
    """Return the absolute name of the module that `from ... import` in `module` refers to."""
    if not node.level:
        return node.module or ""
    package = find_source_file(module).name == "__init__.py"
    parts = module.split(".")[: None if package and node.level == 1 else -(node.level - package)]
    return ".".join([*parts, *([node.module] if node.module else [])])


def _list_statements(module: str) -> list[ast.stmt]:
    """Return the top-level statements of a module, with those under `if TYPE_CHECKING:` (lazily imported names)."""
    body = _parse_module(module).body
    return body + [inner for node in body if isinstance(node, ast.If) for inner in node.body]


@cache
def _parse_module(module: str) -> ast.Module:
    return ast.parse(find_source_file(module).read_text(encoding="utf-8"))


def _parse_option(
    name: str, annotation: ast.expr | None, default: ast.expr | None, text: str, target: str, module: str
) -> Option:
    label = f"{target}: option {name!r}"
    if annotation is None or default is None:
        raise TstkError(label + _MISSING)
    try:
        value = ast.literal_eval(default)
    except ValueError:
        raise TstkError(f"{label} has the default {ast.unparse(default)}; expected a literal") from None
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        annotation = ast.parse(annotation.value, mode="eval").body
    members = _split_union(annotation)
    types = [m for m in members if not (isinstance(m, ast.Constant) and m.value is None)]
    attrs = _parse_type(types[0], module) if len(types) == 1 else None
    if attrs is None:
        raise TstkError(f"{label} has the type {ast.unparse(annotation)}; {_EXPECTED_TYPES}")
    return _check_default(Option(name, default=value, help=text, optional=len(types) < len(members), **attrs), label)


def _parse_type(node: ast.expr, module: str) -> dict[str, Any] | None:
    """Return the attributes of `Option` that follow from a type, or None if it is not the type of an option."""
    if isinstance(node, ast.Name | ast.Attribute):
        name = ast.unparse(node).removeprefix("tstk.")
        if name in _SCALARS or name.lower() in _COMPONENT_KINDS:
            return {"type": name.lower()}
        alias = _find_alias(module, name)
        return None if alias is None else _parse_type(*alias)
    if not isinstance(node, ast.Subscript):
        return None
    args = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    generic = _strip_module(node.value)
    try:
        if generic == "Literal":
            return {"type": "choice", "choices": tuple(ast.literal_eval(arg) for arg in args)}
        attrs = _parse_type(args[0], module)
        if attrs is not None and generic in ("tuple", "Tuple"):
            return {**attrs, "is_tuple": True} if attrs["type"] in _SCALARS else None
        if attrs is not None and generic == "Annotated":
            calls = [call for call in args[1:] if isinstance(call, ast.Call)]
            return _add_annotations(attrs, [(_strip_module(call.func), _parse_only_argument(call)) for call in calls])
    except ValueError:  # a name where a literal is expected
        return None
    return None


def _strip_module(node: ast.expr) -> str:
    """Return `Ge` of `Ge` and of `annotated_types.Ge`."""
    return ast.unparse(node).rpartition(".")[2]


def _parse_only_argument(call: ast.Call) -> Any:
    """Return the one argument of `Ge(1)` or `Ge(ge=1)`; raise ValueError if it is no literal, or not alone."""
    (argument,) = [*call.args, *(keyword.value for keyword in call.keywords)]
    return ast.literal_eval(argument)


def _add_annotations(attrs: dict[str, Any], annotations: list[tuple[str, Any]]) -> dict[str, Any] | None:
    """Add what the annotations of a type say, by their names and values; None if one is unknown."""
    if attrs["type"] == "str" and [name for name, _ in annotations] == ["NameOf"]:
        return {**attrs, "entry_kind": annotations[0][1]}
    return {**attrs, "bounds": tuple(annotations)} if all(name in _BOUNDS for name, _ in annotations) else None


def _find_alias(module: str, name: str) -> tuple[ast.expr, str] | None:
    """Return the type that `name = ...` stands for in a module or where it is imported from, and that module."""
    for node in _list_statements(module):
        target, value = _parse_assignment(node)
        if target == name and value is not None:
            return value, module
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if name == (alias.asname or alias.name):
                    source = _resolve_import(module, node)
                    return None if source.partition(".")[0] in ("torch", "typing") else _find_alias(source, alias.name)
    return None


def _inspect_signature(cls: type) -> Signature:
    """Return the signature of a class that exists already, such as one of a notebook."""
    lineage = [c for c in cls.__mro__ if c.__module__.partition(".")[0] not in ("torch", "builtins")]
    class_attrs: dict[str, Any] = {}
    for c in reversed(lineage):
        class_attrs |= {k: v for k, v in vars(c).items() if not k.startswith("__") and is_literal(v)}
    text, help_lines = _merge_docstrings(c.__doc__ and inspect.cleandoc(c.__doc__) for c in lineage)
    parameters = inspect.signature(cls).parameters.items()
    _check_positional(cls.__qualname__, [name for name, p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD])
    options = {
        name: _inspect_option(cls, parameter, help_lines.get(name, ""))
        for name, parameter in parameters
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    return Signature(text, options, class_attrs)


def is_literal(value: Any) -> bool:
    """Return whether a value can be written as a literal."""
    if isinstance(value, tuple | list | set | frozenset):
        return all(map(is_literal, value))
    if isinstance(value, dict):
        return all(map(is_literal, (*value, *value.values())))
    return isinstance(value, int | float | str | NoneType)


def _inspect_option(cls: type, parameter: inspect.Parameter, text: str) -> Option:
    label, hint = f"{cls.__qualname__}: option {parameter.name!r}", parameter.annotation
    if parameter.empty in (hint, parameter.default):
        raise TstkError(label + _MISSING)
    if not is_literal(parameter.default):
        raise TstkError(f"{label} has the default {parameter.default!r}; expected a literal")
    if isinstance(hint, str):  # the slots may be imported for type checkers only
        slots = {s.capitalize(): type(s.capitalize(), (), {}) for s in SLOTS}
        constructor = inspect.unwrap(cls.__init__)  # type: ignore[misc]
        try:
            hint = eval(hint, slots | constructor.__globals__)
        except (NameError, TypeError):
            raise TstkError(f"{label} has the type {hint}, which is not defined in {cls.__module__}") from None
    is_union = isinstance(hint, UnionType) or typing.get_origin(hint) is typing.Union
    members = typing.get_args(hint) if is_union else (hint,)
    types = [m for m in members if m is not NoneType]
    attrs = _inspect_type(types[0]) if len(types) == 1 else None
    if attrs is None:
        raise TstkError(f"{label} has the type {getattr(hint, '__name__', hint)}; {_EXPECTED_TYPES}")
    option = Option(parameter.name, default=parameter.default, help=text, optional=len(types) < len(members), **attrs)
    return _check_default(option, label)


def _check_default(option: Option, label: str) -> Option:
    """Return the option; raise TstkError if a user could not give its default."""
    if not option.entry_kind:  # names are known once all plugins are loaded
        option.parse(option.default, f"the default of {label}")
    return option


def _inspect_type(hint: Any) -> dict[str, Any] | None:
    """Return what `_parse_type` does, for a type that exists."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, type) and not args:
        name = hint.__name__.lower()
        return {"type": name} if hint in _SCALARS.values() or name in SLOTS else None
    if origin is typing.Literal:
        return {"type": "choice", "choices": args}
    attrs = _inspect_type(args[0]) if args else None
    if attrs is not None and origin is tuple:
        return {**attrs, "is_tuple": True} if attrs["type"] in _SCALARS else None
    if attrs is not None and origin is typing.Annotated:
        limits = [(type(c).__name__, astuple(c)) for c in args[1:] if is_dataclass(c) and not isinstance(c, type)]
        return _add_annotations(attrs, [(name, values[0]) for name, values in limits])
    return None


def check_fields(config: Any) -> None:
    """Parse the fields of a dataclass as the options that they are, in place; for `__post_init__`.

    Raises:
        OptionError: a value has the wrong type or is out of range
    """
    options = read_signature(f"{type(config).__module__}:{type(config).__qualname__}").options
    for item in fields(config):
        value = options[item.name].parse(getattr(config, item.name), f"--{options[item.name].flag}")
        object.__setattr__(config, item.name, value)


def _split_union(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _split_union(node.left) + _split_union(node.right)
    if isinstance(node, ast.Subscript) and (generic := _strip_module(node.value)) in ("Optional", "Union"):
        members = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        return [*members, ast.Constant(None)] if generic == "Optional" else members
    return [node]


def _merge_docstrings(docs: Iterable[str | None]) -> tuple[str, dict[str, str]]:
    """Return the text of the nearest docstring, and the help lines of all, since options are inherited too."""
    parsed = [_parse_docstring(doc) for doc in docs if doc]
    help_lines = {name: line for _, lines in reversed(parsed) for name, line in lines.items()}
    return (parsed[0][0] if parsed else ""), help_lines


def _parse_docstring(doc: str) -> tuple[str, dict[str, str]]:
    """Split a Google-style docstring into its text and the help lines under `Args:`, by option."""
    head, _, tail = doc.partition("\nArgs:\n")
    help_lines: dict[str, str] = {}
    name = ""
    for line in tail.splitlines():
        if line.strip() and not line.startswith(" "):
            break
        indent = len(line) - len(line.lstrip())
        if indent == 4 and ":" in line:
            name, _, text = line.strip().partition(":")
            help_lines[name] = text.strip()
        elif line.strip() and name:
            help_lines[name] += " " + line.strip()
    return head.strip(), help_lines
