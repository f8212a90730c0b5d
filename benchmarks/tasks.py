"""Regression and several labels on real data, beside simple baselines, with several seeds.

    python benchmarks/tasks.py load OUT --data ETTh1.csv          # two loads of the next hour
    python benchmarks/tasks.py heart-rate OUT --data mitdb_100.npz
    python benchmarks/tasks.py labels OUT                         # the embedded human activities, with three labels

The data set is written to OUT as an .npz file; its targets decide on task and loss. Prints the metrics on test of each
run, of the baselines of the task, and of one that knows the data better, where there is one. `docs/results.md` has
results.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import tstk
from tstk.evaluation.metrics import regression_metrics

Array = NDArray[Any]
Arrays = dict[str, Any]
Scores = dict[str, dict[str, float]]

MODEL = {
    "tokenizer__dim": 64,
    "encoder__dim": 64,
    "encoder__depth": 2,
    "encoder__heads": 4,
    "steps": 300,
    "lr": 0.001,
    "device": "cpu",
    "threads": 1,
}
NUMBER_METRICS = ("r2", "rmse", "mae")
LABEL_METRICS = ("f1_macro", "auroc", "auprc", "subset_accuracy")

MONTH = 30 * 24
LOADS = ("HUFL", "MUFL")
ACTIVITY_LABELS = {"moving": (0, 1, 2), "stairs": (1, 2), "sitting or lying": (3, 5)}
"""Label -> activities that have it: walking, upstairs, downstairs, sitting, standing, lying."""


def make_load(table: Path, *, window: int = 96, stride: int = 4) -> tuple[Arrays, Scores]:
    """Return windows of all channels of ETTh1 with two loads of the hour after, and the scores of the last value.

    Training, validation and test are the 12, 4 and 4 months that are usual for ETT.

    Args:
        table: ETTh1.csv
        window: hours of a window
        stride: hours from one window to the next
    """
    with table.open() as file:
        header, *rows = csv.reader(file)
    values = np.array([row[1:] for row in rows], np.float64)
    columns = [header[1:].index(name) for name in LOADS]
    arrays: Arrays = {"channels": header[1:], "target_names": LOADS}
    for split, start, stop in (("train", window, 12), ("val", 12 * MONTH, 16), ("test", 16 * MONTH, 20)):
        ends = np.arange(start, stop * MONTH, stride)
        arrays[f"X_{split}"] = np.stack([values[end - window : end].T for end in ends])
        arrays[f"targets_{split}"] = values[ends][:, columns]
    last = arrays["X_test"][:, columns, -1]
    return arrays, {"last value": _score_numbers(last, arrays["targets_test"], LOADS)}


def make_heart_rate(
    record: Path, *, seconds: int = 10, step: float = 2.5, reduction: int = 12
) -> tuple[Arrays, Scores]:
    """Return windows of an ECG with the mean heart rate of their annotated beats, and the scores of a peak detector.

    Record 100 of the MIT-BIH Arrhythmia Database is half an hour of one person. The first 20 minutes train, the next 4
    validate, the last 6 test; no window crosses from one part into the next. The detector takes peaks of the first lead
    whose prominence is at least 0.5 mV, 0.3 s apart, at the full rate.

    Args:
        record: mitdb_100.npz
        seconds: length of a window
        step: seconds from one window to the next
        reduction: samples that are averaged to one
    """
    from scipy.signal import find_peaks

    with np.load(record) as file:
        rate = int(file["fs"])
        signal = ((file["signal"] - file["baseline"]) / file["gain"]).astype(np.float64)
        beats = file["ann_sample"][file["ann_symbol"] != "+"]
        channels = file["channels"]
    size, arrays = seconds * rate, dict[str, Any](channels=channels, target_names=["heart rate"])
    for split, first, last in (("train", 0, 20), ("val", 20, 24), ("test", 24, 30)):
        stop = min(last * 60 * rate, len(signal)) - size
        starts = np.arange(first * 60 * rate, stop + 1, int(step * rate))
        windows = np.stack([signal[start : start + size].T for start in starts])
        arrays[f"X_{split}"] = windows.reshape(len(starts), len(channels), -1, reduction).mean(-1)
        inside = [beats[(beats >= start) & (beats < start + size)] for start in starts]
        arrays[f"targets_{split}"] = np.array([[_compute_rate(positions, rate)] for positions in inside])
    peaks = [find_peaks(x[0], distance=0.3 * rate, prominence=0.5)[0] for x in windows]  # of test, which is the last
    detected = np.array([[_compute_rate(positions, rate)] for positions in peaks])
    return arrays, {"peak detector": _score_numbers(detected, arrays["targets_test"], ["heart rate"])}


def _compute_rate(positions: Array, rate: float) -> float:
    """Return beats per minute, of the positions of beats in samples."""
    return 60 * rate * (len(positions) - 1) / float(positions[-1] - positions[0])


def _score_numbers(outputs: Array, targets: Array, names: Any) -> dict[str, float]:
    return regression_metrics(torch.from_numpy(outputs), torch.from_numpy(targets), names)


def make_labels() -> tuple[Arrays, Scores]:
    """Return the embedded windows of human activities, with `ACTIVITY_LABELS` in the place of the activities."""
    arrays = dict(np.load(Path(tstk.__file__).parent / "data" / "demo" / "har_demo.npz"))
    del arrays["classes"]
    for split in ("train", "test"):
        activities = arrays.pop(f"y_{split}")
        columns = [np.isin(activities, list(members)) for members in ACTIVITY_LABELS.values()]
        arrays[f"targets_{split}"] = np.stack(columns, 1).astype(np.int64)
    return {**arrays, "target_names": list(ACTIVITY_LABELS)}, {}


def main() -> None:
    """Write the data set, train one run per seed, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=("load", "heart-rate", "labels"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, help="file of load and heart-rate")
    parser.add_argument("--tokenizer", default="inception")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    makers = {"load": make_load, "heart-rate": make_heart_rate}
    arrays, rows = makers[args.name](args.data) if args.name in makers else make_labels()
    path = args.out / f"{args.name}.npz"
    np.savez(path, **arrays)
    for seed in args.seeds:
        out = args.out / f"{args.name}-{args.tokenizer}-{seed}"
        result = tstk.fit(data=str(path), tokenizer=args.tokenizer, seed=seed, out=out, **MODEL)
        rows = {**result.baselines, **rows, f"seed {seed} ({result.seconds:.0f} s)": result.test}
    metrics = LABEL_METRICS if args.name == "labels" else NUMBER_METRICS
    print(f"{'':20}" + "".join(f"{metric:>16}" for metric in metrics))
    for name, scores in rows.items():
        print(f"{name:20}" + "".join(f"{scores[metric]:16.3f}" for metric in metrics))


if __name__ == "__main__":
    main()
