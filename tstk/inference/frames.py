"""`tstk.load`: the pipeline of a run, which takes data frames of pandas as `tstk.fit` does, and returns some.

A frame is read like the training data: by the options of the run, by the names of its columns, and by its index.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tstk.config.records import RunConfig
from tstk.core.finite import name_by_number
from tstk.core.frames import frames_to_array
from tstk.core.pipeline import Pipeline, Pooling
from tstk.core.prediction import Prediction, iter_series, map_batches, predict_batches
from tstk.core.types import Split
from tstk.data.columns import ColumnRoles
from tstk.data.containers import SeriesSet, Table, normalize_labels
from tstk.data.data_module import compute_mean_std
from tstk.data.datasets import SeriesDataset, WindowDataset, name_series
from tstk.data.frames import SOURCE, is_temporal, name_levels, read_frame, to_arrow
from tstk.data.load import read_for_model
from tstk.data.prepare import prepare_split
from tstk.data.readers.frame import Frame
from tstk.data.regularize import check_times
from tstk.data.times import Times, continue_rows
from tstk.errors import DataError, DataNoteWarning, warn_user
from tstk.evaluation.evaluate import iter_batches
from tstk.inference.recordings import get_data_options, warn_of_other_scale
from tstk.runs import checkpoint

if TYPE_CHECKING:
    import pandas

MAX_FORECASTS = 256
"""Series that are forecast at a time."""


def load(run_dir: str | Path, **components: type | str) -> Pipeline:
    """Return the trained pipeline of a run, in eval mode, on the CPU.

    Its `predict` and `embed` take data frames of pandas too.

    Args:
        run_dir: its directory, or a run in the package (pretrained/small) or on the hub (hf://owner/name)
        components: the classes of components that belong to no plugin, or their import paths: `encoder=MyEncoder`

    Raises:
        CheckpointError: the run is damaged, not written by tstk, or needs a plugin or a class that is not there
    """
    pipeline = checkpoint.load(run_dir, **components)
    pipeline.data_frames = RunDataFrames(RunConfig.read(run_dir))
    return pipeline


@dataclass(frozen=True)
class RunDataFrames:
    """Reads data frames as the data of a run, and returns its predictions as data frames.

    Args:
        run_config: of the run
    """

    run_config: RunConfig

    def predict(
        self, pipeline: Pipeline, frame: pandas.DataFrame, *, batch_size: int, horizon: int | None
    ) -> pandas.DataFrame:
        """Predict the series of a frame, or forecast the rows that follow its last one, of each id if there are ids.

        Args:
            pipeline: that of the run
            frame: of pandas
            batch_size: series at a time
            horizon: rows to forecast, that of the run if None
        """
        if self._is_one_series(pipeline, frame):
            x = frames_to_array([frame], pipeline.channel_names)
            return _to_frame(predict_batches(pipeline, iter_series(x, pipeline, 1), source=SOURCE), None)
        if _has_sample_classes(pipeline) and pipeline.resize:
            raise DataError(
                f"{SOURCE}: the classes of this run are those of series resampled to {pipeline.resize} samples, not "
                "those of rows; train without --resize, or write the frame to a file for tstk predict"
            )
        data = self._read(pipeline, frame)
        if pipeline.spec.horizon is not None:
            return self._forecast(pipeline, frame, data, horizon)
        split = self._prepare(pipeline, data)
        prediction = predict_batches(
            pipeline, iter_batches(split, batch_size, "cpu"), source=SOURCE, name_series=partial(name_series, split)
        )
        if _has_sample_classes(pipeline):
            assert isinstance(split, SeriesDataset)
            return _to_sample_frame(prediction, *_locate_samples(frame, split, pipeline.spec.length), frame.index)
        return _to_frame(prediction, self._get_index(frame, split))

    def embed(
        self, pipeline: Pipeline, frame: pandas.DataFrame, pooling: Pooling, *, batch_size: int
    ) -> pandas.DataFrame:
        """Compute one feature vector per series of a frame, or per window of a table: columns `embedding0`, ...

        Args:
            pipeline: that of the run
            frame: of pandas
            pooling: how encoded tokens are reduced to one vector
            batch_size: series at a time
        """
        import pandas

        index, name = None, name_by_number
        if self._is_one_series(pipeline, frame):
            batches = iter_series(frames_to_array([frame], pipeline.channel_names), pipeline, 1)
        else:
            split = self._prepare(pipeline, self._read(pipeline, frame))
            batches = iter_batches(split, batch_size, "cpu")
            index, name = self._get_index(frame, split), partial(name_series, split)
        vectors = map_batches(
            pipeline,
            batches,
            lambda series: pipeline.embed_batch(series.replace(y=None), pooling),
            source=SOURCE,
            name_series=name,
        ).numpy()
        return pandas.DataFrame(vectors, index, [f"embedding{i}" for i in range(vectors.shape[1])])

    def _is_one_series(self, pipeline: Pipeline, frame: pandas.DataFrame) -> bool:
        """Return whether a frame is one series to classify or embed: its columns are the channels."""
        if pipeline.spec.horizon or self.run_config.input_schema.get("cut_length") or _has_sample_classes(pipeline):
            return False  # a table, of which there are windows
        names = pipeline.channel_names
        has_names = names != tuple(map(str, range(len(names))))
        return has_names and frame.index.nlevels == 1 and {*map(str, frame.columns)} == {*names}

    def _read(self, pipeline: Pipeline, frame: pandas.DataFrame) -> SeriesSet | Table:
        """Read a frame by the options of the run and by its index."""
        roles, regularize = get_data_options(self.run_config, SOURCE)
        table, roles = to_arrow(frame, roles)
        channels = pipeline.channel_names
        if pipeline.spec.horizon is not None and set(channels) <= set(table.column_names):
            roles = replace(roles, channels=channels)  # in the order of training, without others
        return read_for_model(frame, input_schema=self._get_schema(pipeline), roles=roles, regularize=regularize)

    def _get_index(self, frame: pandas.DataFrame, split: Split) -> pandas.Index:
        """Return the ids of series that are spread over rows, or the labels of the rows at which they begin."""
        if split.ids is not None and isinstance(split, SeriesDataset) and len(split) < len(frame):
            return _find_labels(frame, split.ids)
        if split.rows is None:
            return frame.index
        if isinstance(split, WindowDataset) and split.recordings is not None:
            return _name_windows(frame, split)
        rows, (roles, regularize) = split.rows.numpy(), get_data_options(self.run_config, SOURCE)
        data: Any = read_frame(frame, roles) if regularize else None
        data = check_times(data, True) if isinstance(data, Table) else None
        if isinstance(data, Table) and data.times is not None and len(data.times.values) > len(frame):
            assert split.ids is not None  # the times at which the windows begin
            return _write_index(split.ids, _find_times(frame, data.times.format.column))
        return frame.index[rows]

    def _get_schema(self, pipeline: Pipeline) -> dict[str, Any]:
        return {**self.run_config.input_schema, "any_length": pipeline.tokenizer.accepts_any_length}

    def _prepare(self, pipeline: Pipeline, data: SeriesSet | Table) -> Split:
        """Return data as the pipeline takes them; set its channels if it takes any, else warn of another scale."""
        split = prepare_split(data, self._get_schema(pipeline), include_targets=False)
        assert isinstance(split, SeriesDataset | WindowDataset)
        x = split.table[None] if isinstance(split, WindowDataset) else split.x
        if self.run_config.split_channels:
            pipeline.set_channels(*compute_mean_std(x))
        else:
            warn_of_other_scale(pipeline, self.run_config, x, SOURCE)
        return split

    def _forecast(
        self, pipeline: Pipeline, frame: pandas.DataFrame, data: SeriesSet | Table, horizon: int | None
    ) -> pandas.DataFrame:
        """Forecast what follows a table, or each series of a set that has ids."""
        import pandas

        if isinstance(data, SeriesSet) and (data.times is None or data.ids is None):
            raise DataError(f"{SOURCE}: these are series without times; give rows with ids and times, or one table")
        split = self._prepare(pipeline, data)
        assert isinstance(split, WindowDataset)
        forecast = forecast_last_windows(pipeline, split, SOURCE, horizon).forecast
        assert forecast is not None
        segments, channels = [split.get_segment(row) for row in split.last_windows.tolist()], pipeline.channel_names
        frames = [
            pandas.DataFrame(values.T, continue_index(frame, segment.times, values.shape[1]), list(channels))
            for values, segment in zip(forecast, segments, strict=True)
        ]
        if isinstance(data, Table):
            return frames[0]
        labels = dict(zip(data.ids or (), known := _find_labels(frame, data.ids or []), strict=True))
        keys = [labels[str(segment.name)] for segment in segments]
        return pandas.concat(frames, keys=keys, names=[known.name, frames[0].index.name])


def forecast_last_windows(
    pipeline: Pipeline, split: WindowDataset, source: str, horizon: int | None = None, samples: int | None = None
) -> Prediction:
    """Forecast what follows the last window of each series.

    Args:
        pipeline: that of a run
        split: windows without targets
        source: of the data, for messages
        horizon: rows to forecast, that of the run if None
        samples: number of sample paths; the default of the loss if None
    """
    rows = split.last_windows
    return predict_batches(
        pipeline,
        map(split.batch, rows.split(MAX_FORECASTS)),
        horizon,
        samples or pipeline.loss.default_num_samples,
        source=source,
        name_series=lambda i: name_series(split, int(rows[i])),
    )


def _to_frame(prediction: Prediction, index: Any) -> pandas.DataFrame:
    """Return predictions with a row per series: the class and its probabilities, or numbers."""
    import pandas

    if prediction.values is not None:
        return pandas.DataFrame(prediction.values, index, list(prediction.target_names))
    assert prediction.labels is not None
    assert prediction.probabilities is not None
    columns = {"predicted": prediction.labels}
    names = [f"probability {name}" for name in prediction.classes]
    columns |= dict(zip(names, prediction.probabilities.T, strict=True))
    return pandas.DataFrame(columns, index)


def _has_sample_classes(pipeline: Pipeline) -> bool:
    """Return whether a pipeline predicts a class per sample."""
    return pipeline.task is not None and pipeline.task.target_type == "sample-class" and pipeline.head is not None


def _locate_samples(frame: pandas.DataFrame, split: SeriesDataset, length: int) -> tuple[Any, Any]:
    """Return the series, or window of a recording, of each row of a frame, and the sample of it that the row is.

    The window is -1 where none is predicted, as it has no sample.

    Args:
        frame: of pandas, whose rows are samples
        split: what was read from it
        length: samples of a window
    """
    import pandas

    ids = None if split.ids is None else list(dict.fromkeys(split.ids))
    codes = np.zeros(len(frame), np.int64)
    if ids is not None and len(ids) > 1:
        values = _find_ids(frame, ids)
        if values is None:
            raise DataError(
                f"{SOURCE}: no column holds the ids {ids[0]!r}, {ids[1]!r} as text; convert it with astype(str)"
            )
        codes = pandas.factorize(values)[0]
    samples = pandas.Series(codes).groupby(codes).cumcount().to_numpy()
    if split.recordings is None or split.rows is None:
        return codes, samples
    names = [""] * len(split) if split.ids is None else split.ids
    windows = {place: i for i, place in enumerate(zip(names, split.rows.tolist(), strict=True))}
    starts, names = (samples // length * length).tolist(), ids or [""]
    places = [(names[code], start) for code, start in zip(codes.tolist(), starts, strict=True)]
    return np.array([windows.get(place, -1) for place in places]), samples % length


def _to_sample_frame(prediction: Prediction, series: Any, samples: Any, index: Any) -> pandas.DataFrame:
    """Return the class of each sample and its probabilities, with a row per sample; missing beyond the last sample.

    Args:
        prediction: of series, a class per sample
        series: [R] the series of each row, or -1
        samples: [R] the sample of it
        index: of the R rows
    """
    assert prediction.labels is not None
    assert prediction.probabilities is not None
    is_known = (series >= 0) & (samples < prediction.labels.shape[1])
    places = np.where(is_known, series, 0), np.where(is_known, samples, 0)
    labels = prediction.labels[places].astype(object)
    labels[~is_known] = None
    probabilities = np.where(is_known[:, None], prediction.probabilities[places[0], :, places[1]], np.nan)
    return _to_frame(replace(prediction, labels=labels, probabilities=probabilities), index)


def _find_labels(frame: pandas.DataFrame, ids: list[str]) -> pandas.Index:
    """Return ids as the index or a column of a frame has them, with its name and type."""
    import pandas

    values = _find_ids(frame, ids)
    return pandas.Index(ids, name="id") if values is None else values.unique()


def _find_ids(frame: pandas.DataFrame, ids: list[str]) -> pandas.Index | None:
    """Return the level of the index, or the column, whose labels are ids, in the order in which they first occur."""
    import pandas

    for values in (*_get_levels(frame), *(pandas.Index(frame.iloc[:, i]) for i in range(len(frame.columns)))):
        labels = values.unique()
        if len(labels) == len(ids) and normalize_labels(labels) == ids:
            return values
    return None


def _name_windows(frame: pandas.DataFrame, split: WindowDataset) -> pandas.Index:
    """Return the series of each window, and the time or the row at which it begins, as a frame has them."""
    import pandas

    ids = [str(segment.name) for segment in split.segments]
    labels, starts, first = _find_labels(frame, ids), split.start_times, split.segments[0].times
    assert split.rows is not None
    assert split.recordings is not None
    if starts is None or first is None:
        begins = pandas.Index(split.rows.numpy(), name="row")
    else:
        begins = _write_index(starts, _find_times(frame, first.format.column))
    names = labels.take(split.recordings.numpy())
    return pandas.MultiIndex.from_arrays([names, begins], names=[labels.name, begins.name])


def parse_index(frame: pandas.DataFrame) -> Times | None:
    """Return the times of an index of dates, periods or durations; None if it is another."""
    level = frame.index
    if level.nlevels > 1 or (level.dtype.kind not in "mM" and not hasattr(level, "to_timestamp")):
        return None
    table, _ = to_arrow(frame.iloc[:, :0], ColumnRoles())
    read = Frame(Path(SOURCE), table.column_names, table.columns, lambda row: f"{SOURCE}, row {row}")
    return read.get_times(0)


def continue_index(frame: pandas.DataFrame, times: Times | None, count: int) -> pandas.Index:
    """Return labels that follow those of the rows of a frame over time.

    Args:
        frame: of pandas
        times: of its rows, if it has them
        count: of the labels

    Returns:
        an index of the type and name of the times; numbers from 1 if they are not evenly spaced, as a warning says
    """
    import pandas

    if times is None:
        index = frame.index
        if isinstance(index, pandas.RangeIndex):
            return pandas.RangeIndex(index.stop, index.stop + count * index.step, index.step, name=index.name)
        return pandas.RangeIndex(1, count + 1, name="step")
    known = _find_times(frame, times.format.column)
    if isinstance(known, pandas.PeriodIndex):
        last = pandas.Period(times.write()[-1], known.freq)
        return pandas.period_range(last + 1, periods=count, freq=known.freq, name=known.name)
    if known.dtype.kind == "M" and (future := _continue_by_frequency(known, times, count)) is not None:
        return future.as_unit(known.unit).rename(known.name)
    if (dates := continue_rows(times, count)) is not None:
        return _write_index(dates, known)
    reason = "are not evenly spaced" if len(times.values) > 1 else "are one, which tells no step"
    warn_user(
        f"{SOURCE}: the times in {times.format.column!r} {reason}, so rows of the forecast are numbered from 1; "
        "frame.asfreq(...) makes them even",
        DataNoteWarning,
    )
    return pandas.RangeIndex(1, count + 1, name="step")


def _find_times(frame: pandas.DataFrame, name: str) -> pandas.Index:
    """Return the level of the index, or the column, that holds the times of a frame."""
    import pandas

    levels, columns = _get_levels(frame), list(map(str, frame.columns))
    if len(levels) > 1 or levels[0].name is not None or is_temporal(levels[0]):
        names = name_levels(levels, columns)
        if name in names:
            return levels[names.index(name)]
    return pandas.Index(frame.iloc[:, columns.index(name)])


def _write_index(dates: list[str], known: pandas.Index) -> pandas.Index:
    """Return times, which are written as those of an index are, as one of its type and name."""
    import pandas

    if isinstance(known, pandas.PeriodIndex):
        return pandas.PeriodIndex(pandas.to_datetime(dates), freq=known.freq, name=known.name)
    if known.dtype.kind == "M":
        return _to_index(dates, getattr(known, "tz", None)).as_unit(known.unit).rename(known.name)
    if known.dtype.kind == "m":
        return pandas.to_timedelta(pandas.to_numeric(dates), unit="s").rename(known.name)
    numbers = pandas.Index(dates if known.dtype.kind not in "iuf" else pandas.to_numeric(dates), name=known.name)
    return numbers.astype(known.dtype)


def _get_levels(frame: pandas.DataFrame) -> list[pandas.Index]:
    return [frame.index.get_level_values(i) for i in range(frame.index.nlevels)]


def _to_index(dates: list[str], zone: Any) -> pandas.DatetimeIndex:
    """Return dates as an index in a time zone, or in none."""
    import pandas

    index = pandas.DatetimeIndex(pandas.to_datetime(dates, utc=zone is not None))
    return index if zone is None else index.tz_convert(zone)


def _continue_by_frequency(known: Any, times: Times, count: int) -> pandas.DatetimeIndex | None:
    """Return the times after the last one by the frequency of their index, such as business days, or None.

    An index of one level may have a frequency; pandas infers that of another.
    """
    import pandas

    index = known
    if known.freq is None or len(known) != len(times.values):
        index = pandas.DatetimeIndex(_to_index(times.write(), getattr(known, "tz", None)), freq="infer")
    return None if index.freq is None else pandas.date_range(index[-1], periods=count + 1, freq=index.freq)[1:]
