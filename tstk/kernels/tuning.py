"""Tile sizes that were measured on one kind of GPU, kept beside the kernels that use them.

A `triton.py` has a table of sane sizes by bucketed shape; `tuned` puts the measured ones over it. They are written by
`python -m benchmarks.tune`, offline: nothing is tried out while a model runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

Key = tuple[Any, ...]
Sizes = TypeVar("Sizes")
"""Numbers in a dictionary, a tuple or a named tuple, or in tuples of such."""


def tuned(op: str, sane: Mapping[Key, Sizes], table: str = "CONFIGS") -> dict[Key, Sizes]:
    """The table with what was measured on a GPU of this kind; on another, or without one, the table as it is.

    Args:
        op: the operation's folder
        sane: sizes by bucketed shape
        table: its name in `triton.py`
    """
    better = measured(op).get(kind(), {}).get(table, {})
    return {key: _like(sizes, better[key]) if key in better else sizes for key, sizes in sane.items()}


def kind() -> str:
    """Compute capability of this machine's GPU, such as 9.0; empty without one."""
    import torch

    return ".".join(map(str, torch.cuda.get_device_capability())) if torch.cuda.is_available() else ""


def place(op: str) -> Path:
    """The file that holds an operation's measured sizes."""
    return Path(__file__).parent / op / "tuned.json"


def measured(op: str) -> dict[str, dict[str, dict[Key, Any]]]:
    """By kind of GPU, table and key; tuples have become lists."""
    if not place(op).exists():
        return {}
    kinds = json.loads(place(op).read_text())
    return {
        gpu: {name: {tuple(key): sizes for key, sizes in rows} for name, rows in tables.items()}
        for gpu, tables in kinds.items()
    }


def write(op: str, gpu: str, tables: Mapping[str, Mapping[Key, Any]]) -> None:
    """Keep sizes for one kind of GPU, in place of those that were there for the same keys."""
    kinds = measured(op)
    for name, rows in tables.items():
        kinds.setdefault(gpu, {}).setdefault(name, {}).update(rows)
    flat = {gpu: {name: [[*row] for row in rows.items()] for name, rows in some.items()} for gpu, some in kinds.items()}
    place(op).write_text(json.dumps(flat, indent=1) + "\n")


def _like(sane: Any, read: Any) -> Any:
    if isinstance(sane, dict):
        return {name: _like(value, read.get(name, value)) for name, value in sane.items()}
    if isinstance(sane, tuple):
        parts = [_like(a, b) for a, b in zip(sane, read, strict=True)]
        return type(sane)(*parts) if hasattr(sane, "_fields") else tuple(parts)
    return read
