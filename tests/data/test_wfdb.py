"""Records of PhysioNet in every format, against loops over bits, and their annotations."""

import struct

import numpy as np
import pytest

from tests.support.grids import slow_after
from tstk.data import DataConfig, load_data
from tstk.data.annotations import SYMBOLS, read_annotations
from tstk.data.readers import wfdb
from tstk.errors import DataError, OptionError

BITS = {8: 8, 16: 16, 24: 24, 32: 32, 61: 16, 80: 8, 160: 16, 212: 12, 310: 10, 311: 10}


def pack_bits(fields, size):
    """Return a block of bytes from pairs of a number and the bits, numbered from the lowest of byte 0, it occupies."""
    block = 0
    for number, places in fields:
        for i, place in enumerate(places):
            block |= (number >> i & 1) << place
    return block.to_bytes(size, "little")


# the bits of each sample of a block, from the pages of the format
PLACES = {
    212: [[*range(8), 8, 9, 10, 11], [*range(16, 24), 12, 13, 14, 15]],
    310: [[*range(1, 8), 8, 9, 10], [*range(17, 24), 24, 25, 26], [*range(11, 16), *range(27, 32)]],
    311: [[*range(10)], [*range(10, 20)], [*range(20, 30)]],
}
BLOCK_BYTES = {212: 3, 310: 4, 311: 4}


def encode(flat, form):
    """Return whole numbers as the bytes of a format, one by one."""
    if form in PLACES:
        places, data = PLACES[form], b""
        for start in range(0, len(flat), len(places)):
            numbers = [int(v) for v in flat[start : start + len(places)]]
            data += pack_bits(zip(numbers, places, strict=False), BLOCK_BYTES[form])
        return data
    offset, order = {80: 128, 160: 2**15}.get(form, 0), "big" if form == 61 else "little"
    return b"".join((int(v) + offset & 2 ** BITS[form] - 1).to_bytes(BITS[form] // 8, order) for v in flat)


def write_record(folder, values, form, extra="", name="r", encoding="utf-8", keep=None):
    values = np.asarray(values, np.int64)
    flat = np.diff(values, axis=0, prepend=values[:1]).ravel() if form == 8 else values.ravel()
    (folder / f"{name}.dat").write_bytes(encode(flat, form)[:keep])
    sums = [(int(s) + 2**15) % 2**16 - 2**15 for s in values.sum(0)]
    lines = [f"{name} {values.shape[1]} 360 {len(values)}"]
    lines += [f"{name}.dat {form} 100/µV 12 0 {values[0, i]} {s} 0 Ableitung {i}" for i, s in enumerate(sums)]
    (folder / f"{name}.hea").write_bytes("\n".join([*lines, extra]).encode(encoding))
    return folder / f"{name}.hea"


@pytest.mark.parametrize("form", BITS)
@pytest.mark.parametrize(("rows", "channels"), slow_after(2, [(7, 1), (10, 3), (8, 1), (9, 1), (11, 2)]))
def test_every_format_is_read_as_the_bits_say_for_any_number_of_samples(tmp_path, form, rows, channels):
    limit = 60 if form == 8 else 2 ** (BITS[form] - 1) - 1
    values = np.random.default_rng(0).integers(-limit, limit, (rows, channels))
    table = wfdb.read(write_record(tmp_path, values, form))
    np.testing.assert_allclose(table.values, values / 100, rtol=1e-6)


@pytest.mark.parametrize("form", sorted(set(BITS) - {8}))
def test_the_smallest_number_of_a_format_is_a_missing_sample(tmp_path, form):
    values = np.arange(12).reshape(6, 2)
    values[2, 1] = -(2 ** (BITS[form] - 1))
    table = wfdb.read(write_record(tmp_path, values, form))
    assert np.argwhere(np.isnan(table.values)).tolist() == [[2, 1]]


@pytest.mark.parametrize(("form", "keep"), [(212, 11), (310, 10), (311, 11)])
def test_a_block_that_is_incomplete_holds_the_samples_that_fit(tmp_path, form, keep):
    # seven samples: 212 needs 11 of 12 bytes, 310 needs 10 of 12 and 311 needs 10
    values = np.arange(1, 8)[:, None]
    np.testing.assert_allclose(wfdb.read(write_record(tmp_path, values, form, keep=keep)).values, values / 100)
    with pytest.raises(DataError, match="6 samples, its header says 7; it is cut short"):
        wfdb.read(write_record(tmp_path, values, form, keep={212: 10, 310: 9, 311: 9}[form]))


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
def test_a_header_that_is_not_utf_8_is_read_and_a_note_says_how(tmp_path, encoding):
    path = write_record(tmp_path, np.arange(300).reshape(100, 3), 16, "# Müller, 61 µV", encoding=encoding)
    assert wfdb.read(path).channels == ("Ableitung 0", "Ableitung 1", "Ableitung 2")
    for options in ({"context": 8, "horizon": 2}, {"length": 8}):
        notes = load_data(str(path), DataConfig(**options)).notes
        assert any("r.hea: the header is not in UTF-8 and was read as Latin-1" in note for note in notes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("r 2 360 8", "r 0 360 8"), "line 1: the record has no signals, only annotations"),
        (("r 2 360 8", "r 0"), "line 1: the record has no signals"),
        (("r 2 360 8", "r -1"), "expected positive numbers"),
        ((" 16 ", " 516 "), "line 2: format 516 (FLAC) is not supported; convert it to 16 with xform"),
        ((" 16 ", " 16x2 "), "format 16x2 (several samples per frame, or skewed) is not supported"),
        ((" 16 ", " 0 "), "format 0 is not supported"),
        ((" 16 ", " 80 "), "its signals have different formats or offsets"),
        (("r.dat", "http://example.org/r.dat"), "is in another folder"),
        (("r.dat", "~"), "~: there is no such file, though its header names it"),
    ],
)
def test_a_record_that_cannot_be_read_is_refused_in_a_line(tmp_path, change, message):
    path = write_record(tmp_path, np.arange(16).reshape(8, 2), 16)
    path.write_text(path.read_text().replace(*change, 1))
    with pytest.raises(DataError) as error:
        wfdb.read(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


# annotations


def word(code, interval):
    return struct.pack("<H", code << 10 | interval)


NORMAL, VENTRICULAR, RHYTHM = (next(c for c, s in SYMBOLS.items() if s == symbol) for symbol in "NV+")
END = b"\0\0"


def write_annotations(folder, data):
    (folder / "r.atr").write_bytes(data)
    return folder / "r.atr"


def test_annotations_have_positions_symbols_and_texts(tmp_path):
    data = word(RHYTHM, 18) + word(63, 5) + b"(AFIB\0" + word(NORMAL, 59) + word(61, 3) + word(62, 1) + word(60, 7)
    data += word(59, 0) + struct.pack("<HH", 1, 5) + word(VENTRICULAR, 10) + word(47, 1) + END + b"rest"
    found = read_annotations(write_annotations(tmp_path, data))
    assert found.positions.tolist() == [18, 77, 77 + 65541 + 10, 77 + 65541 + 11]
    assert found.symbols == ["+", "N", "V", "47"]
    assert found.texts == ["(AFIB", "", "", ""]
    assert found.time_resolution is None


def test_a_time_resolution_is_no_annotation(tmp_path):
    text = b"## time resolution: 250"
    data = word(22, 0) + word(63, len(text)) + text + b"\0" + word(NORMAL, 9) + END
    found = read_annotations(write_annotations(tmp_path, data))
    assert (found.time_resolution, found.positions.tolist(), found.symbols) == (250.0, [9], ["N"])


def test_the_beats_of_a_published_record_are_those_of_its_converted_copy(archive):
    copy = np.load(archive / "ecg" / "mitdb_100.npz")
    found = read_annotations(archive / "ecg" / "100.atr")
    np.testing.assert_array_equal(found.positions, copy["ann_sample"])
    assert found.symbols == copy["ann_symbol"].tolist()
    assert found.texts[0] == "(N"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cut short"),
        (word(NORMAL, 5), "without an end mark"),
        (word(NORMAL, 5)[:1], "cut short"),
        (word(59, 0) + b"\1", "cut short"),
        (word(NORMAL, 5) + word(63, 40) + b"(N", "cut short"),
        (word(63, 2) + b"(N" + END, "a text before the first annotation"),
        (word(59, 0) + struct.pack("<hH", -1, 0) + word(NORMAL, 1) + END, "annotation 1 is before the record"),
        (word(22, 0) + word(63, 22) + b"## time resolution: ab" + END, "is no time resolution"),
    ],
)
def test_damaged_annotations_are_refused_in_a_line(tmp_path, data, message):
    with pytest.raises(DataError) as error:
        read_annotations(write_annotations(tmp_path, data))
    assert message in str(error.value)
    assert str(error.value).endswith("fetch it again") or "fetch the file again" in str(error.value)


def test_annotations_of_a_file_that_is_not_there_are_refused(tmp_path):
    with pytest.raises(DataError, match="gone\\.atr: cannot be read"):
        read_annotations(tmp_path / "gone.atr")


def test_any_bytes_are_annotations_or_are_refused(tmp_path):
    draw, refused = np.random.default_rng(0), 0
    for _ in range(60):
        data = draw.integers(0, 256, draw.integers(0, 60), np.uint8).tobytes() + END * int(draw.integers(0, 2))
        try:
            read_annotations(write_annotations(tmp_path, data))
        except DataError:
            refused += 1
    assert 10 < refused < 60


@pytest.mark.parametrize(
    ("options", "first", "last"),
    [
        ({"start": 0.1}, 36, 100),
        ({"stop": 0.2}, 0, 72),
        ({"start": 0.1, "stop": 0.25}, 36, 90),
        ({"start": 0.0}, 0, 100),
    ],
)
def test_an_excerpt_in_seconds_is_read(tmp_path, options, first, last):
    path = write_record(tmp_path, np.arange(200).reshape(100, 2), 16)
    whole, part = wfdb.read(path), wfdb.read(path, **options)
    np.testing.assert_array_equal(part.values, whole.values[first:last])
    assert (f"{last - first} of 100 samples" in part.note) == (last - first < 100)


@pytest.mark.parametrize("options", [{"start": 1.0}, {"start": 0.2, "stop": 0.1}, {"stop": 9.0}, {"stop": 0.0}])
def test_an_excerpt_outside_the_record_is_refused(tmp_path, options):
    path = write_record(tmp_path, np.arange(200).reshape(100, 2), 16)
    with pytest.raises(OptionError, match=r"--reader.start .*r.hea has 100 samples, 0.277778 s"):
        wfdb.read(path, **options)


def test_records_of_different_sampling_rates_are_named(tmp_path):
    for i, rate in enumerate((360, 360, 128)):
        folder = tmp_path / "ab"[i % 2]
        folder.mkdir(exist_ok=True)
        path = write_record(folder, np.arange(20).reshape(10, 2) + i, 16, name=f"r{i}")
        path.write_text(path.read_text().replace(" 360 ", f" {rate} "))
    note = load_data(str(tmp_path), DataConfig(val_fraction=0.0)).notes[0]
    assert "samples are 2.77778 ms apart in 2 series, and 7.8125 ms apart in a/r2.hea, but are used" in note
