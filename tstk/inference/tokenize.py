"""Codes of series from a run with discrete tokens."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tstk.core.finite import check_rows, find_bad_rows
from tstk.core.pipeline import Pipeline
from tstk.core.types import Series
from tstk.data.columns import Reader
from tstk.data.datasets import name_series
from tstk.errors import OptionError
from tstk.evaluation.evaluate import iter_batches
from tstk.inference.identity import Arrays, identify_series
from tstk.inference.predict import describe_targets, open_run


def tokenize(
    run: str | Path,
    data: str | None = None,
    *,
    data_root: str | None = None,
    reader: Reader | None = None,
    label_column: str | None = None,
    batch_size: int = 256,
) -> Arrays:
    """Compute the codes of every series, or of every window of a table.

    Args:
        run: run directory
        data: name or path; the test split of the run if None
        data_root: folder to look up data sets by name in
        reader: name of the reader of these data, or a table of its name and options; if None that of the run, or of the
            suffix
        label_column: column or array with the labels, if it has an unusual name
        batch_size: series at a time; fewer where they are long

    Returns:
        "codes" [N, C, n] int32, -1 where nothing was observed (C is 1 if a code covers all channels), "codebook"
        [K, D], "row", "id" and "group" as from `identify_series`, and "y" and its names as from `describe_targets`

    Raises:
        CheckpointError: the run cannot be loaded
        OptionError: its tokens are not discrete
        DataError: the data do not fit the run, or a series is too large for float32
    """
    pipeline, split, run_config = open_run(run, data, data_root=data_root, reader=reader, label_column=label_column)
    codebook = get_codebook(pipeline, run)
    codes, bad_rows = [], []
    with torch.no_grad():
        for series in iter_batches(split, batch_size, pipeline.mean.device):
            codes.append(compute_codes(pipeline, series).cpu())
            bad_rows.append(find_bad_rows(series, (), pipeline.mean, pipeline.std))
    source = data or str(run_config.component("data"))
    check_rows(bad_rows, pipeline, source, "codes", partial(name_series, split))
    arrays = {"codes": torch.cat(codes).numpy(), "codebook": codebook}
    return arrays | identify_series(split) | describe_targets(pipeline, split)


def compute_codes(pipeline: Pipeline, series: Series) -> Tensor:
    """Compute the codes of the context, [B, C, n] int32; -1 where nothing was observed."""
    tokens = pipeline.tokenize(series).tokens
    assert tokens.ids is not None
    count = int(-(-pipeline.spec.length // (pipeline.tokenizer.out.stride or 1)))
    ids = tokens.ids.where(tokens.valid, -1)[:, :count].to(torch.int32)
    return ids.reshape(len(series.x), -1, ids.shape[1])


def get_codebook(pipeline: Pipeline, run: str | Path) -> NDArray[np.float32]:
    """Return the vector of every code, [K, D].

    Args:
        pipeline: that of the run
        run: run directory, for the message

    Raises:
        OptionError: its tokens are not discrete
    """
    if pipeline.tokenizer.out.vocab_size is None:
        raise OptionError(
            f"{run}: its {pipeline.tokenizer.display_name()} makes no discrete tokens, so it has no codes"
        )
    with torch.no_grad():
        ids = torch.arange(pipeline.tokenizer.out.vocab_size, device=pipeline.mean.device)
        return np.asarray(pipeline.tokenizer.embed(ids).float().cpu().numpy())
