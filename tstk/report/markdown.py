"""Markdown that shows names and messages of others as they are: no name can end a table, a code block or a tag."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tstk.errors import escape_control_characters

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|~#&$])")


def escape_markdown(text: str) -> str:
    """Escape what Markdown or HTML would interpret, on one line."""
    return _SPECIAL.sub(r"\\\1", escape_control_characters(text, keep=""))


def format_code(text: str) -> str:
    """Return text as a code span on one line, between more backticks than it has in a row."""
    text = escape_control_characters(text, keep="")
    ticks = "`" * (_count_backticks(text) + 1)
    padding = " " if "`" in text else ""
    return f"{ticks}{padding}{text}{padding}{ticks}"


def format_code_block(text: str) -> list[str]:
    """Return the lines of a fenced block, whose fence has more backticks than the text has in a row."""
    fence = "`" * max(3, _count_backticks(text) + 1)
    return [fence, *escape_control_characters(text).split("\n"), fence]


def format_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table, the first column aligned to the left and the others to the right."""
    escaped = [[escape_markdown(cell) for cell in row] for row in (columns, *rows)]
    head, *body = ("| " + " | ".join(row) + " |" for row in escaped)
    return [head, "|---|" + "---:|" * (len(columns) - 1), *body]


def _count_backticks(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
