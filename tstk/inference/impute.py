"""Fill the missing samples of files with a trained run, and score it on samples that are hidden."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tstk.core.imputation import find_sample_predictor, impute_samples
from tstk.core.repr import ShortRepr
from tstk.errors import OptionError
from tstk.evaluation.imputation import score_imputation
from tstk.files import atomic_write, write_bytes
from tstk.inference.predict import load_run
from tstk.inference.recordings import Recordings, load_recordings


@dataclass(repr=False)
class Imputation(ShortRepr):
    """Series whose missing samples were filled.

    Args:
        values: [N, C, T] in the units of the data; NaN where nothing could be predicted
        filled: [N, C, T] bool, the samples that were filled
        recordings: the series as they were
        method: masked or reconstruction
    """

    values: NDArray[Any]
    filled: NDArray[np.bool_]
    recordings: Recordings
    method: str

    def describe_missing(self) -> list[str]:
        """Return a line for each reason for which samples are still missing."""
        recordings, missing = self.recordings, np.isnan(self.values)
        time = np.arange(missing.shape[2])
        missing &= (time < recordings.ends.numpy()[:, None])[:, None]
        if not missing.any():
            return []
        never = np.isnan(recordings.values).all(2)
        lines = []
        if (missing & never[:, :, None]).any():
            names = [name for name, absent in zip(recordings.channels, never.any(0), strict=True) if absent]
            lines.append(f"{(missing & never[:, :, None]).sum():,} samples of channels that were never observed")
            lines[-1] += f" ({', '.join(names)}) stay missing"
        if rest := int((missing & ~never[:, :, None]).sum()):
            lines.append(f"{rest:,} samples stay missing: no window of the run observes their channel beside them")
        return lines


def impute(
    run: str | Path,
    data: str | None = None,
    *,
    data_root: str | None = None,
    stride: int | None = None,
    batch_size: int = 256,
) -> Imputation:
    """Fill the missing samples of series, or of a table.

    Args:
        run: run directory
        data: name or path; the table or the test series of the run if None
        data_root: folder to look up data sets by name in
        stride: samples from one window to the next; half a window if None
        batch_size: windows at a time

    Raises:
        CheckpointError: the run cannot be loaded
        OptionError: it predicts no samples
        DataError: the data do not fit the run
    """
    pipeline, run_config = load_run(run)
    recordings = load_recordings(pipeline, run_config, data, data_root=data_root)
    predicted = impute_samples(
        pipeline,
        recordings.x,
        ends=recordings.ends,
        stride=stride,
        batch_size=batch_size,
        source=recordings.source,
    )
    filled = np.isnan(recordings.values) & np.isfinite(predicted)
    values = recordings.values.copy()
    values[filled] = pipeline.add_offset(torch.from_numpy(predicted)).numpy()[filled]
    return Imputation(values, filled, recordings, find_sample_predictor(pipeline) or "")


def score_run(
    run: str | Path,
    data: str | None = None,
    *,
    data_root: str | None = None,
    stride: int | None = None,
    batch_size: int = 256,
    seed: int = 0,
) -> dict[str, Any]:
    """Hide observed samples, and score a run beside simple methods in units of the training standard deviation.

    Args:
        run: run directory
        data: name or path; the test split of the run if None
        data_root: folder to look up data sets by name in
        stride: samples from one window to the next; half a window if None
        batch_size: windows at a time
        seed: of the samples to hide

    Returns:
        "data", "block" (samples per block), "seed" and "scores", see `score_imputation`
    """
    pipeline, run_config = load_run(run)
    recordings = load_recordings(pipeline, run_config, data, data_root=data_root, split="test")
    mean, std = pipeline.mean.cpu(), pipeline.std.cpu()

    def fill(x: NDArray[np.float64]) -> NDArray[np.float64]:
        raw = (torch.from_numpy(x) * std + mean).float()
        ends = recordings.ends
        predicted = impute_samples(pipeline, raw, ends=ends, stride=stride, batch_size=batch_size)
        return (predicted - mean.numpy()) / std.numpy()

    block = max(2, pipeline.spec.length // 8)
    standardized = ((recordings.x - mean) / std).double().numpy()
    scores = score_imputation(standardized, fill, block=block, seed=seed)
    return {"data": recordings.source, "block": block, "seed": seed, "scores": scores}


# -------------------------------------------------------------------- files


def write_imputation(path: Path, imputation: Imputation, *, replace: bool) -> None:
    """Write filled series in the layout of the file that they came from.

    A table keeps its header, its dates and the text of its cells; an archive keeps its other arrays. A new archive
    has rows, ids, groups, labels and targets of the series.

    Args:
        path: .npz; for tables also .csv and .parquet
        imputation: what to write
        replace: whether an existing file may be replaced

    Raises:
        OptionError: series that are not a table are written as .npz only
        FileError: the file cannot be written
    """
    suffix = path.suffix.lower()
    if suffix != ".npz" and not imputation.recordings.is_table:
        raise OptionError(f"--out {path}: a set of series is written as .npz; only a table is written as {suffix}")
    if suffix == ".npz":
        arrays = _fill_archive(imputation)
        with atomic_write(path, sum(array.nbytes for array in arrays.values()), replace=replace) as file:
            np.savez(file, allow_pickle=False, **arrays)
    elif suffix == ".csv":
        write_bytes(path, _fill_csv(imputation).encode(), replace=replace)
    else:
        _write_parquet(path, imputation, replace)


def _fill_archive(imputation: Imputation) -> dict[str, NDArray[Any]]:
    """Return the arrays of the archive that the series came from with the missing samples filled, or new ones."""
    recordings = imputation.recordings
    if Path(recordings.source).suffix.lower() == ".npz" and Path(recordings.source).is_file():
        with np.load(recordings.source, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        for array in arrays.values():
            if array.dtype.kind == "f" and array.size == recordings.values.size:
                read = array.reshape(recordings.values.shape).astype(recordings.values.dtype)
                if np.array_equal(read, recordings.values, equal_nan=True):
                    filled = imputation.filled.reshape(array.shape)
                    array[filled] = imputation.values.reshape(array.shape)[filled]
                    return arrays
    arrays = {"X": imputation.values, "channels": np.array(recordings.channels)}
    if recordings.dates is not None:
        arrays["dates"] = recordings.dates
    return arrays | recordings.identify() | recordings.targets


def _fill_csv(imputation: Imputation) -> str:
    """Return the text of the table: that of its own file where it is one, with the missing cells filled."""
    recordings, table, filled = imputation.recordings, imputation.values[0].T, imputation.filled[0].T
    source = Path(recordings.source)
    rows: list[list[str]] = []
    if source.suffix.lower() == ".csv" and source.is_file():
        text = source.read_text("utf-8-sig")
        rows = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    header = [name.strip() for name in rows[0]] if rows else []
    columns = [header.index(name.strip()) for name in recordings.channels if name.strip() in header]
    if len(columns) < len(recordings.channels) or len(rows) != len(table) + 1:
        dates = recordings.dates
        header = [*(["date"] if dates is not None else []), *recordings.channels]
        first = len(header) - len(recordings.channels)
        rows = [header] + [[*([str(dates[i])] if dates is not None else []), *map(str, r)] for i, r in enumerate(table)]
        columns = list(range(first, len(header)))
    for i, k in zip(*filled.nonzero(), strict=True):
        rows[i + 1][columns[k]] = str(table[i, k])
    output = io.StringIO()
    csv.writer(output, lineterminator="\n").writerows(rows)
    return output.getvalue()


def _write_parquet(path: Path, imputation: Imputation, replace: bool) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    recordings, source = imputation.recordings, Path(imputation.recordings.source)
    if source.suffix.lower() == ".parquet" and source.is_file():
        table = pq.read_table(source)
    else:
        dates = {} if recordings.dates is None else {"date": recordings.dates}
        columns = dict(zip(recordings.channels, recordings.values[0], strict=True))
        table = pa.table({**dates, **columns})
    for name, values, filled in zip(recordings.channels, imputation.values[0], imputation.filled[0], strict=True):
        if filled.any():
            index = table.column_names.index(name)
            cells = table.column(name).to_pylist()
            for row in filled.nonzero()[0]:
                cells[row] = values[row].item()
            table = table.set_column(index, name, pa.array(cells, type=_float_type(pa, table.schema.field(name).type)))
    with atomic_write(path, table.nbytes, replace=replace) as file:
        pq.write_table(table, file)


def _float_type(pa: Any, column_type: Any) -> Any:
    return column_type if pa.types.is_floating(column_type) else pa.float64()
