"""The codes of series, from a run whose tokens are discrete: as arrays, or as the files of another program."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tstk.config.run_directory import read_config
from tstk.core.pipeline import Pipeline
from tstk.core.types import Series
from tstk.data.load import load as load_data
from tstk.errors import OptionError
from tstk.evaluation.evaluate import in_order
from tstk.inference.predict import Arrays, opened
from tstk.runs.checkpoint import load


def tokenize(
    run: str | Path,
    data: str | None = None,
    *,
    data_root: str | None = None,
    label: str | None = None,
    batch_size: int = 256,
) -> Arrays:
    """The codes of every series, or of every window of a table.

    Args:
        run: its directory
        data: name or path; the run's own test part if None
        data_root: folder with data sets to be found by name
        label: column or array that holds the labels, if it has an unusual name
        batch_size: series at a time

    Returns:
        "codes" [N, C, n] int32, -1 where nothing was observed (C is 1 where a code is of all channels), "codebook"
        [K, D], and if the series are labelled "y" [N] class index and "classes" names

    Raises:
        CheckpointError: the run cannot be loaded
        OptionError: its tokens are not discrete
        DataError: the data do not suit it
    """
    pipeline, part, facts = opened(run, data, data_root=data_root, label=label)
    book = _codebook(pipeline, run)
    with torch.no_grad():
        codes = [codes_of(pipeline, series).cpu() for series in in_order(part, batch_size, pipeline.mean.device)]
    answer: Arrays = {"codes": torch.cat(codes).numpy(), "codebook": book}
    return answer if part.y is None else answer | {"y": part.y.numpy(), "classes": np.array(facts["classes"])}


def tokenize_totem(
    run: str | Path,
    out: str | Path,
    data: str | None = None,
    *,
    data_root: str | None = None,
    batch_size: int = 256,
) -> dict[str, int]:
    """Windows and codes of a table as the files that TOTEM's forecaster reads, time before channels.

    A future is normalised and tokenized as a series of its own, as there.

    Args:
        run: its directory
        out: folder of the files `{train,val,test}_{x,y}_{original,codes}.npy` and `codebook.npy`
        data: name or path of a table; the one the run was trained on if None
        data_root: folder with data sets to be found by name
        batch_size: windows at a time

    Returns:
        part -> number of windows

    Raises:
        CheckpointError: the run cannot be loaded
        OptionError: its tokens are not discrete, or it was not trained on a table
        DataError: the data do not suit it
    """
    pipeline = load(run).to("cuda" if torch.cuda.is_available() else "cpu")
    book = _codebook(pipeline, run)
    if pipeline.spec.horizon is None or not pipeline.independent:
        raise OptionError(f"--layout totem: {run} was not trained on a table, channel by channel")
    options = read_config(run)["config"]["data"]
    if data is not None:
        options |= {"use": data, "data_root": data_root}
    elif data_root is not None:
        options["data_root"] = data_root
    parts = load_data(**options).parts
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "codebook.npy", book)
    for name, part in parts.items():
        files: dict[str, list[Tensor]] = {}
        with torch.no_grad():
            for series in in_order(part, batch_size, pipeline.mean.device):
                assert series.y is not None
                future = series.but(x=series.y.nan_to_num(), observed=series.y.isfinite(), y=None)
                steps = -(-series.y.shape[-1] // int(pipeline.tokenizer.out.step or 1))
                x, y = codes_of(pipeline, series), codes_of(pipeline, future)[..., -steps:]
                for what, rows in (("x_original", series.x), ("y_original", series.y), ("x_codes", x), ("y_codes", y)):
                    files.setdefault(what, []).append(rows.cpu().transpose(1, 2))
        for what, batches in files.items():
            np.save(folder / f"{name}_{what}.npy", torch.cat(batches).numpy())
    return {name: len(part) for name, part in parts.items()}


def codes_of(pipeline: Pipeline, series: Series) -> Tensor:
    """Codes of the context, [B, C, n] int32; -1 where nothing was observed."""
    tokens = pipeline.tokenize(series).tokens
    assert tokens.ids is not None
    count = int(-(-pipeline.spec.length // (pipeline.tokenizer.out.step or 1)))
    ids = tokens.ids.where(tokens.valid, -1)[:, :count].to(torch.int32)
    return ids.reshape(len(series.x), -1, ids.shape[1])


def _codebook(pipeline: Pipeline, run: str | Path) -> NDArray[np.float32]:
    if pipeline.tokenizer.out.vocab is None:
        raise OptionError(f"{run}: its {pipeline.tokenizer.called()} makes no discrete tokens, so it has no codes")
    with torch.no_grad():
        ids = torch.arange(pipeline.tokenizer.out.vocab, device=pipeline.mean.device)
        return np.asarray(pipeline.tokenizer.embed(ids).float().cpu().numpy())
