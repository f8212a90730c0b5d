"""Short representations of records: shapes, dtypes and devices instead of values.

`Series(x=float32[32, 9, 128], y=int64[32])`. A device is named unless it is the CPU; fields that are None or empty are
left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from textwrap import indent
from typing import Any

_MAX_LINE = 120
_MAX_ITEMS = 6
_MAX_TEXT = 60


class ShortRepr:
    """Mixin with a short `repr`, `Name(field=summary, ...)`, on as few lines as it fits.

    A record that occurs twice is printed once and then named. Dataclasses need `@dataclass(repr=False)`.
    """

    def _get_repr_fields(self) -> Mapping[str, Any]:
        """Return field -> value; those that are None or empty are left out."""
        values = {f: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        return {f.name: v for f, v in values.items() if not (isinstance(v, bool | int | str) and v == f.default)}

    def __repr__(self) -> str:
        name, seen, summaries = type(self).__name__, dict[int, str](), []
        for field, value in self._get_repr_fields().items():
            if not _is_empty(value):
                known = seen.setdefault(id(value), field) if isinstance(value, ShortRepr) else field
                summaries.append(f"{field}={summarize(value) if known == field else known}")
        line = f"{name}({', '.join(summaries)})"
        if len(line) <= _MAX_LINE and "\n" not in line:
            return line
        body = indent(",\n".join(_fill_lines(summaries)), "  ")
        return f"{name}(\n{body}\n)"


def _fill_lines(summaries: list[str]) -> list[str]:
    """Join summaries to lines that are as long as fits; one of several lines stays by itself."""
    lines: list[str] = []
    for summary in summaries:
        fits = lines and "\n" not in lines[-1] + summary and len(lines[-1]) + len(summary) < _MAX_LINE - 4
        lines[-1:] = [f"{lines[-1]}, {summary}"] if fits else [*lines[-1:], summary]
    return lines


def summarize(value: Any) -> str:
    """Return a short text for a value: shape, dtype and device of a tensor or an array, the first items of others."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        device = str(getattr(value, "device", "cpu"))
        dtype = "str" if getattr(value.dtype, "kind", "") == "U" else str(value.dtype).removeprefix("torch.")
        return f"{dtype}{list(value.shape)}" + (f" on {device}" if device != "cpu" else "")
    if isinstance(value, str):
        return repr(value if len(value) <= _MAX_TEXT else value[: _MAX_TEXT - 3] + "...")
    if value is None or isinstance(value, bool | int | float | Path):
        return str(value)
    if isinstance(value, Mapping):
        items = [f"{k}: {summarize(v)}" for k, v in [*value.items()][:_MAX_ITEMS]]
        return f"{{{_join(items, len(value))}}}"
    if isinstance(value, Sequence):
        items = [summarize(v) for v in value[:_MAX_ITEMS]]
        return f"[{_join(items, len(value))}]" if isinstance(value, list) else f"({_join(items, len(value))})"
    return repr(value) if isinstance(value, ShortRepr) else type(value).__name__


def _join(items: list[str], count: int) -> str:
    return ", ".join([*items, f"... {count} in all"] if count > len(items) else items)


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str | Mapping | tuple | list) and not value)
