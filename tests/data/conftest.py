"""Small files to read."""

from functools import partial

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def no_root(monkeypatch):
    """Tests see only the embedded set unless they name a root."""
    monkeypatch.delenv("TSTK_DATA", raising=False)


TS = "@problemName Toy\n@timeStamps false\n@univariate false\n@classLabel true a b\n@data\n"


@pytest.fixture
def pair(tmp_path):
    """Write a TRAIN/TEST pair of .ts files from lines of data and return the path of the first."""

    def write(train, test=None, header=TS):
        for part, lines in (("TRAIN", train), ("TEST", test or train)):
            (tmp_path / f"Toy_{part}.ts").write_text(header + "\n".join(lines) + "\n")
        return str(tmp_path / "Toy_TRAIN.ts")

    return write


@pytest.fixture
def table(tmp_path):
    """Write a .csv table with hourly dates into the folder of the test and return its path and its values [T, C]."""
    return partial(write_table, tmp_path)


def write_table(folder, rows, channels=("u", "v"), name="table.csv", start="2020-01-01T00", seed=0):
    values = np.random.default_rng(seed).normal(size=(rows, len(channels))).astype(np.float32)
    dates = np.datetime64(start, "h") + np.arange(rows)
    lines = [",".join(["date", *channels])]
    lines += [
        ",".join([str(d).replace("T", " ") + ":00:00", *map(repr, row)])
        for d, row in zip(dates, values.tolist(), strict=True)
    ]
    (folder / name).write_text("\n".join(lines))
    return str(folder / name), values


@pytest.fixture
def labelled(tmp_path):
    """Save arrays as an .npz with a train and a test split into the folder of the test and return its path."""
    return partial(write_labelled, tmp_path)


def write_labelled(folder, train=20, test=10, channels=2, samples=6, seed=0, name="toy", **more):
    rng = np.random.default_rng(seed)
    arrays = {}
    for part, n in (("train", train), ("test", test)):
        arrays[f"X_{part}"] = rng.normal(size=(n, channels, samples)).astype(np.float32)
        arrays[f"y_{part}"] = np.arange(n) % 2
    np.savez(folder / f"{name}.npz", **(arrays | more))
    return str(folder / f"{name}.npz")
