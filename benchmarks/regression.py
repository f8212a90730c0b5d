"""Regression on real data: the load of the next hour, from the 96 hours before it, on ETTh1.

    python benchmarks/regression.py ETTh1.csv OUT [SEED ...]

Windows every 4 hours of all seven channels predict the next value of HUFL and MUFL; training, validation and test are
the 12, 4 and 4 months that are usual for ETT. Prints R2, RMSE and MAE on test of each run, of its baselines, and of the
last value repeated, which the task's own baselines do not include. `docs/results.md` has a result.
"""

import csv
import sys
from pathlib import Path

import numpy as np
import torch

import tstk
from tstk.evaluation.metrics import regression_metrics

WINDOW, STRIDE = 96, 4
MONTH = 30 * 24
TARGETS = ("HUFL", "MUFL")


def write_windows(table: Path, path: Path) -> None:
    """Write windows of a table with the values that follow them as an .npz data set."""
    with table.open() as file:
        header, *rows = csv.reader(file)
    values = np.array([row[1:] for row in rows], np.float64)
    columns = [header[1:].index(name) for name in TARGETS]
    arrays = {}
    for split, start, stop in (("train", WINDOW, 12), ("val", 12 * MONTH, 16), ("test", 16 * MONTH, 20)):
        ends = np.arange(start, stop * MONTH, STRIDE)
        arrays[f"X_{split}"] = np.stack([values[end - WINDOW : end].T for end in ends])
        arrays[f"targets_{split}"] = values[ends][:, columns]
    np.savez(path, channels=header[1:], target_names=TARGETS, **arrays)


def score_last_value(path: Path) -> dict[str, float]:
    """Return the metrics of the last value of each target on test."""
    with np.load(path) as arrays:
        columns = [list(arrays["channels"]).index(name) for name in TARGETS]
        last, targets = (torch.from_numpy(a) for a in (arrays["X_test"][:, columns, -1], arrays["targets_test"]))
    return regression_metrics(last, targets, TARGETS)


def main(table: str, out: str, *seeds: str) -> None:
    """Train one run per seed and print a table."""
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "etth1-next-hour.npz"
    write_windows(Path(table), path)
    rows = {"last value": score_last_value(path)}
    for seed in map(int, seeds or ("0",)):
        result = tstk.fit(data=str(path), loss="mse", steps=600, seed=seed, out=folder / f"seed-{seed}")
        rows = {**result.baselines, **rows, f"seed {seed} ({result.seconds:.0f} s)": result.test}
    print(f"{'':20}{'R2':>9}{'RMSE':>9}{'MAE':>9}")
    for name, scores in rows.items():
        print(f"{name:20}{scores['r2']:9.3f}{scores['rmse']:9.3f}{scores['mae']:9.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
