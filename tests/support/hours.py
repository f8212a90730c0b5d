"""A table of hours with a daily period."""

import csv as csvfile

import numpy as np


def make_table(rows=640, seed=0):
    """Return [rows, 2]: sinusoids of period 24 with a little noise, at levels of 300 and -2."""
    rng, t = np.random.default_rng(seed), np.arange(rows)
    x = np.stack([np.sin(t / 24 * 2 * np.pi) * 50 + 300, np.cos(t / 24 * 2 * np.pi) - 2], 1)
    return x + rng.normal(size=x.shape) * [2.0, 0.04]


def write_table(path, x, missing=()):
    """Write a table with dates; cells of `missing`, (row, column), are empty."""
    with open(path, "w", newline="") as file:
        writer = csvfile.writer(file, lineterminator="\n")
        writer.writerow(["date", "load", "temp"])
        for i, row in enumerate(x):
            cells = ["" if (i, k) in missing or np.isnan(v) else f"{v:.4f}" for k, v in enumerate(row)]
            writer.writerow([str(np.datetime64("2024-01-01T00", "h") + i).replace("T", " ") + ":00:00", *cells])
    return path
