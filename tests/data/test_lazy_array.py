"""Sets larger than memory: lazily read data are equal and take no memory."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.support.grids import slow_after
from tstk.data import lazy_array, load_data
from tstk.data.columns import ColumnRoles
from tstk.data.containers import SeriesSet
from tstk.data.data_module import compute_mean_std
from tstk.data.datasets import SeriesDataset
from tstk.data.lazy_array import LazyArray
from tstk.data.readers import npy, npz
from tstk.errors import DataError

TYPES = ["float32", "float64", "float16", "int16", "uint8", ">f8"]


@pytest.fixture
def folder(tmp_path):
    """Write arrays as files of a folder and return its path."""

    def write(name="Toy", **arrays):
        (tmp_path / name).mkdir(exist_ok=True)
        for key, array in arrays.items():
            np.save(tmp_path / name / f"{key}.npy", np.asarray(array))
        return tmp_path / name

    return write


@pytest.fixture
def everything_is_large(monkeypatch):
    """Treat every set as larger than memory, and read few series at a time."""
    monkeypatch.setattr(lazy_array, "MAX_IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(lazy_array, "CHUNK_SAMPLES", 50)


def toy(n=24, dtype="float32", seed=0):
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(n, 2, 9)) * 20 + 100).astype(dtype)
    if x.dtype.kind == "f":
        x[3, :, 6:] = np.nan
        x[5, 1, 2] = np.nan
    return {"X_train": x, "y_train": np.arange(n) % 2, "X_test": x[::-1][:10].copy(), "y_test": np.arange(10) % 2}


def everything(data):
    return {name: part.batch(torch.arange(len(part))) for name, part in data.splits.items()}


def test_a_folder_of_npy_files_holds_what_an_npz_file_holds(folder, tmp_path):
    arrays = toy() | {"subject_train": np.arange(24) // 3, "channels": ["u", "v"]}
    np.savez(tmp_path / "toy.npz", **arrays)
    one, other = load_data(str(folder(**arrays))), load_data(str(tmp_path / "toy.npz"))
    assert one.name == "Toy"
    assert one.describe() | {"name": "toy", "source": list(other.source)} == other.describe()
    for part, batch in everything(one).items():
        assert batch.x.equal(everything(other)[part].x)


def test_labels_of_a_folder_may_have_another_name(folder):
    path = folder(X=np.ones((2, 3)), kind=["a", "b"])
    assert npy.read(path / "X.npy", roles=ColumnRoles("kind"))["train"].y == ["a", "b"]
    with pytest.raises(DataError, match="no array called 'mood'"):
        npy.read(path / "X.npy", roles=ColumnRoles("mood"))


@pytest.mark.parametrize("dtype", slow_after(2, TYPES))
@pytest.mark.parametrize("form", ["folder", "npz"])
def test_what_stays_in_its_file_is_the_same_data(folder, tmp_path, monkeypatch, form, dtype):
    arrays = toy(dtype=dtype)
    path = folder(**arrays) if form == "folder" else tmp_path / "toy.npz"
    np.savez(tmp_path / "toy.npz", **arrays)
    near = load_data(str(path))
    monkeypatch.setattr(lazy_array, "MAX_IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(lazy_array, "CHUNK_SAMPLES", 50)
    far = load_data(str(path))
    assert isinstance(near.train.x, torch.Tensor)
    assert isinstance(far.train.x, LazyArray)
    assert near.describe() == far.describe()
    torch.testing.assert_close((near.mean, near.std), (far.mean, far.std))
    for part, batch in everything(near).items():
        other = everything(far)[part]
        assert batch.x.equal(other.x)
        assert batch.observed_mask.equal(other.observed_mask)
        assert batch.y.equal(other.y)


@pytest.mark.usefixtures("everything_is_large")
def test_a_compressed_archive_is_read_as_well(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", **toy())
    np.testing.assert_array_equal(npz.read(tmp_path / "x.npz")["train"].x, toy()["X_train"])


def test_any_way_to_index_a_store_gives_what_the_array_gives():
    x = np.random.default_rng(0).normal(size=(7, 2, 5)).astype(np.float32)
    store = LazyArray(lambda: x)
    some = store.select([5, 1, 1, 6]).select(torch.tensor([3, 0, 2]))
    for where in (2, slice(1, 3), [0, 2], (slice(None), 1), (slice(0, 2), slice(None), slice(None, 3)), slice(None)):
        np.testing.assert_array_equal(store[where], x[where])
        np.testing.assert_array_equal(some[where] if where != [0, 2] else some[[0, 2]], x[[6, 5, 1]][where])
    np.testing.assert_array_equal(np.asarray(some), x[[6, 5, 1]])
    np.testing.assert_array_equal(list(some), x[[6, 5, 1]])
    assert (len(some), some.shape) == (3, (3, 2, 5))


@pytest.mark.usefixtures("everything_is_large")
def test_taking_series_of_a_store_leaves_them_there():
    x = toy()["X_train"]
    part = SeriesDataset(LazyArray(lambda: x)).select(torch.tensor([3, 20]))
    assert isinstance(part.x, LazyArray)
    assert part.lengths.tolist() == [6, 9]
    assert part.select(torch.tensor([1])).batch(torch.tensor([0])).x.equal(torch.from_numpy(x[20:21]))


def test_statistics_do_not_depend_on_how_many_series_are_looked_at_together(monkeypatch):
    x = np.random.default_rng(0).normal(size=(40, 3, 11)).astype(np.float32) * [[[1], [1e-3], [0]]] + [
        [[1e4], [0], [5]]
    ]
    x[::3, 0, 4:] = np.nan
    x = x.astype(np.float32)
    for chunk in (1, 100, 10**6):
        monkeypatch.setattr(lazy_array, "CHUNK_SAMPLES", chunk)
        mean, std = compute_mean_std(torch.from_numpy(x))
        np.testing.assert_allclose(mean, np.nanmean(x.astype(float), (0, 2)), rtol=1e-6)
        np.testing.assert_allclose(std[:2], np.nanstd(x.astype(float), (0, 2))[:2], rtol=1e-6)
        assert std[2] == 1


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.parametrize(
    ("value", "message"), [(np.inf, "series 22 holds an infinite"), (np.nan, "series 22 is entirely")]
)
def test_a_faulty_series_deep_in_a_store_is_found(value, message):
    x = toy()["X_train"]
    x[21] = value
    with pytest.raises(DataError, match=message):
        SeriesSet(LazyArray(lambda: x), "here")


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.parametrize("name", ["X.npy", "x.npz"])
def test_a_large_file_that_is_cut_short_says_so(tmp_path, name):
    path = tmp_path / name
    np.save(path, toy()["X_train"]) if name.endswith("y") else np.savez(path, X=toy()["X_train"])
    whole = path.read_bytes()
    for keep in (0, 30, 200, len(whole) - 400):
        path.write_bytes(whole[:keep])
        with pytest.raises(DataError, match="cut short"):
            (npy if name.endswith("y") else npz).read(path)


def test_a_compressed_archive_larger_than_memory_says_how_to_save_it(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "x.npz", X=np.ones((2, 3)))
    monkeypatch.setenv("TSTK_MEMORY", "50")
    with pytest.raises(DataError, match=r"50 bytes are available; save it with numpy\.savez, not compressed"):
        npz.read(tmp_path / "x.npz")


def test_a_folder_never_gives_a_pickle(folder):
    path = folder(X=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match="never loaded"):
        npy.read(path / "X.npy")


def test_a_file_of_another_name_is_refused_with_the_names_that_are_read(folder):
    path = folder(signal=np.ones((2, 3)))
    with pytest.raises(DataError, match=r"called X, x, data, samples, such as X_train\.npy"):
        load_data(str(path / "signal.npy"))
    with pytest.raises(DataError, match="no data in this folder"):
        load_data(str(path))


GROWTH = """
import resource, sys
import numpy as np, torch
import tstk
from tstk.data import load_data

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

torch.set_num_threads(1)
load_data().train.batch(torch.arange(64))
before = peak()
data = load_data(sys.argv[1])
seen = 0
for index in torch.randperm(len(data.train)).split(256):
    seen += len(data.train.batch(index).x)
print(len(data.train), seen, peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("form", ["folder", "npz"])
def test_an_epoch_over_a_large_set_takes_little_memory(folder, tmp_path, form):
    x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (80_000, 4, 256))  # 312 MiB
    some = np.random.default_rng(0).normal(size=(8000, 4, 256))
    for i in range(0, len(x), 8000):
        x[i : i + 8000] = some
    y = np.arange(len(x)) % 2
    if form == "npz":
        path = tmp_path / "x.npz"
        np.savez(path, X_train=x, y_train=y, X_test=x[:100], y_test=y[:100])
    else:
        path = folder(y_train=y, X_test=x[:100], y_test=y[:100])
        (tmp_path / "x.npy").rename(path / "X_train.npy")
    del x
    ran = subprocess.run([sys.executable, "-c", GROWTH, str(path)], capture_output=True, text=True, check=True)
    size, seen, growth = map(float, ran.stdout.split())
    assert size == seen == 64_000
    assert growth < 150, f"{growth:.0f} MiB"
