"""Time and memory that large data sets of several kinds take.

    python -m benchmarks.loads --out DIR [--only NAME ...] [--record FILE]

makes each data set under DIR (a tenth of the series of the training split as test split), runs `tstk data info`, twenty
steps of `tstk train` and `tstk predict` on it, each in a process of its own, and prints a table of seconds and peak
memory. As a measure of the data themselves, `read` opens the training file with numpy, pyarrow or Python alone.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

SPLITS = (("TRAIN", 1.0), ("TEST", 0.1))
READ = {
    "npz": "import numpy; x = dict(numpy.load({!r}))",
    # with threads, pyarrow 26 may wait for ever on 100,000 columns
    "csv": "from pyarrow import csv; csv.read_csv({!r}, csv.ReadOptions(use_threads=False))",
    "ts": "open({!r}).read()",
}


def make_series(series: int, channels: int, length: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return noisy sinusoids, (series, channels, length), whose frequency tells the class, and the classes."""
    rng = np.random.default_rng(seed)
    labels = np.arange(series) % classes
    x = rng.standard_normal((series, channels, length), dtype=np.float32)
    times = np.arange(length, dtype=np.float32)
    cycles = (1 + labels[:, None] % 50 * (length / 100) / 50).astype(np.float32)
    x += 2 * np.sin(2 * np.pi * cycles * times / length)[:, None].astype(np.float32)
    return x, labels


def write_archive(path: Path, series: int, channels: int, length: int, classes: int, seed: int) -> None:
    x, y = make_series(series, channels, length, classes, seed)
    np.savez(path, x=x, y=y, channels=[f"sensor{k}" for k in range(channels)])


def write_ts(path: Path, series: int, channels: int, length: int, classes: int, seed: int) -> None:
    x, y = make_series(series, channels, length, classes, seed)
    with path.open("w") as file:
        file.write(f"@problemName load\n@univariate {str(channels == 1).lower()}\n@equalLength true\n")
        file.write(f"@seriesLength {length}\n@classLabel true {' '.join(f'c{k}' for k in range(classes))}\n@data\n")
        for values, label in zip(x, y, strict=True):
            cells = (",".join(f"{value:.4f}" for value in channel) for channel in values)
            file.write(":".join(cells) + f":c{label}\n")


def write_rows(path: Path, header: list[str], rows: Iterable[Iterable[object]]) -> None:
    with path.open("w") as file:
        file.write(",".join(header) + "\n")
        file.writelines(",".join(map(str, row)) + "\n" for row in rows)


def write_csv(path: Path, series: int, channels: int, length: int, classes: int, seed: int) -> None:
    """One row per series: label, then samples."""
    x, y = make_series(series, channels, length, classes, seed)
    rows = ((label, *values) for values, label in zip(x[:, 0].round(4).tolist(), y.tolist(), strict=True))
    write_rows(path, ["label", *(f"t{k}" for k in range(length))], rows)


def write_table(path: Path, series: int, channels: int, length: int, classes: int, seed: int) -> None:
    """One series: a date and `channels` columns."""
    x, _ = make_series(series, channels, length, classes, seed)
    dates = np.datetime64("2000-01-01T00:00") + np.arange(length)
    rows = ((date, *values) for date, values in zip(dates, x[0].T.round(4).tolist(), strict=True))
    write_rows(path, ["date", *(f"sensor{k}" for k in range(channels))], rows)


LOADS: dict[str, tuple[Callable[..., None], str, tuple[int, int, int, int]]] = {
    "a million series, .npz": (write_archive, "npz", (1_000_000, 1, 24, 5)),
    "a million series, .ts": (write_ts, "ts", (1_000_000, 1, 24, 5)),
    "a million series, .csv": (write_csv, "csv", (1_000_000, 1, 24, 5)),
    "500 channels, .npz": (write_archive, "npz", (500, 500, 200, 5)),
    "500 channels, .ts": (write_ts, "ts", (100, 500, 200, 5)),
    "100,000 samples, .npz": (write_archive, "npz", (200, 1, 100_000, 5)),
    "100,000 samples, .csv": (write_csv, "csv", (50, 1, 100_000, 5)),
    "1,000 classes, .npz": (write_archive, "npz", (50_000, 1, 96, 1000)),
    "1,000 classes, .ts": (write_ts, "ts", (20_000, 1, 96, 1000)),
    "a table of a million rows, .csv": (write_table, "csv", (1, 7, 1_000_000, 1)),
}
"""Name -> writer, suffix, (series, channels, samples, classes) of the training split."""


def measure(command: list[str]) -> dict[str, Any]:
    """Run a command; return its seconds, its peak memory in MiB, its exit status and the end of what it said."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    return {
        "seconds": time.perf_counter() - start,
        "mib": usage.ru_maxrss / 1024,
        "status": os.waitstatus_to_exitcode(status),
        "output": output[-600:],
    }


def run_load(name: str, out: Path) -> dict[str, Any]:
    """Make one data set, measure each command on it, and remove it."""
    write, suffix, (series, *shape) = LOADS[name]
    folder = out / "load"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    is_table = write is write_table
    for seed, (split, share) in enumerate(SPLITS[:1] if is_table else SPLITS):
        path = folder / (f"table.{suffix}" if is_table else f"load_{split}.{suffix}")
        # in a process of its own: a child starts with the peak memory of its parent
        writer = multiprocessing.get_context("spawn").Process(
            target=write, args=(path, max(1, int(series * share)), *shape, seed)
        )
        writer.start()
        writer.join()
    training = next(folder.glob(f"*.{suffix}")) if is_table else folder / f"load_TRAIN.{suffix}"
    data = str(training if is_table else folder)
    tstk = [sys.executable, "-P", "-m", "tstk"]
    run = str(folder / "run")
    task = ("--encoder", "transformer", "--head", "forecast" if is_table else "linear")
    commands = {
        "read": [sys.executable, "-c", READ[suffix].format(str(training))],
        "info": [*tstk, "data", "info", data],
        "train": [*tstk, "train", *task, "--data", data, "--steps", "20", "--validate-every", "20", "--out", run],
        "predict": [*tstk, "forecast" if is_table else "predict", run, "--out", str(folder / "out.csv")],
    }
    sizes = {"mb": training.stat().st_size / 1e6, "shape": [series, *shape]}
    result = {"name": name, **sizes, **{key: measure(command) for key, command in commands.items()}}
    shutil.rmtree(folder)
    return result


def render(results: list[dict[str, Any]]) -> str:
    """Return the table: for each load and command, seconds and MiB; the exit status where it failed."""
    lines = ["| data | MB | " + " | ".join(("read", "info", "train", "predict")) + " |", "|---" * 6 + "|"]
    for result in results:
        cells = [
            f"{cell['seconds']:.1f} s, {cell['mib']:,.0f} MiB"
            + (f" (status {cell['status']})" if cell["status"] else "")
            for cell in (result[key] for key in ("read", "info", "train", "predict"))
        ]
        lines.append(f"| {result['name']} | {result['mb']:,.0f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the data, about 1 GB at a time")
    parser.add_argument("--only", nargs="+", default=[""], help="parts of names of loads")
    parser.add_argument("--record", type=Path, help="JSON file for the results")
    arguments = parser.parse_args()
    chosen = [name for name in LOADS if any(part in name for part in arguments.only)]
    results = []
    for name in chosen:
        results.append(run_load(name, arguments.out))
        print(render(results[-1:]).splitlines()[-1], flush=True)
        if arguments.record:
            arguments.record.write_text(json.dumps(results, indent=1) + "\n")
    print("\n" + render(results))


if __name__ == "__main__":
    main()
