"""Recordings in EDF and BDF: the library's values in their units, one rate, no gaps, and nothing lost in silence."""

import numpy as np
import pytest

from tstk.data import DataConfig, load_data
from tstk.data.columns import ColumnRoles
from tstk.data.readers import edf
from tstk.errors import DataError, OptionError

edfio = pytest.importorskip("edfio", reason="edfio is not installed")


def write(folder, *rates, suffix="edf", **options):
    """Write sines of 4 seconds at these rates, and return the file and what the library reads from it."""
    kinds = {"edf": (edfio.Edf, edfio.EdfSignal), "bdf": (edfio.Bdf, edfio.BdfSignal)}
    recording_type, signal_type = kinds[suffix]
    signals = [
        signal_type(
            3 * np.sin(np.arange(4 * rate) / 5 + i), rate, label=f"EEG {i}", physical_dimension="uV" if i < 2 else "mV"
        )
        for i, rate in enumerate(rates)
    ]
    path = folder / f"night.{suffix}"
    recording_type(signals, data_record_duration=1, **options).write(path)
    return path, [signal.data for signal in signals]


@pytest.mark.parametrize("suffix", ["edf", "bdf"])
@pytest.mark.parametrize("count", [1, 3])
def test_signals_are_read_in_their_units(tmp_path, suffix, count):
    path, expected = write(tmp_path, *[32] * count, suffix=suffix)
    table = edf.read(path)
    np.testing.assert_allclose(table.values, np.stack(expected, 1), atol=1e-4)
    assert table.channels == tuple(f"EEG {i}" for i in range(count))
    units = "uV (EEG 0, EEG 1), mV (EEG 2)" if count == 3 else "uV (EEG 0)"
    assert table.note == f"{path.name}: 32 Hz; {units}; annotations and times are not used"


def test_a_recording_is_forecast_or_cut_as_a_table_is(tmp_path):
    path, _ = write(tmp_path, 32, 32)
    forecast = load_data(str(path), DataConfig(context=8, horizon=4))
    assert (forecast.task, forecast.channels) == ("forecasting", ("EEG 0", "EEG 1"))
    assert any("32 Hz; uV" in note for note in forecast.notes)
    cut = load_data(str(path), DataConfig(length=8))
    assert (cut.task, cut.spec.length) == (None, 8)
    assert any("32 Hz; uV" in note for note in cut.notes)


def test_signals_of_different_rates_are_refused_with_a_choice_that_works(tmp_path):
    path, expected = write(tmp_path, 32, 4, 32)
    with pytest.raises(DataError, match=r"different rates \(32 Hz: EEG 0, EEG 2; 4 Hz: EEG 1\)") as error:
        edf.read(path)
    choice = str(error.value).rpartition("--channel-columns ")[2].strip("'")
    table = edf.read(path, ColumnRoles(channels=tuple(choice.split(","))))
    np.testing.assert_allclose(table.values, np.stack([expected[0], expected[2]], 1), atol=1e-3)
    assert "2 of 3 channels: EEG 0, EEG 2" in table.note
    assert edf.read(path, ColumnRoles(drop=("EEG 0", "EEG 2"))).channels == ("EEG 1",)


@pytest.mark.parametrize("role", ["label", "group", "id", "time"])
def test_roles_that_a_recording_cannot_have_are_refused(tmp_path, role):
    path, _ = write(tmp_path, 32)
    with pytest.raises(DataError, match=r"has no meaning for a recording in \.edf"):
        edf.read(path, ColumnRoles(**{role: "EEG 0"}))


def change(path, start, new):
    data = bytearray(path.read_bytes())
    data[start : start + len(new)] = new
    path.write_bytes(data)


# in a file of two signals: where a field is, what is written there, and what the message says
FAULTS = {
    "gaps": (192, b"EDF+D", "was recorded with gaps"),
    "a wrong number of records": (236, b"9       ", "header indicates 9 data records, but file contains 4"),
    "an unfinished recording": (236, b"-1      ", "header indicates -1 data records"),
    "no number of signals": (252, b"many", "empty or not an .edf file"),
    "no signals": (252, b"0   ", "cut short or not an .edf file"),
    "more signals than there are": (252, b"999 ", "cut short or not an .edf file"),
    "a duration of zero": (244, b"0       ", "cut short or not an .edf file"),
    "no samples": (256 + 2 * 216, b"0       0       ", "cut short or not an .edf file"),
    "no physical range": (256 + 2 * 104, b"high    ", "the range of signal 'EEG 0' is damaged"),
    "equal physical limits": (256 + 2 * 104, b"5       5       5       5       ", "the range of signal 'EEG 0' is"),
    "an infinite limit": (256 + 2 * 104, b"inf     ", "the range of signal 'EEG 0' is damaged"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_recording_is_refused_in_a_line(tmp_path, fault):
    start, new, message = FAULTS[fault]
    path, _ = write(tmp_path, 32, 32)
    change(path, start, new)
    with pytest.raises(DataError) as error:
        edf.read(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("keep", [0, 100, 300, 800, 1000, -1, -128])
def test_a_recording_that_is_cut_short_is_refused_and_never_truncated(tmp_path, keep):
    path, _ = write(tmp_path, 32, 32)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"cut short|empty or not"):
        edf.read(path)


def test_a_header_that_is_not_utf_8_is_read_and_a_note_says_how(tmp_path):
    path, _ = write(tmp_path, 32)
    change(path, 8, "Müller, Jürgen".encode("latin-1"))
    change(path, 256, "Größe".encode("latin-1"))
    table = edf.read(path)
    assert table.channels == ("Größe",)
    assert "read as Latin-1" in table.note


def test_a_recording_of_annotations_alone_says_so(tmp_path):
    path = tmp_path / "notes.edf"
    edfio.Edf([], annotations=[edfio.EdfAnnotation(0, None, "Sleep stage W")]).write(path)
    with pytest.raises(DataError, match="holds no signals, only annotations"):
        edf.read(path)


def test_a_recording_larger_than_memory_is_not_read(tmp_path, monkeypatch):
    path, _ = write(tmp_path, 32)
    monkeypatch.setenv("TSTK_MEMORY", "1k")
    with pytest.raises(DataError, match=r"night\.edf: its signals take"):
        edf.read(path)


def test_without_the_library_the_extra_is_named(tmp_path, monkeypatch):
    path, _ = write(tmp_path, 32)
    monkeypatch.setitem(__import__("sys").modules, "edfio", None)
    with pytest.raises(DataError, match=r"reading it takes edfio: .*\[edf\]"):
        edf.read(path)


def test_an_excerpt_in_seconds_is_read_or_refused(tmp_path):
    path, (expected, _) = write(tmp_path, 32, 32)
    table = edf.read(path, start=1.0, stop=2.5)
    np.testing.assert_allclose(table.values[:, 0], expected[32:80], atol=1e-4)
    assert "48 of 128 samples, from 1 s to 2.5 s" in table.note
    with pytest.raises(OptionError, match=r"--reader.start 1 --reader.stop 9: .* has 128 samples, 4 s"):
        edf.read(path, start=1.0, stop=9.0)
