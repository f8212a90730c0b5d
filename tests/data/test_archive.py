"""The benchmark data read as published; skipped where they are not."""

import numpy as np
import pytest
import torch

from tstk.data import DataConfig, load_data


@pytest.mark.slow
@pytest.mark.parametrize(("name", "day"), [("ETTh1", 24), ("ETTm1", 96)])
def test_the_electricity_tables_are_cut_where_the_literature_cuts_them(archive, name, day):
    data = load_data(name, DataConfig(data_root=str(archive), context=96, horizon=192))
    assert [len(part) for part in data.splits.values()] == [
        360 * day - 96 - 192 + 1,
        120 * day - 192 + 1,
        120 * day - 192 + 1,
    ]
    lines = (archive / "forecasting" / f"{name}.csv").read_text().splitlines()[1:]
    values = np.array([line.split(",")[1:] for line in lines[480 * day : 480 * day + 192]], np.float32)
    np.testing.assert_array_equal(data.test.batch(torch.tensor([0])).y[0], values.T)


def test_the_illness_table_is_short_and_split_by_share(archive):
    data = load_data("illness", DataConfig(data_root=str(archive), context=36, horizon=24))
    assert [len(part) for part in data.splits.values()] == [676 - 59, 97 - 23, 193 - 23]


@pytest.mark.slow
def test_every_named_set_but_the_bare_recording_loads(archive):
    sizes = {
        "har": (7415, 2996),
        "ECG5000": (500, 4500),
        "PenDigits": (7494, 3498),
        "UWaveGestureLibrary": (120, 320),
        "PhalangesOutlinesCorrect": (1800, 858),
    }
    for name, (train, test) in sizes.items():
        data = load_data(name, DataConfig(data_root=str(archive)))
        assert (len(data.train) + len(data.val), len(data.test)) == (train, test)
        assert data.train.batch(torch.tensor([0])).observed is None
        assert len(data.notes) == 1 + 2 * (name == "har")  # the validation split, and arrays that are not used
