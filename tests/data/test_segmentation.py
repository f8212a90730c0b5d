"""A class per sample in arrays, long tables, tables, folders and WFDB records, and recordings cut into windows."""

import struct

import numpy as np
import pytest
import torch

import tstk
from tstk.data.columns import ColumnRoles
from tstk.data.config import DataConfig
from tstk.data.containers import SeriesSet, Table
from tstk.data.convert import convert
from tstk.data.load import load_data, load_split, read_splits
from tstk.data.readers import npz, wfdb
from tstk.data.segmentation import cut_recordings
from tstk.data.split_files import split_data
from tstk.data.splits import hold_out
from tstk.data.times import parse_times
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
    assert any("those of a recording in one split" in note for note in data.notes)
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


def save_arrays(path, x, y, **more):
    np.savez(path, X=x, y=y, **more)
    return str(path)


def test_the_class_of_padding_is_not_used_and_a_note_says_so(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4, 1, 30)), rng.integers(2, size=(4, 30))
    x[2, :, 20:], y[2, 20:] = np.nan, 7
    x[0, :, 5:9] = np.nan  # a gap, whose samples have a class
    data = load_data(save_arrays(tmp_path / "a.npz", x, y), config(val_fraction=0.0))
    assert data.classes == ("0", "1")
    assert data.train.y[2].tolist() == [*y[2, :20], *[-1] * 10]
    assert data.train.y[0].tolist() == y[0].tolist()
    assert "10 samples beyond the end of a series have a class, which is not used" in " ".join(data.notes)


def test_windows_without_a_sample_are_counted_in_a_note(tmp_path):
    x = np.random.default_rng(0).normal(size=(2, 1, 60))
    x[0, :, 18:45] = np.nan
    data = load_data(
        save_arrays(tmp_path / "a.npz", x, np.tile(np.arange(60) % 2, (2, 1))), config(val_fraction=0.0, length=20)
    )
    assert sorted(zip(data.train.recordings.tolist(), data.train.rows.tolist(), strict=True)) == [
        (0, 0),
        (0, 40),
        (1, 0),
        (1, 20),
        (1, 40),
    ]
    assert "1 windows without a sample are left out" in " ".join(data.notes)


def test_recordings_of_train_and_test_that_have_the_same_number_are_not_taken_for_one(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {f"X_{split}": rng.normal(size=(4, 1, 50)) for split in ("train", "test")}
    labels = {f"y_{split}": rng.integers(2, size=(4, 50)) for split in ("train", "test")}
    np.savez(tmp_path / "a.npz", **arrays, **labels)
    assert "optimistic" not in " ".join(load_data(str(tmp_path / "a.npz"), config(length=20)).notes)
    groups = {f"groups_{split}": list("ppqq") for split in ("train", "test")}
    np.savez(tmp_path / "a.npz", **arrays, **labels, **groups)
    assert "2 groups occur both in training and in test" in " ".join(
        load_data(str(tmp_path / "a.npz"), config(length=20)).notes
    )


@pytest.mark.parametrize("options", [{}, {"test_fraction": 0.5}])
def test_a_class_that_training_lacks_is_named_with_its_place_in_the_recording(tmp_path, options):
    x, y = np.random.default_rng(0).normal(size=(6, 1, 50)), np.tile(np.arange(50) % 2, (6, 1))
    place = r"sample 46 of series 2 \(id 1\), does not occur in training, whose classes are 0, 1"
    unusual = y.copy()
    unusual[1, 45] = 5
    np.savez(tmp_path / "a.npz", X_train=x, y_train=y, X_test=x, y_test=unusual)
    np.savez(tmp_path / "b.npz", X_train=x, y_train=unusual)
    seed = next(s for s in range(9) if 1 in hold_out(SeriesSet(x, "b"), 0.5, s)[1])
    name = "b.npz" if options else "a.npz"
    with pytest.raises(DataError, match=place):
        load_data(str(tmp_path / name), config(length=20, split_seed=seed, **options) if options else config(length=20))


def test_windows_are_named_by_their_recording(tmp_path):
    x = np.random.default_rng(0).normal(size=(4, 1, 50))
    x[2, 0, 30] = 1e38
    y = np.tile(np.arange(50) % 2, (4, 1))
    np.savez(tmp_path / "a.npz", X_train=x[:2], y_train=y[:2], X_test=x, y_test=y)
    with pytest.raises(DataError, match=r"series 3 \(id 2\), window from sample 21 on holds a sample of 1e\+38"):
        load_data(str(tmp_path / "a.npz"), config(length=20))


def test_windows_have_no_times_of_whole_recordings():
    times = parse_times([str(i) for i in range(20)], "time", str)
    windows = cut_recordings(SeriesSet(np.ones((1, 1, 20)), "a", times=[times]), 5, 5)
    assert windows.select(np.array([3])).x.shape == (1, 1, 5)


def test_parts_of_a_data_set_are_joined_with_their_classes_per_sample(tmp_path):
    write_long(tmp_path / "part-0.csv", (30, 20))
    write_long(tmp_path / "part-1.csv", (40,))
    text = (tmp_path / "part-1.csv").read_text().replace("r0,", "r9,").replace("sit", "climb")
    (tmp_path / "part-1.csv").write_text(text)
    data = load_data(str(tmp_path / "part-*.csv"), config(val_fraction=0.0))
    assert data.classes == ("climb", "run", "sit", "walk")
    names = np.array([*data.classes, ""])
    assert names[data.train.y[1][:20]].tolist() == [NAMES[i] for i in make_recording(20, 1)[1]]
    part = [("climb" if i == 1 else NAMES[i]) for i in make_recording(40, 0)[1]]
    part[2] = ""  # the sample without a label
    assert names[data.train.y[2]].tolist() == part


def test_parts_of_a_table_are_joined_with_their_labels_of_rows(tmp_path):
    for part, name in enumerate(("a", "b")):
        rows = [f"{20 * part + t},{t % 7},{name if t % 2 else 'c'}" for t in range(20)]
        (tmp_path / f"part-{part}.csv").write_text("\n".join(["time,u,label", *rows]) + "\n")
    table = read_splits(str(tmp_path / "part-*.csv"), roles=config().roles)["train"]
    assert table.classes == ("a", "b", "c")
    assert [table.classes[i] for i in table.sample_labels] == ["c", "a"] * 10 + ["c", "b"] * 10


def test_a_recording_that_has_no_labels_is_refused_beside_others(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.csv").write_text("u,label\n" + "".join(f"{t},{t % 2}\n" for t in range(9)))
    (tmp_path / "3.hea").write_text("3 1 100 3\n3.dat 16 200 16 0 0 3 0 u\n")
    np.arange(3, dtype="<i2").tofile(tmp_path / "3.dat")
    (tmp_path / "3.atr").write_bytes(b"\0\0")
    (tmp_path / "manifest.csv").write_text("file\n0.csv\n1.csv\n2.csv\n3.hea\n")
    assert load_data(tmp_path, config(val_fraction=0.0)).train.y[3].tolist() == [-1] * 9
    (tmp_path / "manifest.csv").write_text("file\n0.csv\n1.csv\n2.csv\n3.ts\n")
    (tmp_path / "3.ts").write_text(
        "@problemName x\n@timeStamps false\n@univariate true\n@classLabel false\n@data\n1,2,3\n"
    )
    with pytest.raises(DataError, match=r"3\.ts: a recording in \.ts has no labels"):
        load_data(tmp_path, config(val_fraction=0.0))


def test_a_table_whose_windows_would_be_resampled_is_refused(tmp_path):
    rows = "".join(f"{t},{t % 7},{t // 9 % 2}\n" for t in range(200))
    (tmp_path / "t.csv").write_text("time,u,label\n" + rows)
    with pytest.raises(OptionError, match="--resize 8 has no meaning here: t is a table cut by --length"):
        load_data(str(tmp_path / "t.csv"), config(length=16, resize=8))


def test_a_table_is_resampled_as_the_recordings_of_training_were_and_then_cut(tmp_path):
    data = load_data(write_long(tmp_path / "d.csv"), config(length=10, resize=30, val_fraction=0.0))
    table = tmp_path / "t.csv"
    table.write_text("time,a,b\n" + "".join(f"{t},{t},{t}\n" for t in range(61)))
    split = load_split(str(table), input_schema=data.input_schema(), roles=config().roles.for_other_data())
    assert split.rows.tolist() == [0, 10, 20]
    assert split.x[:, 0].flatten() == pytest.approx(np.linspace(0, 60, 30), abs=1e-5)


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


def collect_records(splits):
    """Return id -> samples, group and the class of each sample by name, of series of several splits."""
    return {
        name: (x.tobytes(), series_set.groups and series_set.groups[i], [*np.array([*series_set.classes, ""])[labels]])
        for series_set in splits.values()
        for i, (name, x, labels) in enumerate(
            zip(series_set.ids, np.asarray(series_set.x), series_set.sample_labels, strict=True)
        )
    }


def write_source(folder, kind):
    """Write recordings of equal classes and lengths in one of the formats that hold a class per sample."""
    if kind == "csv":
        return str(write_long(folder / "d.csv"))
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 2, 30)), rng.integers(3, size=(6, 30))
    y[1, 4], x[2, :, 25:] = -1, np.nan
    arrays = {"X": x, "y": y, "classes": np.array(["walk", "sit", "run"]), "ids": np.arange(6), "subject": np.arange(6)}
    if kind == "npz":
        return save_arrays(folder / "d.npz", arrays.pop("X"), arrays.pop("y"), **arrays)
    (folder / "d").mkdir()
    for name, array in arrays.items():
        np.save(folder / "d" / f"{name}.npy", array)
    return str(folder / "d")


@pytest.mark.parametrize("kind", ["csv", "npz", "npy"])
@pytest.mark.parametrize("out", ["out.npz", "out"])
def test_a_class_per_sample_survives_a_conversion(tmp_path, kind, out):
    path, roles = write_source(tmp_path, kind), config().roles
    convert(path, str(tmp_path / out), config())
    before, after = read_splits(path, roles=roles), read_splits(str(tmp_path / out), roles=roles)
    if kind != "csv":  # whose rows are the ids
        assert collect_records(after) == collect_records(before)
    assert after["train"].classes == before["train"].classes
    assert after["train"].sample_labels.tolist() == before["train"].sample_labels.tolist()


@pytest.mark.parametrize("kind", ["csv", "npz", "npy"])
def test_a_class_per_sample_survives_a_split(tmp_path, kind):
    path, roles = write_source(tmp_path, kind), config().roles
    split_data(path, str(tmp_path / "out"), config(test_fraction=0.25))
    after = read_splits(str(tmp_path / "out"), roles=roles)
    assert list(after) == ["train", "test"]
    assert collect_records(after) == collect_records(read_splits(path, roles=roles))


def write_labelled_table(path, dates=True):
    x, labels = make_recording(60, 0)
    rows = [f"{x[0, t]:.3f},{x[1, t]:.3f},{NAMES[labels[t]] if t != 7 else ''}" for t in range(60)]
    if dates:
        rows = [f"2024-01-{1 + t // 24:02}T{t % 24:02}:00,{row}" for t, row in enumerate(rows)]
    path.write_text("\n".join(["date," * dates + "a,b,activity", *rows]) + "\n")
    return str(path)


@pytest.mark.parametrize("dates", [True, False])
def test_a_class_per_row_survives_a_split_of_a_table(tmp_path, dates):
    path, roles = write_labelled_table(tmp_path / "t.csv", dates), config().roles
    split_data(path, str(tmp_path / "out"), config(test_fraction=0.2))
    before, after = read_splits(path, roles=roles)["train"], read_splits(str(tmp_path / "out"), roles=roles)
    parts = [after["train"], after["test"]]
    assert all(isinstance(part, Table) for part in parts)
    names = [name for part in parts for name in np.array([*part.classes, ""])[part.sample_labels]]
    assert names == [*np.array([*before.classes, ""])[before.sample_labels]]
    assert np.concatenate([part.values for part in parts]).tobytes() == before.values.tobytes()
    assert all((part.times is not None) == dates for part in parts)


def test_a_labelled_table_is_cut_with_its_classes(tmp_path):
    path, roles = write_labelled_table(tmp_path / "t.csv"), config().roles
    labels = read_splits(path, roles=roles)["train"].sample_labels
    split_data(path, str(tmp_path / "split"), config(test_fraction=0.2, length=10))
    convert(path, str(tmp_path / "converted"), config(length=10))
    expected = np.array([*NAMES, ""])[labels]
    for folder in ("split", "converted"):
        names = np.full(60, "-", "<U4")
        for part in read_splits(str(tmp_path / folder), roles=roles).values():
            for start, x, row in zip(map(int, part.ids), part.x, part.sample_labels, strict=True):
                size = int((~np.isnan(x)).any(0).sum())
                names[start : start + size] = np.array([*part.classes, ""])[row[:size]]
                assert (row[size:] == -1).all()
        assert names.tolist() == expected.tolist()


def test_splits_with_different_classes_are_written_with_one_list(tmp_path):
    x, y = np.random.default_rng(0).normal(size=(2, 1, 6)), np.arange(6) % 2
    for split, names in (("train", "ba"), ("test", "bc")):
        np.savez(tmp_path / f"d_{split}.npz", X=x, y=np.tile(np.array([*names])[y], (2, 1)))
    convert(str(tmp_path / "d_train.npz"), str(tmp_path / "out.npz"), config())
    for split, names in (("train", "ba"), ("test", "bc")):
        part = read_splits(str(tmp_path / "out.npz"), roles=config().roles)[split]
        assert [*np.array(part.classes)[part.sample_labels[0]]] == [names[i] for i in y]


def test_files_keep_all_targets_so_other_tasks_are_refused(tmp_path):
    path = write_source(tmp_path, "npz")
    for write in (convert, split_data):
        with pytest.raises(OptionError, match=r"--task regression has no meaning .*--task segmentation keeps a class"):
            write(path, str(tmp_path / "out"), DataConfig(task="regression"))
        with pytest.raises(DataError, match=r"--task segmentation takes a class per sample$"):
            write(path, str(tmp_path / "out"), DataConfig(test_fraction=0.5) if write is split_data else DataConfig())


def test_a_channel_with_the_name_of_the_written_classes_is_refused(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("time,label,state\n" + "".join(f"{t},{t / 3:.2f},{'ab'[t % 2]}\n" for t in range(20)))
    with pytest.raises(DataError, match=r"a channel is called 'label', .*rename it, or give --length"):
        split_data(str(path), str(tmp_path / "out"), config(test_fraction=0.5, label_column="state"))
