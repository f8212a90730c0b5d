"""The readable side of a run directory: whether a path is one, its config.json, files written whole or not at all.

    model.safetensors   the best weights by validation, with the data's scaling
    config.json         resolved options with qualified names, Spec, class names, versions
    metrics.jsonl       a line per epoch
    result.json         scores, baselines, parameters, seconds, the command

Nothing here imports torch; `tstk/checkpoint.py` has the weights.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tstk.errors import CheckpointError
from tstk.registry import registry, same

FORMAT = 1
WEIGHTS = "model.safetensors"


def is_run(slot: str, use: str) -> bool:
    """Whether a slot was given a run directory rather than a component: a component's name always wins."""
    if any(same(use, name) for name in registry().names(slot)):
        return False
    return Path(use, "config.json").is_file() or (os.sep in use and Path(use).is_dir())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file or nothing: a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write text, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_config(folder: str | Path) -> dict[str, Any]:
    """config.json of a run.

    Raises:
        CheckpointError: there is none, it is damaged, or it is not ours
    """
    path = Path(folder, "config.json")
    if not path.is_file():
        raise CheckpointError(f"{folder} is not a run directory: it has no config.json")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as e:
        raise CheckpointError(f"{path} is damaged: {e}; train the run again, or fetch it again") from None
    if not isinstance(found, dict) or not isinstance(found.get("format"), int):
        raise CheckpointError(f"{path} was not written by tstk")
    if found["format"] > FORMAT:
        said = found.get("versions")
        wrote = said.get("tstk", "a later version") if isinstance(said, dict) else "a later version"
        raise CheckpointError(
            f"{folder} was written by tstk {wrote}, in a format this version does not know: pip install --upgrade tstk"
        )
    tables: Any = found.get("config")
    whole = all(isinstance(found.get(name), dict) for name in ("config", "spec", "versions", "data"))
    if not whole or not all(isinstance(t, dict) and isinstance(t.get("use", ""), str) for t in tables.values()):
        raise CheckpointError(f"{path} was not written by tstk, or was changed by hand; train the run again")
    return found
