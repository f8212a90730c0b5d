"""Detect anomalies with a trained run: a score per sample, a threshold from the training data, and events above it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tstk.core.pipeline import Pipeline
from tstk.core.repr import ShortRepr
from tstk.core.windows import average_windows
from tstk.data.columns import Reader
from tstk.data.sample_labels import read_sample_labels
from tstk.errors import DataError, OptionError, TstkError
from tstk.evaluation.anomalies import BASELINES, find_ranges, score_detection
from tstk.inference.detection_methods import METHODS, ScoreFn, choose_method
from tstk.inference.predict import load_run
from tstk.inference.recordings import Recordings, load_recordings, select_samples, spread_samples

Scores = NDArray[np.float64]

MAX_BASELINE_SAMPLES = 40_000
"""Samples of each training series that thresholds of baselines are computed from, the first ones."""
MAX_TRAINING_SERIES = 2000
"""Largest number of training series that the threshold is computed from; evenly spaced ones are used if more exist."""


@dataclass(frozen=True, repr=False)
class Event(ShortRepr):
    """A run of samples whose score exceeds the threshold.

    Args:
        series: index of the series; 0 for a table
        start: first sample
        end: last sample
        peak: sample with the highest score
        score: the score there
        channel: the channel that contributes most to it; "" if the method scores all channels together
    """

    series: int
    start: int
    end: int
    peak: int
    score: float
    channel: str


@dataclass(repr=False)
class Detection(ShortRepr):
    """Scores of the samples of series, as their file has them.

    Rows that --regularize inserted have no score, and are left out.

    Args:
        scores: [N, T] mean over the channels; NaN where there is no score
        channel_scores: [N, C, T], or None if the method scores all channels together
        threshold: of `scores`
        quantile: of the scores of the training data at the threshold; None if the threshold was given
        method: name of the method
        events: runs of samples above the threshold
        recordings: the series
        notes: remarks for the user
        training: the series that the threshold was computed from; None if it was given
        baseline_window: samples of the windows of baselines, a quarter of those of the run
        positions: of the samples of each series among those that were scored, if --regularize inserted others
    """

    scores: Scores
    channel_scores: Scores | None
    threshold: float
    quantile: float | None
    method: str
    events: list[Event]
    recordings: Recordings
    notes: list[str]
    training: Recordings | None
    baseline_window: int
    positions: list[NDArray[np.int64]] | None = None

    def describe_unscored(self) -> list[str]:
        """Return a note on the samples that are missing, and one on others without a score."""
        in_series = np.arange(self.scores.shape[1]) < self.recordings.ends.numpy()[:, None]
        is_missing = self.recordings.x.isnan().all(1).numpy()
        counts = (int((np.isnan(self.scores) & in_series & kind).sum()) for kind in (is_missing, ~is_missing))
        reasons = (
            "missing samples, which have no score",
            "samples without a score, as nothing before them was observed, or what the run computes is not finite",
        )
        return [f"{reason}: {count:,}" for count, reason in zip(counts, reasons, strict=True) if count]

    def to_dict(self) -> dict[str, Any]:
        """Return all but the scores, as JSON types; rows of a table are those of its file.

        Events of a set of series have the row, id and group of theirs.
        """
        first = self.recordings.first_row
        identity = {name: values.tolist() for name, values in self.recordings.identify().items()}
        events = [
            {
                **asdict(e),
                **{name: first + getattr(e, name) for name in ("start", "end", "peak")},
                **{name: values[e.series] for name, values in identity.items()},
            }
            for e in self.events
        ]
        return {
            "data": self.recordings.source,
            "method": self.method,
            "threshold": self.threshold,
            "quantile": self.quantile,
            "events": events,
            "notes": self.notes,
        }

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the scores and what belongs to them as arrays.

        Events are [series, start, end, peak]: index of the series in `scores`, and samples, of a table rows of its
        file. Series have "row", "id" and "group", rows of a table "dates", if there are any.
        """
        first = self.recordings.first_row
        arrays = {
            "scores": self.scores,
            "threshold": np.array(self.threshold),
            "quantile": np.array(np.nan if self.quantile is None else self.quantile),
            "method": np.array(self.method),
            "channels": np.array(self.recordings.channels),
            "first_row": np.array(first),
            "events": np.array(
                [[e.series, first + e.start, first + e.end, first + e.peak] for e in self.events]
            ).reshape(-1, 4),
        }
        if self.recordings.dates is not None:
            arrays["dates"] = self.recordings.dates
        if self.channel_scores is not None:
            arrays["channel_scores"] = self.channel_scores
        return arrays | self.recordings.identify()


def detect(
    run: str | Path,
    data: str | None = None,
    *,
    data_root: str | None = None,
    reader: Reader | None = None,
    method: str | None = None,
    quantile: float = 0.99,
    threshold: float | None = None,
    stride: int | None = None,
    batch_size: int = 256,
) -> Detection:
    """Score every sample of series, or of a table.

    Args:
        run: run directory
        data: name or path; the test split of the run if None
        data_root: folder to look up data sets by name in
        reader: of these data, as of `predict`
        method: masked, codes, reconstruction or distance; the first that the run supports if None
        quantile: of the scores of the training data, as threshold
        threshold: a threshold of your own; the training data are then not needed, except for distance
        stride: samples from one window to the next; half a window if None
        batch_size: windows at a time

    Raises:
        CheckpointError: the run cannot be loaded
        OptionError: it does not support the method
        DataError: the data do not fit the run, or its training data are gone
    """
    pipeline, run_config = load_run(run)
    name = choose_method(pipeline, method)
    recordings = load_recordings(pipeline, run_config, data, data_root=data_root, reader=reader, split="test")

    @cache
    def load_training() -> Recordings:
        try:
            return _thin(load_recordings(pipeline, run_config, data_root=data_root, split="train"))
        except TstkError as e:
            hint = "" if name == "distance" else "; or give a threshold of your own with --threshold"
            raise DataError(f"the scores need the training data of the run: {e}{hint}") from None

    score = METHODS[name][0](pipeline, load_training)
    compute = partial(compute_scores, pipeline, score, stride=stride, batch_size=batch_size)
    used_quantile, training = None, None
    if threshold is None:
        used_quantile, training = quantile, load_training()
        threshold = _compute_threshold(compute(training, is_training=True), quantile, training.source)
    by_channel = compute(recordings)
    scores = average_channels(by_channel)
    channel_scores = by_channel if by_channel.shape[1] == len(recordings.channels) > 1 else None
    events = find_events(scores, threshold, channel_scores, recordings.channels)
    window = max(4, pipeline.spec.length // 4)
    detection = _drop_inserted(
        Detection(scores, channel_scores, threshold, used_quantile, name, events, recordings, [], training, window)
    )
    detection.notes += detection.describe_unscored()
    return detection


def _compute_threshold(scores: Scores, quantile: float, source: str) -> float:
    """Return a quantile of the scores [N, K, T] of the training data."""
    averages = average_channels(scores)
    if not np.isfinite(averages).any():
        raise DataError(f"{source}: no sample of the training data has a score; give --threshold")
    return float(np.nanquantile(averages, quantile))


def compute_scores(
    pipeline: Pipeline,
    score: ScoreFn,
    recordings: Recordings,
    *,
    is_training: bool = False,
    stride: int | None = None,
    batch_size: int = 256,
) -> Scores:
    """Return the scores [N, K, T] of a method; NaN at samples that are missing or beyond the end of a series."""
    recordings.set_channels(pipeline)  # the training series may have others
    scores = average_windows(
        pipeline,
        recordings.x,
        lambda series: score(series, is_training),
        ends=recordings.ends,
        stride=stride,
        batch_size=batch_size,
        source=recordings.source,
    )
    observed = ~recordings.x.isnan().numpy()
    return np.where(
        observed if scores.shape[1] == observed.shape[1] else observed.any(1, keepdims=True), scores, np.nan
    )


def average_channels(scores: Scores) -> Scores:
    """Return the mean [N, T] of the scores [N, K, T] that exist; NaN where none does."""
    count = np.isfinite(scores).sum(1)
    return np.where(count > 0, np.nansum(scores, 1) / np.maximum(count, 1), np.nan)


def find_events(
    scores: Scores, threshold: float, channel_scores: Scores | None = None, channels: tuple[str, ...] = ()
) -> list[Event]:
    """Return the runs of consecutive samples with scores [N, T] above the threshold.

    Args:
        scores: NaN is not above it
        threshold: of the scores
        channel_scores: [N, C, T], to name the channel with the highest score at the peak
        channels: C names
    """
    events = []
    for row, values in enumerate(scores):
        for start, stop in zip(*find_ranges(values > threshold), strict=True):
            peak = int(start + values[start:stop].argmax())
            channel = channels[0] if len(channels) == 1 else ""
            if channel_scores is not None:
                channel = channels[int(np.nan_to_num(channel_scores[row, :, peak], nan=-np.inf).argmax())]
            events.append(Event(row, int(start), int(stop) - 1, peak, float(values[peak]), channel))
    return events


def _drop_inserted(detection: Detection) -> Detection:
    """Return a detection in the samples of the file, without those that --regularize inserted."""
    if (positions := detection.recordings.positions) is None:
        return detection
    by_channel = detection.channel_scores
    return replace(
        detection,
        scores=select_samples(detection.scores, positions),
        channel_scores=None if by_channel is None else select_samples(by_channel, positions),
        events=[_locate_event(event, positions[event.series]) for event in detection.events],
        recordings=detection.recordings.drop_inserted(),
        positions=positions,
    )


def _locate_event(event: Event, positions: NDArray[np.int64]) -> Event:
    """Return an event in samples of the file, which are at these positions; those that were inserted have no score."""
    start, end, peak = np.searchsorted(positions, [event.start, event.end, event.peak]).tolist()
    return replace(event, start=start, end=end, peak=peak)


def load_labels(detection: Detection, labels: str) -> NDArray[np.bool_]:
    """Read labels of the samples that were scored, [N, T] bool, from those of all samples or rows of the file.

    Args:
        detection: from `detect`
        labels: a file or a column, see `read_sample_labels`

    Raises:
        DataError: there is no such file or column, or it has not one label per sample
        OptionError: annotations of a record are given for an excerpt of it
    """
    recordings, (count, length) = detection.recordings, detection.scores.shape
    is_excerpt = any((recordings.reader or {}).get(option) for option in ("start", "stop"))
    if is_excerpt and Path(labels).suffix.lower() == ".atr":
        raise OptionError(
            f"--sample-labels {labels}: its positions are those of the whole record, and --reader.start and "
            "--reader.stop read an excerpt; leave them out, or give a label per sample as .npy"
        )
    path, num_rows = Path(recordings.source), recordings.num_rows
    values = read_sample_labels(labels, path, num_rows or length, recordings.csv_options)
    if values.ndim == 1 and (by_row := _assign_rows(values, recordings, length)) is not None:
        return by_row
    values = values[None] if values.ndim == 1 else values
    if recordings.is_table and values.shape[1] == num_rows:
        values = values[:, recordings.first_row : recordings.first_row + length]
    in_rows = f", in {num_rows:,} rows" if num_rows not in (None, length) else ""
    if values.shape != (count, length):
        raise DataError(
            f"--sample-labels {labels}: {values.shape[1]:,} labels of {values.shape[0]:,} series, and there are "
            f"{length:,} samples of {count:,}{in_rows}; give one label per sample"
        )
    return values


def _assign_rows(values: NDArray[np.bool_], recordings: Recordings, length: int) -> NDArray[np.bool_] | None:
    """Return labels [N, T] of series that are spread over rows from a label per row; None if there are not as many."""
    if recordings.is_table or recordings.file_rows is None:
        return None
    rows = np.concatenate(recordings.file_rows)
    is_other_length = len(values) != recordings.num_rows if recordings.num_rows else len(values) <= rows.max()
    if is_other_length or len(np.unique(rows)) < len(rows):  # of a folder, each file has rows of its own
        return None
    labels = np.zeros((len(recordings), length), bool)
    for of_series, places in zip(labels, recordings.file_rows, strict=True):
        of_series[: len(places)] = values[places[:length]]
    return labels


def evaluate_detection(detection: Detection, labels: NDArray[np.bool_]) -> dict[str, dict[str, Any]]:
    """Score a detection against labels, beside simple baselines on the same samples.

    The threshold of a baseline is the same quantile of its scores of the training series, of which the first
    `MAX_BASELINE_SAMPLES` samples are used.

    Args:
        detection: from `detect`
        labels: [N, T] bool, True at anomalous samples

    Returns:
        method -> its metrics, see `score_detection`, or {"skipped": reason}; the first is that of the run. Baselines
        have no metrics at a threshold if that of the run was given
    """
    scored = np.isfinite(detection.scores)
    if not labels[scored].any() or labels[scored].all():
        which = "no sample with a score" if labels.any() else "no sample"
        which = "every sample with a score" if labels[scored].any() else which
        raise OptionError(f"{which} is labelled as an anomaly, so there is nothing to score")
    results: dict[str, dict[str, Any]] = {
        detection.method: score_detection(detection.scores, labels, scored, detection.threshold)
    }
    std = _measure_std(detection.recordings)
    standardized = detection.recordings.x.double().numpy() / std
    if (positions := detection.positions) is not None:
        standardized = spread_samples(standardized, positions)
    training = None
    if detection.training is not None:  # of a run on single channels, those of training may be others
        has_channels = detection.recordings.statistics is None
        training = detection.training.x[..., :MAX_BASELINE_SAMPLES].double().numpy()
        training = training / (std if has_channels else _measure_std(detection.training))
    for name, baseline in BASELINES.items():
        output = baseline(standardized, detection.baseline_window)
        if isinstance(output, str):
            results[name] = {"skipped": output}
            continue
        threshold = None
        if training is not None and detection.quantile is not None:
            usual = baseline(training, detection.baseline_window)
            is_observed = ~np.isnan(training).all(1)
            threshold = None if isinstance(usual, str) else float(np.quantile(usual[is_observed], detection.quantile))
        output = output if positions is None else select_samples(output, positions)
        results[name] = score_detection(output, labels, scored, threshold)
    return results


def _measure_std(recordings: Recordings) -> Scores:
    """Return the standard deviation [1, C, 1] of the channels; 1 for those that are constant or never observed."""
    x = recordings.x.double().numpy()
    never = np.isnan(x).all((0, 2), keepdims=True)
    std = np.nanstd(np.where(never, 0.0, x), (0, 2), keepdims=True)
    return np.where(std > 0, std, 1.0)


def _thin(recordings: Recordings) -> Recordings:
    step = -(-len(recordings.x) // MAX_TRAINING_SERIES)
    rows, ids, groups = recordings.rows, recordings.ids, recordings.groups
    return replace(
        recordings,
        x=recordings.x[::step],
        values=recordings.values[::step],
        ends=recordings.ends[::step],
        rows=np.arange(0, len(recordings), step) if rows is None else rows[::step],
        ids=None if ids is None else ids[::step],
        groups=None if groups is None else groups[::step],
        file_rows=None if recordings.file_rows is None else recordings.file_rows[::step],
        targets={},
    )
