"""Reading and writing TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tstk.errors import OptionError, TstkError


def read_toml(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file.

    Raises:
        OptionError: it cannot be read; the message names file, line and column
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as e:
        raise OptionError(f"{path}: cannot be read ({e})") from None
    except tomllib.TOMLDecodeError as e:
        raise OptionError(f"{path}: not valid TOML: {e}") from None
    except RecursionError:
        raise OptionError(f"{path}: tables or arrays are nested too deeply; a config needs only a few levels") from None


def to_toml(values: Mapping[str, Mapping[str, Any]], sources: Mapping[str, str] | None = None) -> str:
    """Return nested tables as TOML text. None, which TOML lacks, is written as "none".

    Args:
        values: table name -> its keys and subtables
        sources: dotted key -> comment to write behind its value
    """
    lines: list[str] = []

    def append_table(table: Mapping[str, Any], path: str) -> None:
        lines.append(f"[{path}]")
        for key, value in table.items():
            if not isinstance(value, Mapping):
                comment = (sources or {}).get(f"{path}.{key}", "")
                lines.append(f"{key} = {_format_value(value)}" + (f"  # {comment}" if comment else ""))
        lines.append("")
        for key, value in table.items():
            if isinstance(value, Mapping):
                append_table(value, f"{path}.{key}")

    for name, table in values.items():
        append_table(table, name)
    return "\n".join(lines)


def _format_value(value: Any) -> str:
    if value is None:
        return '"none"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
        return f'"{escaped}"'
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_format_value, value)) + "]"
    if isinstance(value, int | float):
        return repr(value)
    raise TstkError(f"a config cannot hold {value!r}")
