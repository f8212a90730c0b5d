"""Fast paths that trust offsets: what is mapped instead of read is checked first."""

import io
import zipfile

import numpy as np
import pytest
import torch

from tstk.data import lazy_array
from tstk.data.readers import npy, npz, pt
from tstk.errors import DataError


@pytest.fixture(autouse=True)
def everything_is_mapped(monkeypatch):
    monkeypatch.setattr(lazy_array, "MAX_IN_MEMORY_BYTES", 0)


def rewrite_archive(path, compression=zipfile.ZIP_STORED, change=lambda name, content: content):
    written = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(written, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    path.write_bytes(written.getvalue())


def flip_in_the_middle_of(path, content):
    """Flip a bit of the samples, wherever they are in the file."""
    whole = bytearray(path.read_bytes())
    start = whole.find(content)
    assert start >= 0
    whole[start + len(content) // 2] ^= 1
    path.write_bytes(bytes(whole))


def save_tensors(path, **more):
    x = torch.arange(240.0).view(8, 3, 10)
    torch.save({"samples": x, "labels": torch.arange(8) % 2, **more}, path)
    return x.numpy()


def test_a_compressed_file_of_tensors_is_refused_and_never_mapped(tmp_path):
    # the last tensor does not compress, so that the offsets of the others stay inside the file
    save_tensors(tmp_path / "x.pt", more=torch.randn(4000, generator=torch.Generator().manual_seed(0)))
    rewrite_archive(tmp_path / "x.pt", zipfile.ZIP_DEFLATED)
    with pytest.raises(DataError, match=r"x\.pt: a compressed archive, which torch\.save never writes; save it with"):
        pt.read(tmp_path / "x.pt")


def test_a_bit_flip_in_the_samples_is_noticed_in_a_file_of_tensors(tmp_path):
    flip = save_tensors(tmp_path / "x.pt").tobytes()
    assert pt.read(tmp_path / "x.pt")["train"].x.shape == (8, 3, 10)
    flip_in_the_middle_of(tmp_path / "x.pt", flip)
    with pytest.raises(DataError, match="a checksum does not match; write or fetch it again"):
        pt.read(tmp_path / "x.pt")


def test_a_tensor_cannot_reach_into_the_next_one(tmp_path):
    save_tensors(tmp_path / "x.pt", more=torch.zeros(5000))
    rewrite_archive(
        tmp_path / "x.pt", change=lambda name, content: content[:-40] if name.endswith("data/0") else content
    )
    with pytest.raises(DataError, match=r"x\.pt: (empty, cut short|'samples' claims more samples than it holds)"):
        pt.read(tmp_path / "x.pt")


def test_a_bit_flip_in_the_samples_is_noticed_in_a_mapped_archive(tmp_path):
    x = np.arange(240, dtype=np.float32).reshape(8, 3, 10)
    np.savez(tmp_path / "x.npz", X=x)
    assert isinstance(npz.read(tmp_path / "x.npz")["train"].x, lazy_array.LazyArray)
    flip_in_the_middle_of(tmp_path / "x.npz", x.tobytes())
    with pytest.raises(DataError, match="cut short or not an npz archive"):
        npz.read(tmp_path / "x.npz")


@pytest.mark.parametrize("claimed", [b"(9, 3, 10)", b"(7, 3, 10)", b"(8, 3, 11)", b"(8, 1, 10)"])
@pytest.mark.parametrize("kind", ["npz", "npy"])
def test_a_header_that_claims_another_number_of_samples_is_refused(tmp_path, kind, claimed):
    x, y = np.ones((8, 3, 10), np.float32), np.arange(8)

    def change(name, content):
        return content.replace(b"(8, 3, 10)", claimed)

    if kind == "npz":
        np.savez(tmp_path / "x.npz", X=x, z=np.ones(999), y=y)
        rewrite_archive(tmp_path / "x.npz", change=change)
    else:
        np.save(tmp_path / "X.npy", x)
        (tmp_path / "X.npy").write_bytes(change("", (tmp_path / "X.npy").read_bytes()))
    with pytest.raises(DataError, match="cut short"):
        npz.read(tmp_path / "x.npz") if kind == "npz" else npy.read(tmp_path / "X.npy")


def test_an_encrypted_archive_is_refused(tmp_path):
    np.savez(tmp_path / "x.npz", X=np.ones((2, 3)))
    whole = bytearray((tmp_path / "x.npz").read_bytes())
    for signature, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        whole[whole.find(signature) + offset] |= 1
    (tmp_path / "x.npz").write_bytes(bytes(whole))
    with pytest.raises(DataError, match="not an npz archive"):
        npz.read(tmp_path / "x.npz")
