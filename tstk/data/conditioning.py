"""Read the conditioning of series, such as encoded texts, from `.npz` files.

A file holds for each split either its states, `train` [N, S, D] or [N, D] (and `valid_train` [N, S] if some are
padding), or indices `train` [N] into common `states` [U, S, D] (and `valid` [U, S]). Likewise for `val` and `test`.
N counts the series of the split, in order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tstk.data.containers import SeriesSet
from tstk.data.datasets import Conditioning
from tstk.data.readers.npz import open_arrays
from tstk.errors import DataError, OptionError

Arrays = Mapping[str, NDArray[Any]]


def load_conditioning(
    name_file_pairs: Sequence[str], series_sets: Mapping[str, SeriesSet]
) -> dict[str, dict[str, Conditioning]]:
    """Read the conditioning of all splits.

    Args:
        name_file_pairs: NAME=FILE each
        series_sets: the splits of the data

    Returns:
        name -> split -> conditioning

    Raises:
        OptionError: a pair is not of the form NAME=FILE.npz
        DataError: a file cannot be read, or does not match the splits
    """
    conditioning: dict[str, dict[str, Conditioning]] = {}
    for pair in name_file_pairs:
        name, equals, file = pair.partition("=")
        path = Path(file).expanduser()
        if not equals or not name or path.suffix != ".npz":
            raise OptionError(f"--conditioning {pair}: expected NAME=FILE.npz, such as text=notes.npz")
        if not path.is_file():
            raise DataError(f"--conditioning {pair}: {path} cannot be read: there is no such file")
        arrays = {key: array() for key, array in open_arrays(path).items()}
        conditioning[name] = {
            split: _build_conditioning(arrays, split, len(series_set.x), str(path))
            for split, series_set in series_sets.items()
        }
    return conditioning


def _build_conditioning(arrays: Arrays, split: str, num_series: int, path: str) -> Conditioning:
    if split not in arrays:
        raise DataError(f"{path}: no array called {split!r} for that split; it holds: {', '.join(arrays)}")
    array = arrays[split]
    if len(array) != num_series:
        raise DataError(f"{path}: {split!r} is for {len(array)} series, and the split has {num_series}")
    if array.dtype.kind in "iu" and array.ndim == 1:
        if "states" not in arrays:
            raise DataError(f"{path}: {split!r} holds indices into an array 'states', which is missing")
        states, valid, state_index = arrays["states"], arrays.get("valid"), array
    else:
        states, valid, state_index = array, arrays.get(f"valid_{split}"), np.arange(num_series)
    states = states[:, None] if states.ndim == 2 else states
    valid = np.ones(states.shape[:2], bool) if valid is None else valid
    if states.ndim != 3 or states.dtype.kind != "f" or not np.isfinite(states).all():
        raise DataError(f"{path}: states are {states.dtype} {states.shape}; expected finite floats [series, S, D]")
    if valid.shape != states.shape[:2] or valid.dtype != bool:
        raise DataError(f"{path}: valid is {valid.dtype} {valid.shape}; expected bool {states.shape[:2]}")
    if state_index.min() < 0 or state_index.max() >= len(states):
        raise DataError(
            f"{path}: {split!r} holds indices from {state_index.min()} to {state_index.max()}, "
            f"and there are {len(states)} states"
        )
    return Conditioning(
        torch.from_numpy(states.astype(np.float32)), torch.from_numpy(valid), torch.from_numpy(state_index).long()
    )
