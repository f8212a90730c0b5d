"""Data sets in several files are joined; those at a URI are read from a copy that only `tstk data fetch` makes."""

import json
import socket

import fsspec
import pytest
from click.testing import CliRunner

from tstk.cli import cli
from tstk.data import DataConfig, load_data
from tstk.data.catalog import list_suffixes, locate
from tstk.data.identity import identify_files
from tstk.data.load import read_splits
from tstk.data.remote import fetch_uri, get_copy_dir
from tstk.errors import DataError


def write_part(path, start, count=4, length=6, **more):
    """Write series start, start + 1, ..., which hold their number."""
    import pyarrow
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = list(range(start, start + count))
    columns = {"samples": [[float(i)] * length for i in numbers], "label": [i % 2 for i in numbers]}
    parquet.write_table(pyarrow.table({**columns, "subject": [f"p{i // 2}" for i in numbers], **more}), path)


def numbers_of(series_set):
    return series_set.x[:, 0, 0].tolist()


@pytest.fixture
def parts(tmp_path):
    """Write three parts of a data set, and return their folder."""
    for number, start in enumerate((0, 4, 8)):
        write_part(tmp_path / "parts" / f"part-{number:05}.parquet", start, length=6 + number)
    return tmp_path / "parts"


@pytest.mark.parametrize("name", ["", "part-*.parquet", "part-0000[012].parquet"])
def test_parts_are_joined_in_order_of_name(parts, name):
    series_set = read_splits(str(parts / name) if name else str(parts))["train"]
    assert numbers_of(series_set) == list(range(12))
    assert series_set.y == [str(i % 2) for i in range(12)]
    assert series_set.groups == [f"p{i // 2}" for i in range(12)]
    assert series_set.x.shape[2] == 8
    assert "3 files are joined in order of their names, part-00000.parquet to part-00002.parquet" in series_set.note


def test_the_notes_of_many_parts_are_cut_short(tmp_path):
    for i in range(7):
        (tmp_path / f"part-{i}.csv").write_text("time;u\n" + "".join(f"{9 * i + t};{t},5\n" for t in range(9)))
    table = read_splits(str(tmp_path / "part-*.csv"))["train"]
    assert [f"part-{i}.csv: cells are separated by ';'" in table.note for i in range(5)] == [True] * 3 + [False] * 2
    assert table.note.endswith("; and 4 other notes on parts")


def test_a_pattern_selects_some_of_the_parts(parts):
    assert numbers_of(read_splits(str(parts / "part-0000[02].parquet"))["train"]) == [0, 1, 2, 3, 8, 9, 10, 11]


def test_parts_that_are_named_after_splits_are_splits(tmp_path):
    for split, starts in (("train", (0, 4)), ("test", (8,))):
        for number, start in enumerate(starts):
            write_part(tmp_path / "d" / f"{split}-{number:05}-of-{len(starts):05}.parquet", start)
    data = load_data(str(tmp_path / "d"))
    assert len(data.train) + len(data.val) == 8
    assert sorted(data.test.x[:, 0, 0].tolist()) == [8, 9, 10, 11]


def test_a_path_with_brackets_that_exists_is_a_path(tmp_path):
    write_part(tmp_path / "a[1]" / "part-0.parquet", 0)
    write_part(tmp_path / "a[1]" / "part-1.parquet", 4)
    write_part(tmp_path / "b[1].parquet", 0)
    assert numbers_of(read_splits(str(tmp_path / "a[1]"))["train"]) == list(range(8))
    assert numbers_of(read_splits(str(tmp_path / "b[1].parquet"))["train"]) == list(range(4))


def test_data_sets_that_differ_in_a_number_are_no_parts(tmp_path):
    for name in ("ETTh1", "ETTh2"):
        write_part(tmp_path / f"{name}.parquet", 0)
    with pytest.raises(DataError, match="several data sets"):
        load_data(str(tmp_path))


def test_parts_that_do_not_fit_together_are_refused_by_name(parts, tmp_path):
    write_part(parts / "part-00003.parquet", 12, id=["a", "b", "c", "d"])
    with pytest.raises(DataError, match=r"part-00000\.parquet: has no ids, and other files of .* have them"):
        read_splits(str(parts))
    (parts / "part-00003.parquet").unlink()
    (tmp_path / "t").mkdir()
    for number, names in enumerate(("a,b", "a,c")):
        (tmp_path / "t" / f"part-{number}.csv").write_text(f"date,{names}\n2020-01-0{number + 1},1,2\n")
    with pytest.raises(DataError, match=r"part-1\.csv: channels a, c; .*part-0\.csv has a, b"):
        read_splits(str(tmp_path / "t" / "part-*.csv"))
    with pytest.raises(DataError, match="no file matches"):
        read_splits(str(tmp_path / "t" / "piece-*.csv"))


def test_the_rows_of_tables_are_joined_in_time(tmp_path, table):
    paths = [table(20, name="m-1.csv"), table(10, name="m-2.csv", start="2020-01-01T20", seed=1)]
    joined = read_splits(str(tmp_path / "m-*.csv"))["train"]
    assert joined.values.tolist() == [row for _, values in paths for row in values.tolist()]
    assert joined.times.write()[19:21] == ["2020-01-01 19:00:00", "2020-01-01 20:00:00"]
    table(10, name="m-3.csv", start="2019-01-01T00")
    with pytest.raises(DataError, match="row 31 is dated before the row above it"):
        read_splits(str(tmp_path / "m-*.csv"))


def test_a_run_knows_every_part(parts):
    table = {"use": str(parts / "part-*.parquet"), "data_root": None, "conditioning": ()}
    assert [file["path"] for file in identify_files(table)] == [str(path) for path in sorted(parts.iterdir())]


# URIs


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TSTK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def bucket(parts):
    """Copy the parts into a file system in memory and return its URI."""
    filesystem = fsspec.filesystem("memory")
    for path in parts.iterdir():
        filesystem.pipe(f"/bucket/walks/data/{path.name}", path.read_bytes())
    filesystem.pipe("/bucket/walks/README.md", b"# Walks")
    yield "memory://bucket/walks"
    filesystem.rm("/bucket", recursive=True)


@pytest.mark.parametrize("end", ["", "/data/part-*.parquet", "/data/part-00001.parquet"])
def test_a_uri_is_copied_once_and_then_read_like_files(bucket, cache, end):
    uri = bucket + end
    result = CliRunner().invoke(cli, ["data", "fetch", uri])
    assert result.exit_code == 0, result.output
    fsspec.filesystem("memory").rm("/bucket/walks/data", recursive=True)  # reading and fetching again need it no more
    assert CliRunner().invoke(cli, ["data", "fetch", uri]).exit_code == 0
    expected = [4, 5, 6, 7] if end.endswith("1.parquet") else list(range(12))
    assert numbers_of(read_splits(uri)["train"]) == expected
    assert load_data(uri, DataConfig(test_fraction=0.25, val_fraction=0.0)).task == "classification"
    fsspec.filesystem("memory").mkdirs("/bucket/walks", exist_ok=True)


def test_reading_a_uri_that_was_not_fetched_makes_no_request_and_says_how_to_fetch_it(cache, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a request")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(fsspec.core, "url_to_fs", refuse)
    for uri in ("https://example.org/x.csv", "s3://bucket/x", "hf://datasets/org/name"):
        with pytest.raises(DataError, match=f"there is no copy of it here.*tstk data fetch '{uri}'"):
            load_data(uri)
        with pytest.raises(DataError, match="there is no copy"):
            identify_files({"use": uri, "data_root": None, "conditioning": ()})


@pytest.mark.slow
def test_a_run_that_was_trained_on_a_uri_leads_to_no_request(bucket, cache, tmp_path):
    assert CliRunner().invoke(cli, ["data", "fetch", bucket]).exit_code == 0
    words = f"train --data {bucket} --test-fraction 0.3 --encoder transformer --encoder.dim 8 --encoder.depth 1 "
    words += f"--encoder.heads 2 --head linear --steps 2 --device cpu --quiet --out {tmp_path / 'run'}"
    result = CliRunner().invoke(cli, words.split())
    assert result.exit_code == 0, result.output
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["config"]["data"]["use"] == bucket
    assert len(config["data_files"]) == 3
    assert CliRunner().invoke(cli, ["eval", str(tmp_path / "run")]).exit_code == 0
    for path in sorted(get_copy_dir(bucket).iterdir()):
        path.unlink()
    get_copy_dir(bucket).rmdir()
    result = CliRunner().invoke(cli, ["eval", str(tmp_path / "run")])
    assert result.exit_code == 2
    assert "there is no copy of it here" in result.stderr
    assert not get_copy_dir(bucket).exists()


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("memory://bucket/none", "check the address"),
        ("http://example.org/x.csv", "not encrypted; use https://"),
        ("nothing://bucket/x.csv", "nothing"),
        ("memory://bucket/text", "no data file there"),
    ],
)
def test_a_uri_that_cannot_be_fetched_is_one_line_and_leaves_nothing(bucket, cache, uri, message):
    fsspec.filesystem("memory").pipe("/bucket/text/a.md", b"")
    with pytest.raises(DataError, match=message) as error:
        fetch_uri(uri, list_suffixes())
    assert "\n" not in str(error.value)
    assert not get_copy_dir(uri).exists()


def test_nothing_is_fetched_offline(bucket, cache, monkeypatch):
    monkeypatch.setenv("TSTK_OFFLINE", "1")
    with pytest.raises(DataError, match="TSTK_OFFLINE forbids downloads"):
        fetch_uri(bucket, list_suffixes())


def test_a_file_system_that_fails_in_the_middle_leaves_no_half_copy(bucket, cache, monkeypatch):
    filesystem = fsspec.filesystem("memory")
    opened = []

    def fail(path, *args, **kwargs):
        opened.append(path)
        if len(opened) == 2:
            raise OSError("connection reset")
        return type(filesystem).open(filesystem, path, *args, **kwargs)

    monkeypatch.setattr(filesystem, "open", fail)
    with pytest.raises(DataError, match="connection reset; check the address"):
        fetch_uri(bucket, list_suffixes())
    assert not [path for path in cache.rglob("*") if path.is_file()]
    assert not locate_or_none(bucket)


def locate_or_none(uri):
    try:
        return locate(uri)
    except DataError:
        return None
