"""Insert events of known kinds and places into series, to test the detection of anomalies.

`python -m benchmarks.events TABLE.csv OUT.csv --rows 11520:14400 --count 24` writes some rows of a table with events,
and their labels in the column `event`.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def insert_spike(x: Array, rng: np.random.Generator) -> None:
    """Add four to six standard deviations to one sample in the middle of `x` [C, T], in all channels."""
    x[:, x.shape[1] // 2] += rng.choice([-1, 1], (len(x),)) * rng.uniform(4, 6) * x.std(1)


def insert_level_shift(x: Array, rng: np.random.Generator) -> None:
    """Add two to three standard deviations to all samples."""
    x += rng.choice([-1, 1]) * rng.uniform(2, 3) * x.std(1, keepdims=True)


def insert_flat_line(x: Array, rng: np.random.Generator) -> None:
    """Repeat the first sample, as a sensor that is stuck."""
    x[:] = x[:, :1]


def insert_faster(x: Array, rng: np.random.Generator) -> None:
    """Play the series at three times its speed, forward and backward, so that its frequencies change."""
    phase = np.arange(x.shape[1]) * 3 % (2 * x.shape[1] - 2)
    x[:] = x[:, np.minimum(phase, 2 * x.shape[1] - 2 - phase)]


KINDS: dict[str, Callable[[Array, np.random.Generator], None]] = {
    "spike": insert_spike,
    "level shift": insert_level_shift,
    "flat line": insert_flat_line,
    "faster": insert_faster,
}


def insert_events(
    x: Array, count: int, length: int, seed: int = 0, kinds: tuple[str, ...] = tuple(KINDS)
) -> tuple[Array, NDArray[np.bool_], list[tuple[str, int, int]]]:
    """Insert events into a series, at random places that are at least an event apart, the kinds in turn.

    Args:
        x: [C, T]
        count: number of events
        length: samples of an event; a spike is one
        seed: of places and sizes
        kinds: from `KINDS`

    Returns:
        the changed series; labels [T], True at changed samples; and (kind, first sample, sample after the last)
    """
    rng = np.random.default_rng(seed)
    x, labels, events = x.astype(np.float64), np.zeros(x.shape[1], dtype=bool), []
    slots = rng.choice(x.shape[1] // (3 * length), count, replace=False)
    for i, slot in enumerate(np.sort(slots)):
        kind = kinds[i % len(kinds)]
        start = 3 * length * int(slot) + length + int(rng.integers(length))
        KINDS[kind](x[:, start : start + length], rng)
        first, stop = (start + length // 2, start + length // 2 + 1) if kind == "spike" else (start, start + length)
        labels[first:stop] = True
        events.append((kind, first, stop))
    return x, labels, events


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", default="0:", help="FIRST:STOP")
    parser.add_argument("--count", type=int, default=16, help="number of events")
    parser.add_argument("--length", type=int, default=24, help="samples of an event")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with open(arguments.table, newline="") as file:
        header, *rows = csv.reader(file)
    first, stop = (int(bound) if bound else None for bound in arguments.rows.split(":"))
    rows = rows[first:stop]
    values = np.array([[float(cell) for cell in row[1:]] for row in rows]).T
    x, labels, _ = insert_events(values, arguments.count, arguments.length, arguments.seed)
    with open(arguments.out, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*header, "event"])
        writer.writerows([row[0], *map(str, sample), int(k)] for row, sample, k in zip(rows, x.T, labels, strict=True))


if __name__ == "__main__":
    main()
