"""A class per sample in arrays, long tables, tables, folders and WFDB records, and recordings cut into windows."""

import struct

import numpy as np
import pytest
import torch

import tstk
from tstk.data.columns import ColumnRoles
from tstk.data.config import DataConfig
from tstk.data.containers import SeriesSet
from tstk.data.load import load_data, load_split
from tstk.data.readers import npz, wfdb
from tstk.data.segmentation import cut_recordings
from tstk.errors import DataError, OptionError

NAMES = ("run", "sit", "walk")


def make_recording(length, seed):
    rng = np.random.default_rng(seed)
    labels = np.repeat(rng.integers(3, size=length), 7)[:length]
    return rng.normal(size=(2, length)) + labels, labels


def write_long(path, lengths=(50, 61, 40, 55)):
    lines = ["id,time,a,b,activity"]
    for i, length in enumerate(lengths):
        x, labels = make_recording(length, i)
        lines += [f"r{i},{t},{x[0, t]:.3f},{x[1, t]:.3f},{NAMES[labels[t]]}" for t in range(length)]
    lines[3] = lines[3].rpartition(",")[0] + ","  # a sample without a label
    path.write_text("\n".join(lines) + "\n")
    return path


def config(**options):
    return DataConfig(task="segmentation", **options)


def test_labels_of_a_long_table_may_change_within_an_id(tmp_path):
    data = load_data(write_long(tmp_path / "d.csv"), config(test_fraction=0.25))
    assert data.classes == NAMES
    split = data.train
    assert split.ids is not None
    row = split.ids.index("r0") if "r0" in split.ids else None
    holder = split if row is not None else (data.val if "r0" in data.val.ids else data.test)
    y = holder.y[holder.ids.index("r0")]
    assert y[2] == -1
    known = torch.arange(50) != 2
    assert torch.equal(y[:50][known], torch.from_numpy(make_recording(50, 0)[1])[known])
    assert (y[50:] == -1).all()


def test_a_label_that_changes_names_the_task_that_takes_it(tmp_path):
    with pytest.raises(DataError, match="--task segmentation takes a label per row"):
        load_data(write_long(tmp_path / "d.csv"), DataConfig(label_column="activity"))


def test_windows_of_a_recording_are_all_in_one_split_and_test_windows_cover_every_sample_once(tmp_path):
    data = load_data(write_long(tmp_path / "d.csv"), config(test_fraction=0.25, length=16, stride=8))
    places = {name: set(split.groups) for name, split in data.splits.items()}
    assert not places["train"] & places["test"]
    assert not places["train"] & places["val"]
    lengths = {"r0": 50, "r1": 61, "r2": 40, "r3": 55}
    assert int(data.test.lengths.sum()) == sum(lengths[name] for name in places["test"])
    assert any("those of a group in one split" in note for note in data.notes)
    series = data.test.batch(torch.arange(len(data.test)))
    assert series.y.shape == (len(data.test), series.x.shape[2])


def test_windows_hold_the_samples_and_classes_of_their_place():
    x, labels = make_recording(37, 0)
    series_set = SeriesSet(x[None], "a", sample_labels=labels[None].astype(np.int32), classes=NAMES)
    windows = cut_recordings(series_set, 10, 5)
    assert windows.rows.tolist() == [0, 5, 10, 15, 20, 25, 30]
    for i, start in enumerate(windows.rows):
        size = min(10, 37 - start)
        assert windows.x[i, :, :size] == pytest.approx(x[:, start : start + size], abs=1e-6)
        assert windows.sample_labels[i].tolist() == [*labels[start : start + size], *[-1] * (10 - size)]


def test_one_recording_is_not_split_at_random(tmp_path):
    path = write_long(tmp_path / "d.csv", (200, 30))
    with pytest.raises(DataError, match="are of one recording or group"):
        load_data(path, config(test_fraction=0.5, length=20))


def test_a_table_is_split_by_rows_and_cut(tmp_path):
    x, labels = make_recording(200, 0)
    path = tmp_path / "t.csv"
    rows = [f"{t},{x[0, t]:.3f},{x[1, t]:.3f},{NAMES[labels[t]]}" for t in range(200)]
    path.write_text("\n".join(["time,a,b,activity", *rows]) + "\n")
    data = load_data(path, config(length=16, test_fraction=0.2))
    assert data.test.rows[0] == 160
    assert [len(s) for s in data.splits.values()] == [8, 2, 3]
    assert torch.equal(data.test.y.flatten()[:40], torch.from_numpy(labels[160:]))
    with pytest.raises(OptionError, match="cut it by --length"):
        load_data(path, config())
    with pytest.raises(OptionError, match="--regularize: the rows that it inserts would have no label"):
        load_data(path, config(length=16, regularize=True))


def test_arrays_may_hold_names_or_indices_and_unknown_samples(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 2, 12)), rng.integers(3, size=(5, 12))
    y[0, 3] = -1
    names = np.array([*NAMES, ""])[y]
    roles = ColumnRoles(label_per_sample=True)
    for labels, extra in ((y, {"classes": NAMES}), (names, {}), (y, {}), (np.where(y < 0, np.nan, y), {})):
        np.savez(tmp_path / "a.npz", X=x, y=labels, **extra)
        series_set = npz.read(tmp_path / "a.npz", roles)["train"]
        assert series_set.sample_labels.tolist() == y.tolist()
        assert series_set.classes == (("0", "1", "2") if labels is not names and not extra else NAMES)
    np.savez(tmp_path / "a.npz", X=x, y=y[:, :5])
    with pytest.raises(DataError, match=r"expected a class per sample, \(series, samples\) = \(5, 12\)"):
        npz.read(tmp_path / "a.npz", roles)
    np.savez(tmp_path / "a.npz", X=x, y=y)
    with pytest.raises(DataError, match="--task segmentation takes a class per sample"):
        npz.read(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", X=x, y=y + 1, classes=NAMES)
    with pytest.raises(DataError, match="label 3 is not the index, from 0, of one of the classes run"):
        npz.read(tmp_path / "a.npz", roles)


def test_recordings_of_a_manifest_have_a_column_of_labels_each(tmp_path):
    lines = ["file,subject"]
    for i in range(4):
        x, labels = make_recording(40 + i, i)
        rows = [f"{x[0, t]:.3f},{x[1, t]:.3f},{NAMES[labels[t]]}" for t in range(40 + i)]
        (tmp_path / f"{i}.csv").write_text("\n".join(["a,b,activity", *rows]) + "\n")
        lines.append(f"{i}.csv,s{i // 2}")
    (tmp_path / "manifest.csv").write_text("\n".join(lines) + "\n")
    data = load_data(tmp_path, config(length=16, val_fraction=0.5))
    assert data.classes == NAMES
    assert set(data.train.groups) != set(data.val.groups)


def test_other_data_need_no_labels_and_are_cut_like_the_test_split(tmp_path):
    data = load_data(write_long(tmp_path / "d.csv"), config(length=16, test_fraction=0.25))
    unlabelled = tmp_path / "new.csv"
    unlabelled.write_text("a,b\n" + "".join(f"{t / 7:.3f},{t % 5}\n" for t in range(40)))
    split = load_split(
        str(unlabelled), input_schema=data.input_schema(), roles=config().roles.for_other_data(), include_targets=False
    )
    assert split.y is None
    assert split.rows.tolist() == [0, 16, 32]
    assert split.lengths.tolist() == [16, 16, 8]


def test_a_class_that_training_lacks_is_named_with_its_place(tmp_path):
    data = load_data(write_long(tmp_path / "d.csv"), config(test_fraction=0.25))
    other = write_long(tmp_path / "o.csv")
    other.write_text(other.read_text().replace("walk", "swim"))
    with pytest.raises(DataError, match=r"class 'swim', at sample \d+ of series 1 .* does not occur in training"):
        load_split(str(other), input_schema=data.input_schema(), roles=config().roles.for_other_data())


def test_resampling_takes_the_class_of_the_nearest_sample():
    labels = np.array([[0, 0, 1, 1, 2, 2]], np.int32)
    series_set = SeriesSet(np.arange(6.0)[None, None], "a", sample_labels=labels, classes=NAMES)
    assert series_set.resize(3).sample_labels.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("option", "value"), [("crop", 20), ("augment", "time-warp"), ("augment", "tstk/permutation=3")]
)
def test_options_that_move_samples_are_refused_by_name(tmp_path, option, value):
    path = write_long(tmp_path / "d.csv")
    with pytest.raises(OptionError, match=f"--{option} {value}: would move the samples"):
        tstk.fit(data=str(path), task="segmentation", out=tmp_path / "run", steps=1, **{option: value})


def write_record(folder, annotations):
    """Write a WFDB record of 100 samples with annotations (sample, code, text)."""
    (folder / "r.hea").write_text("r 1 100 100\nr.dat 16 200 16 0 0 4950 0 ecg\n")
    np.arange(100, dtype="<i2").tofile(folder / "r.dat")
    data, last = b"", 0
    for sample, code, text in annotations:
        data += struct.pack("<H", code << 10 | sample - last)
        last = sample
        if text:
            data += struct.pack("<H", 63 << 10 | len(text)) + text.encode() + b"\0" * (len(text) % 2)
    (folder / "r.atr").write_bytes(data + b"\0\0")
    return folder / "r.hea"


def test_rhythms_of_a_wfdb_record_last_until_the_next_one(tmp_path):
    path = write_record(tmp_path, [(10, 28, "(N"), (20, 1, ""), (60, 28, "(AFIB")])
    table = wfdb.read(path, ColumnRoles(label_per_sample=True))
    names = np.array([*table.classes, ""])[table.sample_labels]
    assert names.tolist() == [""] * 10 + ["N"] * 50 + ["AFIB"] * 40
    assert "the class of a sample is the rhythm" in table.note


def test_beats_of_a_wfdb_record_reach_halfway_to_their_neighbours(tmp_path):
    path = write_record(tmp_path, [(20, 1, ""), (40, 5, ""), (80, 1, "")])
    table = wfdb.read(path, ColumnRoles(label_per_sample=True))
    names = np.array(table.classes)[table.sample_labels]
    assert names.tolist() == ["N"] * 30 + ["V"] * 30 + ["N"] * 40
    with pytest.raises(DataError, match=r"no annotations r\.qrs beside it"):
        wfdb.read(path, ColumnRoles(label="qrs", label_per_sample=True))
