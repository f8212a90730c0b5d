"""Malformed files: each error is one line with the file, the place and the remedy."""

import io
import zipfile

import numpy as np
import pytest

from tstk.data import get_reader, load_data
from tstk.errors import DataError

TS = "@timeStamps false\n@classLabel true a b\n@data\n"
ARFF = "@relation x\n@attribute t0 numeric\n@attribute t1 numeric\n@attribute c {a,b}\n@data\n"
JUNK = bytes(range(256)) * 40


def npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def replace_member(archive, name, data):
    """Replace the contents of one file of an archive."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(file, "w") as new:
        for member in old.namelist():
            new.writestr(member, data if member == name else old.read(member))
    return file.getvalue()


X = np.arange(24.0).reshape(4, 2, 3)
HUGE = npy(X).replace(b"(4, 2, 3)", b"(4, 2, 3000000000000)")

# what is wrong: file, what it holds, where the message says that the fault is, what it says to do
FAULTY = {
    "ragged rows": ("x.csv", "t0,t1,label\n1,2,a\n3,b\n", "line 3: 2 cells, the header has 3", "fix or remove"),
    "two delimiters": (
        "x.csv",
        "t0;t1,label\n1;2,a\n",
        "cells may be separated by ',' or ';'",
        "--reader.delimiter ';'",
    ),
    "decimal commas": ("x.csv", 'u,v,label\n"1,5",2,a\n', "line 2: '1,5' is not a number", "decimals take a point"),
    "text among numbers": ("x.csv", "t0,t1,label\n1,2,a\n3,n/a,b\n", "line 3: 'n/a' is not a number", "? or NaN"),
    "a column of text": ("x.csv", "t0,t1,kind\n1,2,up\n3,4,down\n", "column 'kind' holds text", "--label-column kind"),
    "data for a header": (
        "x.csv",
        "1.5,2,1,a\n4,5,6,b\n",
        "first line holds numbers",
        "expected the names of the columns",
    ),
    "no header": ("x.csv", "1,2,3\n4,5,6\n", "first line holds numbers", "expected the names of the columns"),
    "a column twice": ("x.csv", "t0,T0,label\n1,2,a\n", "line 1: two columns are called 't0'", "rename or remove"),
    "a huge field": ("x.csv", "t0,label\n" + "1" * 200_000 + ",a\n", "series 1 holds an infinite value", "as NaN"),
    "a huge number": ("x.csv", "t0,label\n1,a\n1e400,b\n", "series 2 holds an infinite value", "as NaN"),
    "an id twice": ("x.csv", "id,t0,label\n1,5,a\n2,6,b\n1,7,a\n", "line 4: id '1' was in line 2", "remove one"),
    "a time twice": ("x.csv", "id,time,u\na,1,5\na,1,6\n", "line 3: id 'a' has time 1 twice", "remove one"),
    "two labels": ("x.csv", "id,time,u,label\na,1,5,p\na,2,6,q\n", "line 3: label 'q' of id 'a'", "the same"),
    "dates backwards": ("x.csv", "date,u\n2020-01-02,1\n2020-01-01,2\n", "row 2 is dated before", "sort the rows"),
    "an infinite cell": ("x.csv", "date,u\n2020-01-01,1\n2020-01-02,inf\n", "an infinite value in row 2", "fix"),
    "an empty file": ("x.csv", "", "the file is empty", "write or fetch it again"),
    "a header alone": ("x.csv", "t0,t1,label\n", "no line after the header", "add the rows"),
    "binary junk as text": ("x.csv", JUNK, "not a text file in UTF-8", "save it as UTF-8"),
    "zeros as text": ("x.tsv", bytes(4000), "not a text file in UTF-8", "save it as UTF-8"),
    "half a ts": ("x.ts", TS[:20], "no @data line", "cut short"),
    "channels that come and go": ("x.ts", TS + "1:2:a\n1:b\n", "series 2 has 1 channels", "missing ones by NaN"),
    "a missing label": ("x.ts", TS + "1,2:a\n1,2:\n", "series 2 has no label", "remove it"),
    "an undeclared class": ("x.arff", ARFF + "1,2,z\n", "line 6: class 'z' is not declared", "declared are a, b"),
    "short rows": ("x.arff", ARFF + "1,2,a\n1,a\n", "line 7: 2 cells, the header declares 2", "fix the line"),
    "sparse rows": ("x.arff", ARFF + "{0 1}\n", "line 6: sparse data", "write every sample"),
    "binary junk as arrays": ("x.npz", JUNK, "not an npz archive", "write or fetch it again"),
    "half an archive": ("x.npz", npz(X=X)[:300], "cut short", "write or fetch it again"),
    "junk in an archive": ("x.npz", replace_member(npz(X=X), "X.npy", JUNK), "cut short", "write or fetch it again"),
    "an oversized header": ("x.npz", replace_member(npz(X=X), "X.npy", HUGE), "cut short", "write or fetch it again"),
    "an oversized array": ("X.npy", HUGE, "cut short", "write or fetch it again"),
    "a pickle": ("x.npz", npz(X=np.array([{}])), "holds Python objects", "save numbers and strings only"),
    "labels that are too few": ("x.npz", npz(X=X, y=[0, 1]), "2 labels for 4 series", "one for each"),
    "junk as tensors": ("x.pt", JUNK, "not a file of torch.save", "write or fetch it again"),
    "text as an array": ("X.npy", "hello", "cut short", "write or fetch it again"),
    "an unfinished header": ("X.npy", npy(X).replace(b"'descr'", b"'des((("), "cut short", "write or fetch it again"),
    "an array that is too long": ("X.npy", npy(X) + b"more", "cut short", "write or fetch it again"),
    "an empty array file": ("X.npy", "", "empty", "write or fetch it again"),
    "an empty archive": ("x.npz", "", "empty", "write or fetch it again"),
    "an empty file of tensors": ("x.pt", "", "empty", "write or fetch it again"),
    "an empty parquet file": ("x.parquet", "", "empty", "write or fetch it again"),
    "an empty ts": ("x.ts", "", "the file is empty", "write or fetch it again"),
    "characters that do not exist": (
        "x.npz",
        npz(X=X, y=np.array([0xFFFFFFFF, 1, 1, 1], "u4").view("U1")),
        "labels hold characters that do not exist",
        "fetch",
    ),
    "half a character": (
        "x.npz",
        npz(X=X, y=np.array([0xD800, 1, 1, 1], "u4").view("U1")),
        "labels hold characters that do not exist",
        "fetch",
    ),
    "a table of names": ("x.npz", npz(X=X, channels=[["u"], ["v"]]), "channels have shape (2, 1)", "one name each"),
    "one name for all": ("x.npz", npz(X=X, classes=3.0), "classes have shape ()", "one name each"),
    "an escape sequence": ("x.csv", "t0,label\n1,a\n2,\x1b]0;b\n", r"line 3: holds the control character", "remove"),
    "another end of line": ("x.ts", TS + "1,2:a\u2028b\n", "line 4: holds the control character", "remove"),
    "no signals": ("x.hea", "x 0 360 10\n", "line 1: the record has no signals", "give the header of one"),
    "a record above": ("x.hea", "x 1 360 2\n.. 16 200\n", "line 2: .. is in another folder", "beside their header"),
    "a huge baseline": ("x.hea", f"x 1 360 2\nx.dat 16 200 11 {10**30}\n", "line 2: expected whole numbers", "WFDB"),
    "a header of nothing": ("x.hea", "hello\n", "line 1: ", "expected 'RECORD SIGNALS RATE SAMPLES'"),
}


@pytest.mark.parametrize("fault", FAULTY)
def test_a_malformed_file_is_refused_with_file_place_and_remedy(tmp_path, fault):
    name, content, place, remedy = FAULTY[fault]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as error:
        load_data(str(tmp_path / name))
    message = str(error.value)
    assert name in message
    assert place in message
    assert remedy in message.split(place, 1)[1]
    assert "\n" not in message
    assert len(message) < len(str(tmp_path)) + 250


@pytest.mark.parametrize("suffix", [".ts", ".csv", ".npz", ".npy", ".pt", ".parquet", ".hea", ".arff", ".edf"])
def test_a_folder_in_place_of_a_file_is_refused_in_one_line(tmp_path, suffix):
    (tmp_path / f"X{suffix}").mkdir()
    with pytest.raises(DataError, match=r"no data in this folder; looked for \*\.ts"):
        load_data(str(tmp_path / f"X{suffix}"))
    with pytest.raises(DataError, match=f"X.{suffix[1:]}: ") as error:
        get_reader(tmp_path / f"X{suffix}")(tmp_path / f"X{suffix}")
    assert str(error.value).isprintable()


def test_what_an_error_quotes_of_a_file_stays_in_one_printable_line():
    assert str(DataError("class \x1b]0;x\x07\nis \u202e new")) == r"class \x1b]0;x\x07\nis \u202e new"
    long = str(DataError("file: " + "x" * 10**6 + "; remove it"))
    assert len(long) < 1500
    assert long.startswith("file: x")
    assert long.endswith("x; remove it")
