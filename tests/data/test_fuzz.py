"""Mutated files of every format: each loads to finite numbers, or is refused in one line; `make fuzz` tries more."""

import io
import os
import warnings

import numpy as np
import pyarrow
import pytest
import torch
from pyarrow import parquet

from tests.support.fuzz import fuzz
from tstk.data import DataConfig, load_data

try:
    import edfio
except ImportError:  # an optional extra
    edfio = None

CASES = int(os.environ.get("CASES", 1300))
"""Mutations to try, of all formats together."""
SEED = int(os.environ.get("SEED", 0))


def saved(save, *arguments, **options):
    file = io.BytesIO()
    save(file, *arguments, **options)
    return file.getvalue()


def save_parquet(columns):
    return saved(lambda file: parquet.write_table(pyarrow.table(columns), file))


def save_record(form):
    """Return a record of 31 samples of two signals, whose bytes are random; few formats have a checksum."""
    size = {8: 62, 24: 186, 212: 93, 310: 84, 311: 84}[form]
    header = f"r 2 360 31\n# Müller\nr.dat {form} 20(3)/mV 12 0 5\nr.dat {form} 20/mV 12 0 -5\n"
    data = np.random.default_rng(0).integers(0, 256, size, np.uint8).tobytes()
    return {"r.hea": header.encode("latin-1"), "r.dat": data}


def saved_recording(x):
    """Return a recording of two signals of 30 seconds."""
    signals = [edfio.EdfSignal(np.tile(x[i, 0], 6), 2, label=f"EEG {i}", physical_dimension="uV") for i in (0, 1)]
    return edfio.Edf(signals, data_record_duration=3, annotations=[edfio.EdfAnnotation(1, None, "a")]).to_bytes()


def small_files():
    """Return the format and the files of small valid sets: name -> bytes."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(12, 2, 10)).astype(np.float32)
    y = np.array(["a", "b"] * 6)
    cells = [[f"{v:.3g}" for v in row] for row in x[:, 0]]
    rows = "".join(",".join([*row, label]) + "\n" for row, label in zip(cells, y, strict=True))
    labelled_first = "".join("\t".join([label, *row]) + "\n" for row, label in zip(cells, y, strict=True))
    header = ",".join([*(f"t{i}" for i in range(10)), "label"]) + "\n"
    ts = "@problemName Toy\n@timeStamps false\n@univariate false\n@classLabel true a b\n@data\n"
    ts += "".join(f"{','.join(row[:5])}:{','.join(row[5:8])}:{label}\n" for row, label in zip(cells, y, strict=True))
    arff = (
        "@relation toy\n"
        + "".join(f"@attribute t{i} numeric\n" for i in range(10))
        + "@attribute c {a,b}\n@data\n"
        + rows
    )
    long = "id,time,u,v,label\n" + "".join(
        f"{i},{t},{x[i, 0, t]:.3g},{x[i, 1, t]:.3g},{y[i]}\n" for i in range(8) for t in range(4)
    )
    table = "date,u,v\n" + "".join(f"2020-01-{d + 1:02d},{x[d % 12, 0, 0]:.3g},{d}\n" for d in range(28))
    stamps = "id,timestamp,u,group,hr\n" + "".join(
        f"{10**16 + i // 5},2020-10-25T0{i % 5}:30:00.25+0{1 + (i % 5 < 2)}:00,{i % 7},g{i // 10},{i // 5}\n"
        for i in range(60)
    )
    days = "nr,date,time,u,v\n" + "".join(f"{i},{1 + i // 2}.02.2020,0{i % 2}:00,{i % 9},{i % 5}\n" for i in range(56))
    arrays = {"X_train": x, "y_train": y, "X_test": x[:6], "y_test": y[:6], "channels": np.array(["u", "v"])}
    tensors = saved(lambda f: torch.save({"samples": torch.from_numpy(x), "labels": torch.arange(12) % 2}, f))
    notes = {
        "states": draw.normal(size=(3, 2, 4)).astype(np.float32),
        "train": np.arange(12) % 3,
        "test": np.arange(6) % 3,
    }
    wide = {**{f"t{i}": x[:, 0, i] for i in range(10)}, "label": y}
    lists = {"u": list(x[:, 0]), "v": list(x[:, 1]), "label": y}
    typed = {
        **{
            f"{name}_{split}": values
            for split in ("train", "test")
            for name, values in (("X", x), ("ids", np.arange(12)))
        },
        "y_train": np.arange(12) % 2.0,
        "y_test": np.arange(12) % 2.0,
        "classes": np.array([b"walk", b"run"]),
        "targets_train": draw.normal(size=(12, 2)),
        "targets_test": draw.normal(size=(12, 2)),
    }
    ts_targets = "@timeStamps false\n@univariate true\n@targetLabel true\n@data\n"
    ts_targets += "".join(f"{','.join(row)}:{i / 7:.3g}\n" for i, row in enumerate(cells))
    ts_colons = "@univariate true\n@classLabel false\n@data\n" + "".join(f"{','.join(row)}:\n" for row in cells)
    record = "r 2 360 60\nr.dat 16 200(5)/mV\nr.dat 16 200/mV\n"
    signals = draw.integers(-900, 900, 120).astype("<i2").tobytes()
    return {
        "ts": {"Toy_TRAIN.ts": ts.encode(), "Toy_TEST.ts": ts.encode()},
        "arff": {"Toy_TRAIN.arff": arff.encode(), "Toy_TEST.arff": arff.encode()},
        "tsv": {f"Toy_{s}.tsv": labelled_first.encode() for s in ("TRAIN", "TEST")},
        "csv": {f"Toy_{s}.csv": (header + rows).encode() for s in ("TRAIN", "TEST")},
        "long csv": {f"Toy_{s}.csv": long.encode() for s in ("TRAIN", "TEST")},
        "table csv": {"table.csv": table.encode()},
        "table with clocks": {"table.csv": days.encode()},
        "long csv with offsets": {"Toy.csv": stamps.encode()},
        "npz": {"toy.npz": saved(np.savez, **arrays)},
        "conditioning": {"toy.npz": saved(np.savez, **arrays), "notes.npz": saved(np.savez, **notes)},
        "npy": {f"{name}.npy": saved(np.save, array) for name, array in arrays.items()},
        "pt": {f"{split}.pt": tensors for split in ("train", "test")},
        "parquet": {f"Toy_{s}.parquet": save_parquet(wide) for s in ("TRAIN", "TEST")},
        "parquet lists": {f"Toy_{s}.parquet": save_parquet(lists) for s in ("TRAIN", "TEST")},
        "record": {"r.hea": record.encode(), "r.dat": signals},
        "typed npz": {"toy.npz": saved(np.savez, **typed)},
        "typed npy": {f"{name}.npy": saved(np.save, array) for name, array in typed.items()},
        "ts of targets": {f"Toy_{s}.ts": ts_targets.encode() for s in ("TRAIN", "TEST")},
        "ts of colons": {f"Toy_{s}.ts": ts_colons.encode() for s in ("TRAIN", "TEST")},
        **{f"record {form}": save_record(form) for form in (8, 24, 212, 310, 311)},
        **({} if edfio is None else {"edf": {"r.edf": saved_recording(x)}}),
    }


def load_folder(folder):
    """Load the set in a folder, and check all that a training would see of it."""
    config, path = DataConfig(), folder
    if any((folder / name).exists() for name in ("table.csv", "r.hea", "r.edf")):
        config = DataConfig(context=8, horizon=2)
    if (folder / "notes.npz").exists():
        config, path = DataConfig(conditioning=(f"text={folder / 'notes.npz'}",)), folder / "toy.npz"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load_data(str(path), config)
        data.describe()
    for split in data.splits.values():
        batch = split.batch(torch.arange(len(split)))
        assert batch.x.isfinite().all(), "samples that are not finite"
        assert batch.x[~batch.observed_mask].eq(0).all() if batch.observed_mask is not None else True
        assert batch.y is None or not batch.y.is_floating_point() or not batch.y.isinf().any()
    assert data.mean.isfinite().all(), "a mean that is not finite"
    assert data.std.isfinite().all(), "a standard deviation that is not finite"
    assert data.std.gt(0).all()


@pytest.mark.slow
def test_a_mutated_file_of_any_format_loads_to_finite_numbers_or_is_refused_in_one_line():
    report = fuzz(list(small_files().values()), load_folder, CASES, seed=SEED)
    print(f"{report.loaded} loaded, {report.refused} refused in {len(report.messages)} ways")
    assert not report.faults, "\n".join(report.faults[:20])
    assert report.loaded + report.refused == CASES
    assert report.loaded > CASES / 50
    assert len(report.messages) > 50
