"""Fill the missing samples of files with a trained run, and score it on samples that are hidden."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tstk.core.imputation import find_sample_predictor, impute_samples
from tstk.core.repr import ShortRepr
from tstk.data.columns import Reader
from tstk.data.readers.csv import replace_cells
from tstk.errors import OptionError
from tstk.evaluation.imputation import score_imputation
from tstk.files import atomic_write, format_csv, write_bytes
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
    reader: Reader | None = None,
    stride: int | None = None,
    batch_size: int = 256,
) -> Imputation:
    """Fill the missing samples of series, or of a table.

    Args:
        run: run directory
        data: name or path; the table or the test series of the run if None
        data_root: folder to look up data sets by name in
        reader: of these data, as of `predict`
        stride: samples from one window to the next; half a window if None
        batch_size: windows at a time

    Raises:
        CheckpointError: the run cannot be loaded
        OptionError: it predicts no samples
        DataError: the data do not fit the run
    """
    pipeline, run_config = load_run(run)
    recordings = load_recordings(pipeline, run_config, data, data_root=data_root, reader=reader)
    predicted = impute_samples(
        pipeline, recordings.x, ends=recordings.ends, stride=stride, batch_size=batch_size, source=recordings.source
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
    reader: Reader | None = None,
    stride: int | None = None,
    batch_size: int = 256,
    seed: int = 0,
) -> dict[str, Any]:
    """Hide observed samples, and score a run beside simple methods in units of the training standard deviation.

    Args:
        run: run directory
        data: name or path; the test split of the run if None
        data_root: folder to look up data sets by name in
        reader: of these data, as of `predict`
        stride: samples from one window to the next; half a window if None
        batch_size: windows at a time
        seed: of the samples to hide

    Returns:
        "data", "block" (samples per block), "seed" and "scores", see `score_imputation`
    """
    pipeline, run_config = load_run(run)
    recordings = load_recordings(pipeline, run_config, data, data_root=data_root, reader=reader, split="test")
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


def write_imputation(path: Path, imputation: Imputation, *, replace: bool) -> list[str]:
    """Write filled series in the layout of the file that they came from.

    A text table keeps the text of all rows in which nothing was missing, a Parquet table its columns; an archive keeps
    its other arrays. A new archive has rows, ids, groups, labels and targets of the series, and "inserted" [N, T],
    where --regularize inserted samples.

    Args:
        path: .npz; for tables also .csv and .parquet
        imputation: what to write
        replace: whether an existing file may be replaced

    Returns:
        a line for each thing of the file they came from that could not be kept

    Raises:
        OptionError: series that are not a table are written as .npz only
        FileError: the file cannot be written
    """
    suffix = path.suffix.lower()
    if suffix != ".npz" and not imputation.recordings.is_table:
        raise OptionError(f"--out {path}: a set of series is written as .npz; only a table is written as {suffix}")
    if suffix == ".npz":
        arrays, notes = _fill_archive(imputation)
        with atomic_write(path, sum(array.nbytes for array in arrays.values()), replace=replace) as file:
            np.savez(file, allow_pickle=False, **arrays)
    elif suffix == ".csv":
        text, notes = _fill_csv(imputation)
        write_bytes(path, text, replace=replace)
    else:
        notes = _write_parquet(path, imputation, replace)
    return notes


def _describe_rewrite(imputation: Imputation) -> str:
    """Return a line that says that the layout of a table is lost, and why."""
    return (
        f"{imputation.recordings.source} has other rows or columns than the {imputation.values.shape[2]:,} rows that "
        "were filled (--regularize inserts missing ones), so the table is written anew, with times and channels alone"
    )


def _fill_archive(imputation: Imputation) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """Return the arrays of the archive that the series came from with the missing samples filled, or new ones."""
    recordings, others = imputation.recordings, set[str]()
    if Path(recordings.source).suffix.lower() == ".npz" and Path(recordings.source).is_file():
        with np.load(recordings.source, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        if any(_fill_array(array, imputation) for array in arrays.values()):
            return arrays, []
        others = set(arrays)
    arrays = {"X": imputation.values, "channels": np.array(recordings.channels)}
    if recordings.dates is not None:
        arrays["dates"] = recordings.dates
    if (positions := recordings.positions) is not None:
        arrays["inserted"] = np.ones((len(recordings), recordings.values.shape[2]), bool)
        for row, places, end in zip(arrays["inserted"], positions, recordings.ends.tolist(), strict=True):
            row[places], row[end:] = False, False
    arrays |= recordings.identify() | recordings.targets
    lost = sorted(name for name in others - set(arrays) if not name.lower().startswith("x"))
    notes = [f"the series are a part of {recordings.source}; its arrays {', '.join(lost)} are not written as they are"]
    return arrays, notes if lost else []


def _fill_array(array: NDArray[Any], imputation: Imputation) -> bool:
    """Fill the missing samples of an array in place if it holds the series, channels first or last."""
    values = imputation.recordings.values
    if array.dtype.kind != "f" or array.size != values.size:
        return False
    for samples in (array, np.swapaxes(array, -1, -2)) if array.ndim == 3 else (array,):
        read = samples.reshape(values.shape).astype(values.dtype)
        if np.array_equal(read, values, equal_nan=True):
            filled = imputation.filled.reshape(samples.shape)
            samples[filled] = imputation.values.reshape(samples.shape)[filled]
            return True
    return False


def _fill_csv(imputation: Imputation) -> tuple[bytes, list[str]]:
    """Return the text of the table: that of its own file where it is one, with the missing cells filled."""
    recordings, table, filled = imputation.recordings, imputation.values[0].T, imputation.filled[0].T
    notes: list[str] = []
    if (options := recordings.csv_options) is not None:
        names = recordings.channels
        cells = {(int(i), names[k]): table[i, k] for i, k in zip(*filled.nonzero(), strict=True)}
        text = replace_cells(Path(recordings.source), cells, len(table), **options)
        if text is not None:
            return text, notes
        notes.append(_describe_rewrite(imputation))
    dates = recordings.dates
    rows = [[*(["date"] if dates is not None else []), *recordings.channels]]
    for i, values in enumerate(table):
        rows.append([*([str(dates[i])] if dates is not None else []), *("" if v != v else str(v) for v in values)])
    return format_csv(rows).encode(), notes


def _write_parquet(path: Path, imputation: Imputation, replace: bool) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    recordings, source, notes = imputation.recordings, Path(imputation.recordings.source), list[str]()
    table = pq.read_table(source) if source.suffix.lower() == ".parquet" and source.is_file() else None
    if table is not None and (
        table.num_rows != imputation.values.shape[2] or not set(recordings.channels) <= set(table.column_names)
    ):
        table, notes = None, [_describe_rewrite(imputation)]
    if table is None:
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
    return notes


def _float_type(pa: Any, column_type: Any) -> Any:
    return column_type if pa.types.is_floating(column_type) else pa.float64()
