"""Reader of `.pt`: a dict of tensors saved by torch, with `samples` and `labels` as in TS-TCC and TimeMAE.

Only tensors are loaded, never code. Channels may come before or after time, see `tstk.data.arrays`.
"""

from __future__ import annotations

import pickle
import struct
import zipfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import NDArray

from tstk.data.arrays import ROLES, NamedArrays, build_series_set
from tstk.data.catalog import SERIES_ARRAY_NAMES
from tstk.data.columns import ColumnRoles
from tstk.data.containers import SeriesSet
from tstk.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor


def read(
    path: Path,
    roles: ColumnRoles = ColumnRoles(),
    *,
    axes: Literal["auto", "channels-first", "channels-last"] = "auto",
) -> dict[str, SeriesSet]:
    """Read the series of one file, as split "train".

    Args:
        path: a file that ends in .pt
        roles: of tensors, where names do not tell
        axes: of samples in three axes: channels-first is (series, channels, samples); auto takes that, unless names of
            channels, or an axis four times as long as the other, say otherwise

    Raises:
        DataError: the file is damaged, holds anything but tensors, or its shapes disagree
    """
    roles.reject(path, "for tensors, whose samples are at equal distances", ROLES)
    record_sizes = _check_archive(path)
    tensors = _load_tensors(path)
    if record_sizes is not None:
        _check_storages(path, tensors, record_sizes)
    openers = {name: partial(_load_array, path, name) for name in tensors}
    series_set = build_series_set(NamedArrays(openers, roles, str(path), axes=axes))
    if series_set is None:
        names = " or ".join(SERIES_ARRAY_NAMES)
        raise DataError(f"{path}: no tensor called {names}; it holds: {', '.join(tensors)}")
    return {"train": series_set}


def _load_array(path: Path, name: str) -> NDArray[Any]:
    import torch

    tensor = _load_tensors(path)[name].resolve_conj().resolve_neg()
    array: NDArray[Any] = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array


def _check_archive(path: Path) -> set[int] | None:
    """Check the checksums of the archive, which torch does not, and that tensors can be mapped.

    Returns:
        the sizes of its members, or None for a file from before torch 1.6, which is no archive

    Raises:
        DataError: the archive is damaged, or its members are compressed
    """
    try:
        if not zipfile.is_zipfile(path):
            return None
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise DataError(f"{path}: a compressed archive, which torch.save never writes; save it with torch.save")
            if archive.testzip() is not None:
                raise zipfile.BadZipFile
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, struct.error, ValueError):
        raise DataError(f"{path}: damaged, a checksum does not match; write or fetch it again") from None
    return {member.file_size for member in members}


def _check_storages(path: Path, tensors: dict[str, Tensor], record_sizes: set[int]) -> None:
    """Check that each tensor lies in one member of the archive, and not across several."""
    for name, tensor in tensors.items():
        if tensor.numel() and tensor.untyped_storage().nbytes() not in record_sizes:
            raise DataError(f"{path}: {name!r} claims more samples than it holds; write or fetch the file again")


def _load_tensors(path: Path) -> dict[str, Tensor]:
    """Memory-map the tensors by name."""
    import torch

    try:
        # the format before torch 1.6, which is not a zip archive, cannot be mapped
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # an unpickler may raise anything on damaged bytes
        if not isinstance(error, pickle.UnpicklingError) or not (
            zipfile.is_zipfile(path) or "Unsupported global" in str(error)
        ):
            raise DataError(f"{path}: empty, cut short or not a file of torch.save; write or fetch it again") from None
        raise DataError(
            f"{path}: holds more than tensors, and other objects are never loaded; save it again with "
            "torch.save({'samples': torch.as_tensor(x), 'labels': torch.as_tensor(y)}, FILE)"
        ) from None
    if not isinstance(tensors, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise DataError(f"{path}: expected a dict of tensors, such as {{'samples': x, 'labels': y}}")
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise DataError(f"{path}: {name!r} is sparse or quantized; save it as a plain tensor of numbers")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise DataError(f"{path}: {name!r} claims more samples than it holds (expanded?); save {name}.contiguous()")
    return {str(name): tensor.detach() for name, tensor in tensors.items()}
