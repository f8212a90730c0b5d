"""The options of a config as parameters of Python functions, so that `help(tstk.fit)` and editors know them.

`tstk/api.pyi` is generated from the same parameters by `docs/generate.py`.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from typing import Any, TypeVar

from tstk.config.resolve import SECTIONS
from tstk.plugins.hooks import SLOTS
from tstk.plugins.signature import Option, read_signature

F = TypeVar("F", bound=Callable[..., Any])

PATH_OPTIONS = {"data_root", "train_data", "val_data", "test_data", "init_from"}
"""Options of type `str` that also take a path object."""

FRAME_OPTIONS = {"train_data", "val_data", "test_data"}
"""Options of type `str` that also take a data frame."""

OPTIONS_PLACEHOLDER = "<options>"
"""Line of a docstring that is replaced by the options."""


class _Annotation(str):
    """An annotation as text, which `inspect` and `help` print without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def add_options(function: F) -> F:
    """Replace `**options` in the signature and the docstring of a function by the options of slots and sections."""
    signature = inspect.signature(function)
    parameters = [p.replace(annotation=_Annotation(p.annotation)) for p in signature.parameters.values()]
    parameters[-1] = parameters[-1].replace(name="component_options")  # encoder__depth=4
    known = {p.name for p in parameters}
    options = {name: entry for name, entry in _list_options().items() if name not in known}
    parameters[-1:-1] = [parameter for parameter, _ in options.values()]
    function.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=parameters, return_annotation=_Annotation(signature.return_annotation)
    )
    wrapper = textwrap.TextWrapper(116, initial_indent=" " * 8, subsequent_indent=" " * 12, break_on_hyphens=False)
    help_lines = [wrapper.fill(f"{name}: {text}") for name, (_, text) in options.items()]
    function.__doc__ = (function.__doc__ or "").replace(" " * 8 + OPTIONS_PLACEHOLDER, "\n".join(help_lines))
    return function


def _list_options() -> dict[str, tuple[inspect.Parameter, str]]:
    """Return option -> its parameter and its help, slots and data first."""
    listed = {}
    for slot in SLOTS:
        annotation = f"str | PathLike[str] | Mapping[str, Any] | type[{slot.title()}] | None"
        help_text = f"name of the {slot}, a run directory to initialize it from, a table of options, or a class"
        listed[slot] = (_make_parameter(slot, annotation, None), help_text)
    listed["data"] = (
        _make_parameter("data", "str | PathLike[str] | DataFrame | Mapping[str, Any] | None", None),
        "name of a data set, a file, a folder, or a data frame of pandas or polars; har-demo if None",
    )
    for target in SECTIONS.values():
        for name, option in read_signature(target).options.items():
            listed[name] = (_make_parameter(name, _format_annotation(option), option.default), option.help)
    return listed


def _make_parameter(name: str, annotation: str, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=_Annotation(annotation))


def _format_annotation(option: Option) -> str:
    if option.is_component:
        return "str | Mapping[str, Any] | None"
    text = f"Literal[{', '.join(map(repr, option.choices))}]" if option.choices else option.type
    if option.name in FRAME_OPTIONS:
        text += " | DataFrame"
    if option.name in PATH_OPTIONS:
        text += " | PathLike[str]"
    if option.is_tuple:
        text = f"Sequence[{text}]"
    return text + (" | None" if option.optional else "")
