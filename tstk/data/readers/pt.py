"""Reader of `.pt`: a dict of tensors that torch saved, `samples` and `labels` as TS-TCC and TimeMAE keep them.

Only tensors are read, never code. Channels may come before or after the samples in time: the shorter axis is taken for
them, and what was taken is said.
"""

from __future__ import annotations

import pickle
import zipfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from tstk.data.catalog import ARRAYS
from tstk.data.containers import Raw
from tstk.data.readers.npz import GROUPS, Y, part_of
from tstk.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor


def read(path: Path, *, label: str | None = None) -> dict[str, Raw]:
    """The series of one file, as part "train".

    Args:
        path: a file that ends in .pt
        label: the tensor that holds the labels, if it is not called y, labels or label

    Raises:
        DataError: the file is damaged, holds anything but tensors, or its shapes disagree
    """
    tensors = _tensors(path)
    name = next((name for name in ARRAYS if name in tensors), None)
    if name is None:
        raise DataError(f"{path}: no tensor called {' or '.join(ARRAYS)}; it holds: {', '.join(map(str, tensors))}")
    names = Y if label is None else (label,)
    y = next((tensors[name] for name in names if name in tensors), None)
    if label is not None and y is None:
        raise DataError(f"{path}: no tensor called {label!r}; it holds: {', '.join(map(str, tensors))}")
    groups = next((tensors[name] for name in GROUPS if name in tensors), None)
    shape = tuple(tensors[name].shape)
    last = len(shape) == 3 and shape[2] < shape[1]
    raw = part_of(
        partial(_samples, path, name, last),
        None if y is None else y.numpy(),
        None if groups is None else groups.numpy(),
        {},
        str(path),
    )
    if len(shape) == 3:
        axes = "(series, samples, channels)" if last else "(series, channels, samples)"
        raw.told = f"{path.name}: {name} {list(shape)} read as {axes}"
    return {"train": raw}


def _samples(path: Path, name: str, last: bool) -> NDArray[Any]:
    x: Tensor = _tensors(path)[name]
    return (x.transpose(1, 2) if last else x).numpy()


def _tensors(path: Path) -> dict[str, Tensor]:
    """The tensors by name, mapped and not read."""
    import torch

    try:
        # the form before torch 1.6, which is no zip archive, cannot be mapped
        held = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        if not isinstance(error, pickle.UnpicklingError) or not (
            zipfile.is_zipfile(path) or "Unsupported global" in str(error)
        ):
            raise DataError(f"{path}: empty, cut short or not a file of torch.save; write or fetch it again") from None
        raise DataError(
            f"{path}: holds more than tensors, which is never loaded; save it again with "
            "torch.save({'samples': torch.as_tensor(x), 'labels': torch.as_tensor(y)}, FILE)"
        ) from None
    if not isinstance(held, dict) or not all(isinstance(one, torch.Tensor) for one in held.values()):
        raise DataError(f"{path}: expected a dict of tensors, such as {{'samples': x, 'labels': y}}")
    for key, one in held.items():
        if one.layout != torch.strided or one.is_quantized:
            raise DataError(f"{path}: {key!r} is sparse or quantized; save it as a plain tensor of numbers")
        if one.numel() * one.element_size() > one.untyped_storage().nbytes():
            raise DataError(f"{path}: {key!r} claims more samples than it holds (expanded?); save {key}.contiguous()")
    return {str(name): one.detach() for name, one in held.items()}
