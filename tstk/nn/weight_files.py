"""Reading files of weights that other programs wrote: safetensors, and what torch.save wrote. Only tensors are loaded.

A file of torch.save is a pickle. torch's restricted unpickler reads it, which creates tensors and Python's own
containers and nothing else, so that a file cannot run code.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tstk.errors import CheckpointError
from tstk.files import check_readable

STATE_KEYS = ("state_dict", "model_state_dict", "model", "module")
"""Keys under which training scripts save a state dict together with other things."""
MAX_NAMED = 5
"""Tensors that a message names."""
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")


def load_weight_file(path: Path, safe_classes: Sequence[type] = ()) -> Any:
    """Load the tensors of one file, in the containers that hold them.

    Args:
        path: of a file
        safe_classes: whose instances may be created from the file, by setting attributes, beside tensors

    Raises:
        FileError: it cannot be opened
        CheckpointError: the file is damaged, is something else, or holds other objects than tensors
    """
    from safetensors.torch import load_file

    check_readable(path)
    with path.open("rb") as file:
        start = file.read(512).lstrip().lower()
    if not start:
        raise CheckpointError(f"{path} is empty; download it again")
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a pointer of Git LFS, not the weights; run 'git lfs pull' in its repository")
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError(f"{path} is a web page, not weights; download the file itself")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(list(safe_classes)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # an unpickler may raise anything on damaged bytes
        if isinstance(error, pickle.UnpicklingError) and "Unsupported global" in str(error):
            found = _GLOBAL.search(str(error))
            raise CheckpointError(
                f"{path} holds more than tensors, and other objects are never loaded{f' ({found[1]})' if found else ''}"
                "; where the program that wrote it is installed, save its tensors alone: "
                f"torch.save(torch.load({path.name!r}, weights_only=False).state_dict(), 'weights.pt')"
            ) from None
        reason = (str(error).splitlines() or [type(error).__name__])[0].split(". ")[0][:200]
        raise CheckpointError(f"{path} is damaged: {reason}; download it again") from None


def find_state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """Return the tensors of a dict, or of the one dict of tensors in it.

    Args:
        content: from `load_weight_file`
        path: of the file, for messages

    Raises:
        CheckpointError: there is none, or there are several
    """
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}; expected a state dict, tensors by name")
    is_nested = any(_select_tensors(content.get(key)) for key in STATE_KEYS)  # maybe beside a tensor, such as a score
    if not is_nested and (tensors := _select_tensors(content)):
        return tensors
    nested = {str(key): tensors for key, value in content.items() if (tensors := _select_tensors(value))}
    key = next((key for key in STATE_KEYS if key in nested), next(iter(nested)) if len(nested) == 1 else None)
    if key is None:
        raise CheckpointError(
            f"{path} holds {'several state dicts' if nested else 'no state dict'}; its keys are "
            f"{shorten_names(map(str, content))}; save one state_dict() alone"
        )
    return nested[key]


def _select_tensors(content: Any) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        return {}
    return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}


def shorten_names(names: Iterable[str]) -> str:
    """Return the first of some names, and the number of others."""
    listed = list(names)
    more = f" and {len(listed) - MAX_NAMED} more" if len(listed) > MAX_NAMED else ""
    return ", ".join(listed[:MAX_NAMED]) + more
