"""The data sets of `benchmarks.tasks`: windows, targets and the baseline that knows the data."""

import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks.tasks import MONTH, make_heart_rate, make_labels, make_load
from tstk.data import load_data

pytestmark = pytest.mark.slow

RECORD = Path(os.environ.get("TSTK_DATA", "")) / "ecg" / "mitdb_100.npz"


def test_labels_replace_activities_and_a_window_has_any_number_of_them(tmp_path):
    arrays, _ = make_labels()
    np.savez(tmp_path / "labels.npz", **arrays)
    data = load_data(str(tmp_path / "labels.npz"))
    assert (data.task, data.classes) == ("multilabel", ("moving", "stairs", "sitting or lying"))
    rows, counts = np.unique(data.test.y, axis=0, return_counts=True)
    assert dict(zip(map(tuple, rows.tolist()), counts.tolist(), strict=True)) == {
        (0, 0, 0): 18,  # standing
        (0, 0, 1): 36,
        (1, 0, 0): 18,
        (1, 1, 0): 36,
    }


def test_the_loads_of_the_next_hour_follow_their_windows(tmp_path):
    values = np.arange(20 * MONTH)
    rows = [f"{v},{v}.5,{v},{v}.25" for v in values]
    (tmp_path / "table.csv").write_text("\n".join(["date,HUFL,OT,MUFL", *rows]) + "\n")
    arrays, scores = make_load(tmp_path / "table.csv")
    np.testing.assert_array_equal(arrays["targets_test"] - arrays["X_test"][:, [0, 2], -1], 1)
    assert arrays["targets_train"].max() < arrays["targets_val"].min()
    assert arrays["targets_val"].max() < arrays["targets_test"].min() == 16 * MONTH + 0.25
    assert scores["last value"]["mae"] == 1


@pytest.mark.slow
@pytest.mark.skipif(not RECORD.is_file(), reason="TSTK_DATA names no folder with ecg/mitdb_100.npz")
def test_heart_rates_are_those_of_annotated_beats_and_parts_are_apart_in_time():
    arrays, scores = make_heart_rate(RECORD)
    assert [arrays[f"X_{split}"].shape for split in ("train", "val", "test")] == [
        (477, 2, 300),
        (93, 2, 300),
        (141, 2, 300),
    ]
    rates = np.concatenate([arrays[f"targets_{split}"] for split in ("train", "val", "test")])
    assert rates.min() > 60
    assert rates.max() < 95
    assert scores["peak detector"]["r2"] > 0.99
