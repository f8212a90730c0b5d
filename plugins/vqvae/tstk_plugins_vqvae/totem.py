"""Windows and codes of a table as the files that TOTEM's forecaster reads (arXiv:2402.16412)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tstk.config.records import RunConfig
from tstk.core.finite import check_rows, find_bad_rows
from tstk.core.pipeline import Pipeline
from tstk.core.types import Split
from tstk.data.config import DataConfig
from tstk.data.identity import locate_run_data
from tstk.data.load import load_data
from tstk.errors import OptionError
from tstk.evaluation.evaluate import iter_batches
from tstk.files import atomic_folder, check_new_folder
from tstk.inference.tokenize import compute_codes, get_codebook
from tstk.nn.devices import default_device
from tstk.runs.checkpoint import load


def write_totem_files(
    run: str | Path,
    out_dir: str | Path,
    data: str | None = None,
    *,
    data_root: str | None = None,
    batch_size: int = 256,
) -> dict[str, int]:
    """Write the windows and codes of a table as the files that TOTEM's forecaster reads, time before channels.

    As in TOTEM, targets are normalized and tokenized as series of their own.

    Args:
        run: run directory
        out_dir: new folder for the files `{train,val,test}_{x,y}_{original,codes}.npy` and `codebook.npy`
        data: name or path of a table; the table the run was trained on if None
        data_root: folder to look up data sets by name in
        batch_size: windows at a time

    Returns:
        split -> number of windows

    Raises:
        CheckpointError: the run cannot be loaded
        OptionError: its tokens are not discrete, or it was not trained on a table with independent channels
        DataError: the data do not fit the run, or a window is too large for float32
        FileError: `out_dir` exists and is not empty, or cannot be written
    """
    check_new_folder(Path(out_dir))
    pipeline = load(run).to(default_device())
    codebook = get_codebook(pipeline, run)
    if pipeline.spec.horizon is None or not pipeline.channel_independent:
        raise OptionError(f"{run} was not trained on a table with independent channels")
    run_config = RunConfig.read(run)
    if data is None:
        options = locate_run_data(run_config, data_root)
    else:
        options = run_config.options("data") | {"use": data, "data_root": data_root}
    splits = load_data(options.pop("use"), DataConfig(**options)).splits
    with atomic_folder(Path(out_dir)) as folder:
        np.save(folder / "codebook.npy", codebook)
        for name, split in splits.items():
            source = f"{data or run_config.component('data')}, {name} split"
            for kind, values in _compute_arrays(pipeline, split, batch_size, source).items():
                np.save(folder / f"{name}_{kind}.npy", values)
    return {name: len(split) for name, split in splits.items()}


def _compute_arrays(pipeline: Pipeline, split: Split, batch_size: int, source: str) -> dict[str, NDArray[Any]]:
    """Return the windows of a split and their codes, [windows, time, channels].

    Raises:
        DataError: a window is too large for float32; it names `source`
    """
    arrays: dict[str, list[Tensor]] = {}
    bad_rows = list[Tensor]()
    with torch.no_grad():
        for series in iter_batches(split, batch_size, pipeline.mean.device):
            assert series.y is not None
            future = series.replace(x=series.y.nan_to_num(), observed=series.y.isfinite(), y=None)
            bad_rows.append(
                find_bad_rows(series, (), pipeline.mean, pipeline.std)
                | find_bad_rows(future, (), pipeline.mean, pipeline.std)
            )
            steps = -(-series.y.shape[-1] // int(pipeline.tokenizer.out.stride or 1))
            x, y = compute_codes(pipeline, series), compute_codes(pipeline, future)[..., -steps:]
            for kind, values in (("x_original", series.x), ("y_original", series.y), ("x_codes", x), ("y_codes", y)):
                arrays.setdefault(kind, []).append(values.cpu().transpose(1, 2))
    check_rows(bad_rows, pipeline, source, "codes")
    return {kind: torch.cat(batches).numpy() for kind, batches in arrays.items()}
