"""Small files that would take much memory are refused in a line that says how much, and what helps."""

import io
import os
import subprocess
import sys

import numpy as np
import pytest

from tstk.config.memory import get_available_memory
from tstk.data import DataConfig, load_data
from tstk.data.memory import require_memory
from tstk.data.readers import npz
from tstk.errors import DataError, OptionError

TS = "@timeStamps false\n@classLabel true a b\n@data\n"


def refuse(path, **options):
    """Return the message with which a set is refused."""
    with pytest.raises(DataError) as error:
        load_data(str(path), DataConfig(**options))
    assert "\n" not in str(error.value)
    assert " of memory, and " in str(error.value)
    return str(error.value)


def write_pair(folder, text, suffix):
    for split in ("TRAIN", "TEST"):
        (folder / f"Toy_{split}{suffix}").write_text(text)
    return folder / f"Toy_TRAIN{suffix}"


@pytest.fixture
def memory(monkeypatch):
    def limit(text):
        monkeypatch.setenv("TSTK_MEMORY", text)

    return limit


def test_what_is_free_is_known_without_the_variable(monkeypatch):
    monkeypatch.delenv("TSTK_MEMORY", raising=False)
    free = get_available_memory()
    if free is None:
        pytest.skip("this system does not say how much memory is free")
    assert 2**20 < free < 2**50
    with pytest.raises(DataError, match=r"x take 1,126 TB of memory, and .* are available; give less"):
        require_memory(2**50, "x", "give less")
    require_memory(2**20, "x", "give less")


def test_one_long_series_among_many_short_ones_is_named(tmp_path, memory):
    path = write_pair(tmp_path, TS + "1,2:a\n" * 50 + ",".join("1" * 9000) + ":b\n", ".ts")
    assert load_data(str(path)).spec.length == 9000
    memory("2M")
    message = refuse(path)
    assert "51 series, padded to the 9,000 samples of series 51, take 7.3 MB" in message
    assert message.endswith("2.1 MB are available; cut that series into shorter ones, or remove it")


def test_resizing_asks_for_memory_first(labelled):
    assert "give a smaller --resize" in refuse(labelled(), resize=10**12)


def test_cutting_a_table_asks_for_memory_first(table, memory):
    path, _ = table(600)
    memory("300k")
    load_data(path, DataConfig(length=60))
    assert "give a larger --stride" in refuse(path, length=60, stride=1)


def test_joining_sets_of_very_different_lengths_asks_for_memory_first(labelled, memory):
    short, long = labelled(train=200, name="short"), labelled(train=4, test=2, samples=5000, name="long")
    memory("4M")
    load_data(long)
    load_data(short)
    assert "give --resize, or train on fewer sets" in refuse(f"{short},{long}")


def test_a_generator_of_impossible_size_is_refused_by_name():
    assert "--length 1000000000000" in refuse("synthetic", length=10**12)
    for option in ("synthetic_count", "synthetic_kernels"):
        flag = option.replace("_", "-")
        with pytest.raises(OptionError, match=f"--{flag} is 1000000000000; expected int, 1 or more and"):
            DataConfig(**{option: 10**12})


@pytest.mark.slow
def test_splitting_by_very_many_groups_asks_for_memory_first(labelled, memory):
    y = np.arange(600)
    path = labelled(train=600, test=2, y_train=y, groups_train=y, y_test=y[:2])
    assert load_data(path).spec.num_outputs == 600
    memory("8M")
    assert "counts of 600 groups by 600 classes take 11.5 MB" in refuse(path)


def test_the_arrays_of_an_archive_are_summed(tmp_path, memory):
    arrays = {f"a{i}": np.random.default_rng(i).normal(size=20_000) for i in range(5)}
    np.savez_compressed(tmp_path / "x.npz", X=np.ones((2, 3)), **arrays)
    memory("1M")
    assert "its arrays take 1.6 MB" in refuse(tmp_path / "x.npz")
    memory("2M")
    assert len(npz.read(tmp_path / "x.npz")["train"].x) == 2


def test_an_archive_of_many_small_bombs_is_refused_as_one(tmp_path, monkeypatch):
    monkeypatch.setattr("tstk.data.lazy_array.MAX_IN_MEMORY_BYTES", 500_000)
    np.savez_compressed(tmp_path / "x.npz", X=np.ones((2, 3)), **{f"a{i}": np.zeros(50_000) for i in range(3)})
    with pytest.raises(DataError, match="as zip bombs do"):
        npz.read(tmp_path / "x.npz")


def test_a_csv_file_whose_cells_do_not_fit_is_refused_before_they_are_split(tmp_path, memory):
    path = write_pair(tmp_path, "t0,t1,label\n" + "1,2,a\n3,4,b\n" * 2000, ".csv")
    load_data(str(path))
    memory("500k")
    assert "4,001 rows and 12,003 cells take 712 kB" in refuse(path)


def test_a_text_file_larger_than_memory_is_not_read(tmp_path, memory):
    memory("1G")
    with (tmp_path / "x.ts").open("wb") as file:
        file.truncate(10**12)  # of holes, it takes no room
    assert "x.ts: its lines take 4.0 TB" in refuse(tmp_path / "x.ts")


@pytest.mark.parametrize("columns", ["numbers", "lists", "fixed lists"])
def test_a_parquet_file_is_measured_by_its_metadata(tmp_path, memory, columns):
    import pyarrow
    from pyarrow import parquet

    rows = np.zeros((3000, 8), np.float32)
    data = {
        "numbers": {"t0": rows[:, 0], "t1": rows[:, 1]},
        "lists": {"u": pyarrow.array(rows.tolist())},
        "fixed lists": {"u": pyarrow.array([[0.0] * 8] + [None] * 2999, pyarrow.list_(pyarrow.float32(), 8))},
    }[columns]
    parquet.write_table(pyarrow.table(data), tmp_path / "x.parquet")
    memory("300k")
    assert "x.parquet: 3,000 rows and" in refuse(tmp_path / "x.parquet")


@pytest.mark.slow
def test_a_text_that_repeats_in_a_parquet_file_is_stored_once(tmp_path, memory):
    import pyarrow
    from pyarrow import parquet

    from tstk.data.readers.parquet import read

    labels = ["a" * 10**4, "b"] * 2000
    parquet.write_table(pyarrow.table({"t0": np.arange(4000.0), "label": labels}), tmp_path / "x.parquet")
    memory("20M")
    y = read(tmp_path / "x.parquet")["train"].y
    assert y[0] is y[2]
    assert y[:2] == labels[:2]


def test_a_huge_array_of_another_shape_is_refused_without_reading_it(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**11,)})
    with (tmp_path / "X.npy").open("wb") as file:
        file.write(header.getvalue())
        file.truncate(len(header.getvalue()) + 4 * 10**11)
    with pytest.raises(DataError, match=r"X has shape \(100000000000,\); expected \(series, channels, samples\)"):
        load_data(str(tmp_path / "X.npy"))


def write_list(path, count, claimed_count=None):
    """Write one list of zeros, and optionally another number of values into the metadata."""
    import pyarrow
    from pyarrow import parquet

    zeros = pyarrow.ListArray.from_arrays(pyarrow.array([0, count], pyarrow.int32()), np.zeros(count, np.float32))
    parquet.write_table(pyarrow.table({"u": zeros}), path, compression="zstd")
    if claimed_count is None:
        return
    content = path.read_bytes()
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    number = encode_varint(2 * count)  # as Thrift writes it; the shorter number is padded to the same length
    claimed = bytes([2 * claimed_count + 128, *[128] * (len(number) - 2), 0])
    assert number in content[start:]
    path.write_bytes(content[:start] + content[start:].replace(number, claimed))


def encode_varint(number):
    digits = []
    while number:
        digits.append(number % 128)
        number //= 128
    return bytes([digit + 128 for digit in digits[:-1]] + digits[-1:])


def test_a_parquet_file_with_more_values_than_its_metadata_claim_is_refused(tmp_path):
    from tstk.data.readers.parquet import read

    write_list(tmp_path / "true.parquet", 200_000)
    assert read(tmp_path / "true.parquet")["train"].x.shape == (1, 1, 200_000)
    write_list(tmp_path / "false.parquet", 200_000, 4)
    assert (tmp_path / "false.parquet").stat().st_size < 5000
    with pytest.raises(DataError, match=r"holds 200,000 values, and its metadata claim 4; write or fetch it again"):
        read(tmp_path / "false.parquet")


READ_IN_LITTLE_MEMORY = """
import sys
from pathlib import Path
from tstk.config import memory
from tstk.data.readers.parquet import read
memory._ADDRESS_SLACK = 2**26
read(Path(sys.argv[1]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the addresses of a process are limited on Linux alone")
def test_a_parquet_file_that_hides_its_size_takes_no_more_than_what_is_available(tmp_path):
    write_list(tmp_path / "false.parquet", 3 * 10**7, 4)
    command = [sys.executable, "-c", READ_IN_LITTLE_MEMORY, str(tmp_path / "false.parquet")]
    result = subprocess.run(command, env={**os.environ, "TSTK_MEMORY": "20M"}, capture_output=True, text=True)
    assert "DataError" in result.stderr
    assert "false.parquet: larger than memory; save it as arrays" in result.stderr
