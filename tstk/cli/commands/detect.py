"""`tstk detect`: score samples by how unusual they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import rich_click

from tstk.cli.completion import complete_data_sets, complete_runs
from tstk.cli.files import add_force_option, validate_output_path, write_csv, write_npz
from tstk.cli.output import echo, format_examples, print_json, print_note, print_table
from tstk.cli.run_options import RunCommand, add_reader_option
from tstk.data.columns import Reader
from tstk.errors import OptionError
from tstk.evaluation.formatting import format_number
from tstk.files import write_bytes

if TYPE_CHECKING:
    from tstk.inference.detect import Detection

METHODS = ("masked", "codes", "reconstruction", "distance")
SCORE_METRICS = ("auroc", "auprc", "vus_roc", "vus_pr")
DECISION_METRICS = (*("precision", "recall", "f1"), *("affiliation_precision", "affiliation_recall", "affiliation_f1"))
"""Metrics at the threshold."""
MAX_EVENTS = 10
"""Events that are printed, those with the highest scores."""


@click.command(
    cls=RunCommand,
    epilog=format_examples(
        "tstk detect runs/masked --data new.csv --out scores.csv --plot scores.png",
        "tstk detect runs/ecg --data 100.hea --sample-labels 100.atr --out scores.npz",
    ),
)
@click.argument("run", metavar="RUN", shell_complete=complete_runs)
@rich_click.option(
    "--data",
    metavar="NAME|PATH",
    help="data to score (default: the run's own test split)",
    shell_complete=complete_data_sets,
)
@rich_click.option("--data-root", metavar="DIR", help="folder in which data sets are looked up by name")
@add_reader_option
@rich_click.option(
    "--method",
    type=click.Choice(METHODS),
    help="masked: error of the prediction from surrounding tokens; codes: negative log-likelihood of the next code; "
    "reconstruction: error of the reconstruction; distance: from the window's embedding to the nearest of training; "
    "the first of these that the run supports if not given",
)
@rich_click.option(
    "--quantile",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="float",
    help="threshold: quantile of the scores of the training data; 0.99 if not given",
)
@rich_click.option("--threshold", type=float, metavar="float", help="threshold of your own, instead of --quantile")
@rich_click.option(
    "--sample-labels",
    metavar="FILE|COLUMN",
    help="which samples are anomalous: .npy, .npz, .csv, .parquet, .atr (WFDB beats that are not normal), or a "
    "column of --data; a label per row of the file, or per sample of each series",
)
@rich_click.option("--out", required=True, metavar="FILE", help="output file: .csv or .npz")
@rich_click.option("--events", metavar="FILE", help="write the events above the threshold: .csv")
@rich_click.option("--plot", metavar="FILE", help="draw the series with the highest score: .png")
@rich_click.option(
    "--stride",
    type=click.IntRange(min=1),
    metavar="int",
    help="samples from one window to the next; half a window if not given",
)
@rich_click.option(
    "--batch-size", type=click.IntRange(min=1), default=256, show_default=True, metavar="int", help="windows per batch"
)
@add_force_option
@rich_click.option("--json", "json_", is_flag=True, help="print JSON")
def command(
    run: str,
    data: str | None,
    data_root: str | None,
    reader: Reader | None,
    method: str | None,
    quantile: float | None,
    threshold: float | None,
    sample_labels: str | None,
    out: str,
    events: str | None,
    plot: str | None,
    stride: int | None,
    batch_size: int,
    force: bool,
    json_: bool,
) -> None:
    """Score every sample by how unusual it is for a run, and list the events above a threshold.

    Series are cut into overlapping windows, and the scores of a sample are averaged over its windows. The file has a
    line per sample: row and, if the table has one, date; of a set of series row (of the series in its file), id and
    group (if there are any) and sample; then score (the mean over channels), threshold, and the score of each channel.
    Missing samples have no score, and rows that --regularize inserts no line. The threshold is a quantile of the scores
    of the training data. Events are runs of consecutive samples above it: start, end (the last sample), peak, score,
    and the channel with the highest score at the peak. Rows and samples are counted from 0.

    With --sample-labels, metrics per sample (AUROC, AUPRC, and precision, recall and F1 at the threshold), per event
    (affiliation precision, recall and F1 at the threshold) and aware of ranges (VUS-ROC, VUS-PR) are printed, beside
    simple baselines: the deviation from a moving mean, the difference from the last value, and the matrix profile. The
    threshold of a baseline is the same quantile of its scores of the training data.
    """
    if threshold is not None and quantile is not None:
        raise OptionError(f"--quantile {quantile:g} has no effect with --threshold {threshold:g}; remove it")
    path = validate_output_path(out, (".csv", ".npz"), force)
    events_path = None if events is None else validate_output_path(events, (".csv",), force)
    if events_path is not None and events_path.resolve() == path.resolve():
        raise OptionError(f"--events {events} is the file of --out; choose another name")
    plot_path = None if plot is None else validate_output_path(plot, (".png",), force)
    from tstk.inference.detect import detect, evaluate_detection, load_labels

    detection = detect(
        run,
        data,
        data_root=data_root,
        reader=reader,
        method=method,
        quantile=0.99 if quantile is None else quantile,
        threshold=threshold,
        stride=stride,
        batch_size=batch_size,
    )
    labels = None if sample_labels is None else load_labels(detection, sample_labels)
    results = None if labels is None else evaluate_detection(detection, labels)
    if path.suffix.lower() == ".npz":
        write_npz(path, detection.to_arrays(), replace=force)
    else:
        _write_scores(path, detection, force)
    if events_path is not None:
        _write_events(events_path, detection, force)
    if plot_path is not None:
        _write_plot(plot_path, detection, labels, force)
    if json_:
        print_json({"file": str(path), **detection.to_dict(), **({} if results is None else {"metrics": results})})
        return
    _print_detection(path, detection, results)


def _write_scores(path: Path, detection: Detection, force: bool) -> None:
    recordings, by_channel, dates = detection.recordings, detection.channel_scores, detection.recordings.dates
    names, identity = () if by_channel is None else recordings.channels, recordings.identify()
    place = [*identity, "sample"] if identity else ["row", *(["date"] if dates is not None else [])]

    def text(value: float) -> str:
        return "" if value != value else f"{value:.6g}"

    rows = (
        [
            *(values[series] for values in identity.values()),
            recordings.first_row + t,
            *([str(dates[t])] if dates is not None else []),
            text(detection.scores[series, t]),
            text(detection.threshold),
            *(text(value) for value in (() if by_channel is None else by_channel[series, :, t])),
        ]
        for series, end in enumerate(recordings.ends.tolist())
        for t in range(end)
    )
    write_csv(path, [*place, "score", "threshold", *(f"score {name}" for name in names)], rows, replace=force)


def _write_events(path: Path, detection: Detection, force: bool) -> None:
    first, dates, identity = detection.recordings.first_row, detection.recordings.dates, detection.recordings.identify()
    header = [*identity, "start", "end", "peak", "score", "threshold", "channel"]
    rows = []
    for event in detection.events:
        places = [event.start, event.end, event.peak]
        row = [*(values[event.series] for values in identity.values()), *(first + t for t in places)]
        row += [f"{event.score:.6g}", f"{detection.threshold:.6g}", event.channel]
        rows.append([*row, *([] if dates is None else [str(dates[t]) for t in places])])
    dated = [] if dates is None else ["start date", "end date", "peak date"]
    write_csv(path, [*header, *dated], rows, replace=force)


def _write_plot(path: Path, detection: Detection, labels: Any, force: bool) -> None:
    import numpy as np

    from tstk.plot.anomalies import render_detection

    row = int(np.nan_to_num(detection.scores, nan=-np.inf).max(1).argmax())
    end, recordings = int(detection.recordings.ends[row]), detection.recordings
    image = render_detection(
        recordings.values[row, :, :end],
        recordings.channels,
        detection.scores[row, :end],
        detection.threshold,
        None if labels is None else labels[row, :end],
        recordings.first_row if recordings.is_table else None,
    )
    write_bytes(path, image, replace=force)


def _print_detection(path: Path, detection: Detection, results: dict[str, dict[str, Any]] | None) -> None:
    for note in detection.notes:
        print_note(f"note: {note}")
    first, identity = detection.recordings.first_row, detection.recordings.identify()
    best = sorted(detection.events, key=lambda event: -event.score)[:MAX_EVENTS]
    if best:
        header = ["start", "end", "peak", "score", "channel"]
        rows = [[first + e.start, first + e.end, first + e.peak, format_number(e.score), e.channel] for e in best]
        rows = [[*(values[e.series] for values in identity.values()), *row] for e, row in zip(best, rows, strict=True)]
        print_table([*identity, *header], rows, right_aligned=header[:-1])
        echo()
    if results is not None:
        _print_metrics(results)
    origin = "given" if detection.quantile is None else f"the {detection.quantile:g} quantile of training"
    more = f", the {MAX_EVENTS} highest above" if len(detection.events) > MAX_EVENTS else ""
    echo(
        f"{path}: method {detection.method}, threshold {format_number(detection.threshold)} ({origin}), "
        f"{len(detection.events):,} events{more}"
    )


def _print_metrics(results: dict[str, dict[str, Any]]) -> None:
    """Print a table of the metrics of the scores, and one of those at the threshold, for each method."""
    for name, scores in results.items():
        if "skipped" in scores:
            print_note(f"note: baseline {name} was skipped: {scores['skipped']}")
    for metrics in (SCORE_METRICS, DECISION_METRICS):
        rows = [
            [name, *(format_number(scores[metric]) if metric in scores else None for metric in metrics)]
            for name, scores in results.items()
            if any(metric in scores for metric in metrics)
        ]
        print_table(["method", *metrics], rows, right_aligned=metrics)
        echo()
