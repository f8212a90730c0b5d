"""Codes of series from a run with discrete tokens, as arrays or as files for TOTEM's forecaster."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tstk.config.records import RunConfig
from tstk.core.pipeline import Pipeline
from tstk.core.types import Series
from tstk.data.load import load as load_data
from tstk.errors import OptionError
from tstk.evaluation.evaluate import iter_batches
from tstk.inference.predict import Arrays, open_run
from tstk.runs.checkpoint import load


def tokenize(
    run: str | Path,
    data: str | None = None,
    *,
    data_root: str | None = None,
    label_column: str | None = None,
    batch_size: int = 256,
) -> Arrays:
    """Compute the codes of every series, or of every window of a table.

    Args:
        run: run directory
        data: name or path; the test split of the run if None
        data_root: folder to look up data sets by name in
        label_column: column or array with the labels, if it has an unusual name
        batch_size: series at a time

    Returns:
        "codes" [N, C, n] int32, -1 where nothing was observed (C is 1 if a code covers all channels), "codebook"
        [K, D], and if the series are labelled "y" [N] class index and "classes" names

    Raises:
        CheckpointError: the run cannot be loaded
        OptionError: its tokens are not discrete
        DataError: the data do not fit the run
    """
    pipeline, split, run_config = open_run(run, data, data_root=data_root, label_column=label_column)
    codebook = _get_codebook(pipeline, run)
    with torch.no_grad():
        codes = [
            compute_codes(pipeline, series).cpu() for series in iter_batches(split, batch_size, pipeline.mean.device)
        ]
    result: Arrays = {"codes": torch.cat(codes).numpy(), "codebook": codebook}
    return result if split.y is None else result | {"y": split.y.numpy(), "classes": np.array(run_config.classes)}


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
        out_dir: folder for the files `{train,val,test}_{x,y}_{original,codes}.npy` and `codebook.npy`
        data: name or path of a table; the table the run was trained on if None
        data_root: folder to look up data sets by name in
        batch_size: windows at a time

    Returns:
        split -> number of windows

    Raises:
        CheckpointError: the run cannot be loaded
        OptionError: its tokens are not discrete, or it was not trained on a table with independent channels
        DataError: the data do not fit the run
    """
    pipeline = load(run).to("cuda" if torch.cuda.is_available() else "cpu")
    codebook = _get_codebook(pipeline, run)
    if pipeline.spec.horizon is None or not pipeline.channel_independent:
        raise OptionError(f"--layout totem: {run} was not trained on a table with independent channels")
    run_config = RunConfig.read(run)
    options = run_config.options("data")
    if data is not None or data_root is not None:
        options["data_root"] = data_root
    splits = load_data(data or str(run_config.component("data")), **options).splits
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    np.save(out_dir / "codebook.npy", codebook)
    for name, split in splits.items():
        arrays: dict[str, list[Tensor]] = {}
        with torch.no_grad():
            for series in iter_batches(split, batch_size, pipeline.mean.device):
                assert series.y is not None
                future = series.replace(x=series.y.nan_to_num(), observed=series.y.isfinite(), y=None)
                steps = -(-series.y.shape[-1] // int(pipeline.tokenizer.out.stride or 1))
                x, y = compute_codes(pipeline, series), compute_codes(pipeline, future)[..., -steps:]
                for kind, values in (
                    ("x_original", series.x),
                    ("y_original", series.y),
                    ("x_codes", x),
                    ("y_codes", y),
                ):
                    arrays.setdefault(kind, []).append(values.cpu().transpose(1, 2))
        for kind, batches in arrays.items():
            np.save(out_dir / f"{name}_{kind}.npy", torch.cat(batches).numpy())
    return {name: len(split) for name, split in splits.items()}


def compute_codes(pipeline: Pipeline, series: Series) -> Tensor:
    """Compute the codes of the context, [B, C, n] int32; -1 where nothing was observed."""
    tokens = pipeline.tokenize(series).tokens
    assert tokens.ids is not None
    count = int(-(-pipeline.spec.length // (pipeline.tokenizer.out.stride or 1)))
    ids = tokens.ids.where(tokens.valid, -1)[:, :count].to(torch.int32)
    return ids.reshape(len(series.x), -1, ids.shape[1])


def _get_codebook(pipeline: Pipeline, run: str | Path) -> NDArray[np.float32]:
    if pipeline.tokenizer.out.vocab_size is None:
        raise OptionError(
            f"{run}: its {pipeline.tokenizer.display_name()} makes no discrete tokens, so it has no codes"
        )
    with torch.no_grad():
        ids = torch.arange(pipeline.tokenizer.out.vocab_size, device=pipeline.mean.device)
        return np.asarray(pipeline.tokenizer.embed(ids).float().cpu().numpy())
