"""Formats of archives and databases: Weka's, torch's and PhysioNet's."""

import numpy as np
import pytest
import torch

from tests.support.grids import slow_after
from tstk.data import DataConfig, get_reader, load_data, load_split
from tstk.data.readers import arff, pt, wfdb
from tstk.errors import DataError, OptionError

NAN = np.nan


def write(path, text):
    path.write_text(text)
    return path


# .arff

ARFF = "@relation toy\n\n@attribute 'a 0' numeric\n@attribute a1 REAL\n@attribute target {1,-1}\n\n@data\n"
MULTI = "@relation toy\n@attribute x relational\n  @attribute t0 numeric\n  @attribute t1 numeric\n@end x\n"
MULTI += "@attribute kind {'up', down}\n@data\n"


def test_arff_with_one_attribute_per_sample_is_univariate(tmp_path):
    raw = arff.read(write(tmp_path / "x.arff", ARFF + "% a comment\n1,2.5,1.0\n?,4,-1\n"))["train"]
    np.testing.assert_array_equal(raw.x, [[[1, 2.5]], [[NAN, 4]]])
    assert (raw.y, raw.classes) == (["1", "-1"], ("1", "-1"))


def test_arff_with_a_relation_has_one_channel_per_line_of_it(tmp_path):
    raw = arff.read(write(tmp_path / "x.arff", MULTI + "'1,2\\n3,4',down\n\"5\\n6\",up\n"))["train"]
    np.testing.assert_array_equal(raw.x, [[[1, 2], [3, 4]], [[5, NAN], [6, NAN]]])
    assert (raw.y, raw.classes) == (["down", "up"], ("up", "down"))


def test_arff_without_a_class_has_series_without_labels(tmp_path):
    raw = arff.read(write(tmp_path / "x.arff", "@relation x\n@attribute a numeric\n@data\n1\n2\n"))["train"]
    assert (raw.x.shape, raw.y) == ((2, 1, 1), None)


@pytest.mark.parametrize("name", slow_after(1, ["GunPoint", "BasicMotions", "JapaneseVowels"]))
def test_a_set_of_the_archive_is_the_same_in_either_format(archive, tmp_path, name):
    data = load_data(name, DataConfig(data_root=str(archive)))
    for part in ("TRAIN", "TEST"):
        source = next(archive.rglob(f"{name}_{part}.ts"))
        raw = get_reader(source)(source)["train"]
        head = "@relation x\n@attribute x relational\n@attribute t numeric\n@end x\n@attribute c {CLASSES}\n@data\n"
        rows = [
            "'" + "\\n".join(",".join("?" if v != v else repr(v) for v in ch) for ch in first) + f"',{label}"
            for first, label in zip(raw.x.tolist(), raw.y, strict=True)
        ]
        text = head.replace("CLASSES", ",".join(sorted(set(raw.y)))) + "\n".join(rows)
        write(tmp_path / f"{name}_{part}.arff", text)
    other = load_data(str(tmp_path / f"{name}_TRAIN.arff"))
    assert other.classes == data.classes
    for part in ("train", "val", "test"):
        first, second = (d.splits[part].batch(torch.arange(len(d.splits[part]))) for d in (data, other))
        assert first.x.equal(second.x)
        assert first.observed_mask.equal(second.observed_mask)
        assert first.y.equal(second.y)


# .pt


@pytest.mark.parametrize(
    ("shape", "read", "message"),
    [
        ((4, 9, 128), (4, 9, 128), "samples [N, 9, 128] read as (series, channels, samples)"),
        ((4, 128, 9), (4, 9, 128), "samples [N, 128, 9] read as (series, samples, channels)"),
        ((4, 8, 8), (4, 8, 8), "samples [N, 8, 8] read as (series, channels, samples)"),
        ((4, 30), (4, 1, 30), ""),
    ],
)
def test_the_axes_of_saved_tensors_are_recognised_and_noted(tmp_path, shape, read, message):
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.save({"samples": x, "labels": torch.tensor([0.0, 1.0, 1.0, 0.0])}, tmp_path / "x.pt")
    raw = pt.read(tmp_path / "x.pt")["train"]
    turned = x.transpose(1, 2) if read[-2:] == shape[:0:-1] and shape[1] != shape[2] else x
    np.testing.assert_array_equal(raw.x, turned.reshape(read).float())
    assert raw.y == ["0", "1", "1", "0"]
    assert message in raw.note
    assert bool(raw.note) == bool(message)


def test_a_folder_of_saved_splits_is_a_data_set_of_its_own_name(tmp_path):
    (tmp_path / "HAR").mkdir()
    for i, part in enumerate(("train", "val", "test")):
        torch.save(
            {"samples": torch.full((4, 20, 3), float(i)), "labels": torch.arange(4) % 2},
            tmp_path / "HAR" / f"{part}.pt",
        )
    data = load_data("HAR", DataConfig(data_root=str(tmp_path)))
    assert (data.name, data.spec.channels, data.spec.length) == ("HAR", 3, 20)
    assert [part.x.unique().tolist() for part in data.splits.values()] == [[0], [1], [2]]
    assert any("train.pt: samples [N, 20, 3] read as (series, samples, channels)" in note for note in data.notes)


def test_saved_tensors_that_are_large_stay_in_their_file(tmp_path, monkeypatch):
    from tstk.data import lazy_array

    torch.save({"samples": torch.randn(6, 20, 3), "labels": torch.arange(6)}, tmp_path / "x.pt")
    near = pt.read(tmp_path / "x.pt")["train"].x
    monkeypatch.setattr(lazy_array, "MAX_IN_MEMORY_BYTES", 0)
    far = pt.read(tmp_path / "x.pt")["train"].x
    assert isinstance(far, lazy_array.LazyArray)
    np.testing.assert_array_equal(far[[4, 1]], near[[4, 1]])


def test_a_file_of_an_old_torch_is_read(tmp_path):
    torch.save({"samples": torch.ones(2, 3)}, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    assert pt.read(tmp_path / "x.pt")["train"].x.shape == (2, 1, 3)


class Trap:
    def __reduce__(self):
        return print, ("code was run",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"samples": Trap()}, "and other objects are never loaded; save it again"),
        ({"samples": np.ones((2, 3))}, "holds more than tensors"),
        ({"signal": torch.ones(2, 3)}, "no tensor called X or x or data or samples; it holds: signal"),
        (torch.ones(2, 3), "expected a dict of tensors"),
        ({"samples": torch.ones(2, 3), "labels": [0, 1]}, "expected a dict of tensors"),
        ({"samples": torch.ones(2, 3), "labels": torch.ones(3)}, "3 labels for 2 series"),
        ({"samples": torch.ones(2, 3, dtype=torch.complex64)}, "expected numbers"),
    ],
)
def test_a_file_of_torch_that_holds_something_else_is_refused(tmp_path, capsys, content, message):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(DataError) as error:
        pt.read(tmp_path / "x.pt")
    assert message in str(error.value)
    assert "code was run" not in capsys.readouterr().out


# WFDB


def record(folder, values, form=16, gain="200(5)/mV", skip=0, name="r"):
    """Write a record [T, signals] of whole numbers in one file."""
    values = np.asarray(values)
    flat = values.astype(np.int64).ravel()
    if form == 16:
        data = flat.astype("<i2").tobytes()
    else:
        bits = np.concatenate([flat, [0]])[: len(flat) + len(flat) % 2] & 0xFFF
        one, two = bits[::2], bits[1::2]
        data = np.stack([one & 255, one >> 8 | two >> 8 << 4, two & 255], 1).astype(np.uint8).tobytes()
    (folder / f"{name}.dat").write_bytes(bytes(skip) + data)
    sums = [(int(s) + 2**15) % 2**16 - 2**15 for s in values.sum(0)]
    form = f"{form}+{skip}" if skip else form
    lines = [f"{name} {values.shape[1]} 360 {len(values)}"]
    lines += [f"{name}.dat {form} {gain} 11 0 {values[0, i]} {s} 0 lead {i}" for i, s in enumerate(sums)]
    return write(folder / f"{name}.hea", "\n".join(["# a comment", *lines, "# another"]))


@pytest.mark.parametrize("form", [16, 212])
@pytest.mark.parametrize("signals", [1, 2, 3])
def test_a_record_is_read_in_the_units_of_its_header(tmp_path, form, signals):
    values = np.random.default_rng(0).integers(-2047, 2048, (31, signals))
    values[4, 0] = {16: -32768, 212: -2048}[form]
    table = wfdb.read(record(tmp_path, values, form, skip=24))
    expected = (values - 5) / 200
    expected[4, 0] = NAN
    np.testing.assert_allclose(table.values, expected, rtol=1e-6)
    assert table.channels == tuple(f"lead {i}" for i in range(signals))


def test_a_record_without_baseline_or_gain_has_those_that_the_format_says(tmp_path):
    path = record(tmp_path, [[200], [400]], gain="0")
    np.testing.assert_allclose(wfdb.read(path).values, [[1], [2]])


@pytest.mark.slow
def test_published_records_are_read_as_their_converted_copies_say(archive):
    copy = np.load(archive / "ecg" / "mitdb_100.npz")
    table = wfdb.read(archive / "ecg" / "100.hea")
    np.testing.assert_allclose(table.values, (copy["signal"] - copy["baseline"]) / copy["gain"], atol=1e-6)
    assert table.channels == tuple(copy["channels"])
    assert wfdb.read(archive / "ecg" / "a103l.hea").values.shape == (82500, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("212 ", "516 "), "line 3: format 516 (FLAC) is not supported"),
        (("212 ", "212x4 "), "format 212x4 (several samples per frame, or skewed) is not supported"),
        (("r.dat", "../r.dat"), "is in another folder"),
        (("r.dat", "gone.dat"), "gone.dat: there is no such file"),
        (("360 40", "360 90"), "40 samples, its header says 90"),
        (("r 2 360 40", "r 5 360 40"), "2 lines of signals, the first line says 5"),
        (("r 2 360 40", "r/3 2 360 40"), "several segments"),
        (("r 2 360 40", "hello"), "line 2: expected 'RECORD SIGNALS RATE SAMPLES'"),
        (("11 0 0 -20 0 lead 1", "11 0 0 99 0 lead 1"), "signal lead 1 is damaged"),
        (("11 0 0 -20 0 lead 1", "eleven x"), "line 4: expected whole numbers after the gain"),
    ],
)
def test_a_faulty_record_says_what_is_wrong_and_where(tmp_path, change, message):
    values = np.stack([np.arange(40), -(np.arange(40) % 2)], 1)
    path = record(tmp_path, values, 212)
    assert change[0] in path.read_text()
    path.write_text(path.read_text().replace(*change, 1))
    with pytest.raises(DataError) as error:
        wfdb.read(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


# Tables as series


def test_a_table_is_cut_into_series_split_by_split(table):
    path, values = table(200)
    data = load_data(path, DataConfig(length=8))
    assert data.task is None
    for part, start, stop in (("train", 0, 140), ("val", 140, 160), ("test", 160, 200)):
        x = data.splits[part].x
        assert len(x) == (stop - start) // 8
        np.testing.assert_array_equal(x[-1], values[start + 8 * len(x) - 8 : start + 8 * len(x)].T)
    near = load_data(path, DataConfig(length=8, stride=1))
    assert (len(near.train), len(near.val)) == (140 - 7, 2)


def test_a_record_is_cut_without_the_series_that_hold_nothing(tmp_path):
    values = np.random.default_rng(0).integers(-99, 99, (200, 2))
    values[16:24] = -32768
    data = load_data(str(record(tmp_path, values)), DataConfig(length=8))
    assert (len(data.train), data.channels) == (16, ("lead 0", "lead 1"))
    assert any("1 series without a sample are left out" in note for note in data.notes)


def test_a_model_that_was_pretrained_on_a_cut_table_reads_another(table):
    like = load_data(table(200)[0], DataConfig(length=8)).input_schema()
    path, values = table(50, name="other.csv", seed=1)
    part = load_split(path, input_schema=like)
    assert len(part) == 6
    np.testing.assert_array_equal(part.x[5], values[40:48].T)


def test_a_table_too_short_to_be_cut_says_so(table):
    with pytest.raises(DataError, match=r"rows 141 to 160: 20 rows, and --length 30; give less"):
        load_data(table(200)[0], DataConfig(length=30))
    with pytest.raises(OptionError, match="--length is 0"):
        load_data(table(200)[0], DataConfig(length=0))
