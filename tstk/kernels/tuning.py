"""Tuned tile sizes per GPU compute capability, in a `tuned.json` beside each kernel.

A `triton.py` has a table of default sizes by bucketed shape; `load_tuned_sizes` replaces those that were tuned. Tuning
is done offline by `python -m benchmarks.tune`, never while a model runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from tstk.files import write_text

ShapeKey = tuple[Any, ...]
TileSizes = TypeVar("TileSizes")
"""Integers in a dictionary, tuple or named tuple, or tuples of these."""


def load_tuned_sizes(
    op: str, defaults: Mapping[ShapeKey, TileSizes], table: str = "CONFIGS"
) -> dict[ShapeKey, TileSizes]:
    """Return `defaults` with the sizes tuned for this machine's GPU, if there are any.

    Args:
        op: folder of the operation
        defaults: sizes by bucketed shape
        table: name of the table in `triton.py`
    """
    tuned = read_tuned_sizes(op).get(get_compute_capability(), {}).get(table, {})
    return {key: _restore_types(sizes, tuned[key]) if key in tuned else sizes for key, sizes in defaults.items()}


def ceil_div(numbers: int, tile: int) -> int:
    """Return how many tiles hold the numbers; `triton.cdiv` takes 2 us of Python outside of kernels."""
    return -(-numbers // tile)


def next_power_of_2(n: int) -> int:
    """Return the smallest power of 2 that is at least n, a positive number; as `ceil_div`, not by Triton."""
    return 1 << (n - 1).bit_length()


def get_compute_capability() -> str:
    """Return the compute capability of this machine's GPU, such as 9.0; an empty string without one."""
    import torch

    return ".".join(map(str, torch.cuda.get_device_capability())) if torch.cuda.is_available() else ""


def get_tuned_path(op: str) -> Path:
    """Return the path of the tuned sizes of an operation."""
    return Path(__file__).parent / op / "tuned.json"


def read_tuned_sizes(op: str) -> dict[str, dict[str, dict[ShapeKey, Any]]]:
    """Return tuned sizes by compute capability, table name and key; tuples in sizes are lists."""
    if not get_tuned_path(op).exists():
        return {}
    by_capability = json.loads(get_tuned_path(op).read_text())
    return {
        capability: {name: {tuple(key): sizes for key, sizes in rows} for name, rows in tables.items()}
        for capability, tables in by_capability.items()
    }


def write_tuned_sizes(op: str, capability: str, tables: Mapping[str, Mapping[ShapeKey, Any]]) -> None:
    """Write sizes tuned for one compute capability, replacing those of the same keys."""
    by_capability = read_tuned_sizes(op)
    for name, rows in tables.items():
        by_capability.setdefault(capability, {}).setdefault(name, {}).update(rows)
    serializable = {
        key: {name: [[*row] for row in rows.items()] for name, rows in named_rows.items()}
        for key, named_rows in by_capability.items()
    }
    write_text(get_tuned_path(op), json.dumps(serializable, indent=1) + "\n")


def _restore_types(default: Any, measured_sizes: Any) -> Any:
    """Return measured sizes as read from JSON in the types of the default sizes."""
    if isinstance(default, dict):
        return {name: _restore_types(value, measured_sizes.get(name, value)) for name, value in default.items()}
    if isinstance(default, tuple):
        parts = [_restore_types(a, b) for a, b in zip(default, measured_sizes, strict=True)]
        return type(default)(*parts) if hasattr(default, "_fields") else tuple(parts)
    return measured_sizes
