"""Labels per sample of annotation files, arrays and columns."""

import numpy as np
import pytest

from tstk.data.annotations import read_annotations
from tstk.data.sample_labels import BEATS, label_beats, read_sample_labels
from tstk.errors import DataError


def word(code, value):
    return (code << 10 | value).to_bytes(2, "little")


def test_annotations_are_beats_with_their_samples(tmp_path):
    """A rhythm mark with a text of odd length, a long interval, a subtype and a channel come between the beats."""
    skip = word(59, 0) + (1).to_bytes(2, "little") + (5).to_bytes(2, "little")  # 1 << 16 | 5
    back = word(59, 0) + (0xFFFF).to_bytes(2, "little") + (0xFFFE).to_bytes(2, "little")  # -2
    aux = word(63, 3) + b"(N\0\0"
    content = [
        word(28, 18),
        aux,
        word(1, 59),
        word(5, 300),
        word(61, 1),
        word(62, 1),
        skip,
        word(8, 10),
        back,
        word(1, 7),
    ]
    (tmp_path / "a.atr").write_bytes(b"".join([*content, word(0, 0)]))
    found = read_annotations(tmp_path / "a.atr")
    is_beat = [symbol in BEATS for symbol in found.symbols]
    assert np.array(found.symbols)[is_beat].tolist() == ["N", "V", "A", "N"]
    assert found.positions[is_beat].tolist() == [77, 377, 377 + 65541 + 10, 377 + 65541 + 10 - 2 + 7]


def test_the_record_of_the_archive_has_the_beats_that_are_published(archive):
    found = read_annotations(archive / "ecg" / "100.atr")
    symbols = [symbol for symbol in found.symbols if symbol in BEATS]
    samples = found.positions[[symbol in BEATS for symbol in found.symbols]]
    assert {s: symbols.count(s) for s in set(symbols)} == {"N": 2239, "A": 33, "V": 1}
    with np.load(archive / "ecg" / "mitdb_100.npz") as arrays:
        is_beat = np.isin(arrays["ann_symbol"], ["N", "A", "V"])
        np.testing.assert_array_equal(samples, arrays["ann_sample"][is_beat])


def test_a_missing_label_is_no_anomaly_in_any_format(tmp_path):
    labels = np.array([0.0, 1.0, np.nan, 2.0])
    np.save(tmp_path / "a.npy", labels)
    np.savez(tmp_path / "a.npz", labels)
    (tmp_path / "a.csv").write_text("label,other\n0,x\n1,x\n,x\n2,x\n")
    for name in ("a.npy", "a.npz"):
        assert read_sample_labels(str(tmp_path / name), tmp_path, 4).tolist() == [False, True, False, True]
    assert read_sample_labels("label", tmp_path / "a.csv", 4).tolist() == [False, True, False, True]


def test_a_beat_reaches_halfway_to_its_neighbours():
    labels = label_beats(np.array([10, 20, 40]), ["N", "V", "N"], 50)
    assert labels.nonzero()[0].tolist() == list(range(15, 30))
    assert label_beats(np.array([10, 20, 40]), ["A", "L", "V"], 50).nonzero()[0].tolist() == [
        *range(15),
        *range(30, 50),
    ]
    assert not label_beats(np.array([], dtype=np.int64), [], 5).any()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.atr", b"\1\2\3", "it ends without an end mark"),
        ("a.atr", word(59, 0), "it ends without an end mark"),
        ("a.npy", b"no array", "not an npy array"),
        ("a.wav", b"", r"no labels in \.wav; expected \.npy"),
        ("a.csv", b"label\n0\nyes\n", "column 'label': 'yes' is not a number"),
    ],
)
def test_files_that_hold_no_labels_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_sample_labels(str(tmp_path / name), tmp_path / "data.npz", 2)


def test_a_column_needs_a_table_and_is_suggested(tmp_path):
    (tmp_path / "data.csv").write_text("date,load,fault\n2024-01-01,1,0\n2024-01-02,2,1\n2024-01-03,2,\n")
    assert read_sample_labels("fault", tmp_path / "data.csv", 3).tolist() == [False, True, False]
    with pytest.raises(DataError, match=r"'faults' for --sample-labels; it has .*fault\. Did you mean 'fault'"):
        read_sample_labels("faults", tmp_path / "data.csv", 3)
    with pytest.raises(DataError, match=r"there is no such file, and data\.npz has no columns"):
        read_sample_labels("fault", type(tmp_path)("data.npz"), 3)
