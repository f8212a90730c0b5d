"""Downloads by name, from a local server: resumption, checksums, and errors in one line."""

import hashlib
import io
import json
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from click.testing import CliRunner

from tstk.cli import cli
from tstk.data import list_datasets, load_data
from tstk.data.download import fetch
from tstk.errors import DataError, OptionError, UnknownNameError

pytest.importorskip("pooch", reason="pip install 'tstk-core[download]'")

TS = "@problemName Toy\n@timeStamps false\n@classLabel true a b\n@data\n" + "1,2,3,4:a\n4,3,2,1:b\n" * 4


def make_zip(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return file.getvalue()


TOY = make_zip(**{"Toy/Toy_TRAIN.ts": TS, "Toy/Toy_TEST.ts": TS, "../../evil.ts": "no", "Toy/Toy.txt": "about"})


@pytest.fixture
def server(monkeypatch, tmp_path):
    """Serve files by path; `cut` ends a response after so many bytes."""
    files, requests = {"/Toy.zip": TOY}, []
    state = {"cut": None}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            since = self.headers.get("Range", "")
            requests.append((self.path, since))
            data = files.get(self.path)
            if data is None:
                self.send_error(404)
                return
            at = int(since.removeprefix("bytes=").rstrip("-")) if since else 0
            self.send_response(206 if since else 200)
            self.send_header("Content-Length", str(len(data) - at))
            self.end_headers()
            self.wfile.write(data[at : state["cut"]])

        def log_message(self, *args):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    module = __import__("tstk.data.download", fromlist=["fetch"])
    monkeypatch.setattr(module, "ARCHIVE_URL", f"http://127.0.0.1:{http.server_port}/{{name}}.zip")
    monkeypatch.setattr(module, "TABLE_URL", f"http://127.0.0.1:{http.server_port}/{{name}}.csv")
    monkeypatch.setenv("TSTK_CACHE", str(tmp_path / "cache"))
    for name in ("TSTK_DATA", "TSTK_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    yield files, requests, state
    http.shutdown()
    http.server_close()


def test_a_set_is_fetched_once_and_found_by_name(server, tmp_path):
    _, requests, _ = server
    folder = fetch("Toy")
    assert sorted(p.name for p in folder.iterdir()) == ["Toy_TEST.ts", "Toy_TRAIN.ts"]
    assert fetch("Toy") == folder
    assert len(requests) == 1
    assert len(load_data("Toy").test) == 8
    assert "Toy" in [row.name for row in list_datasets()]
    assert not list(tmp_path.rglob("evil*"))
    assert [p.name for p in (tmp_path / "cache" / "downloads").iterdir()] == []


def test_ones_own_data_go_before_fetched_ones(server, tmp_path, monkeypatch):
    fetch("Toy")
    (tmp_path / "mine").mkdir()
    for part in ("TRAIN", "TEST"):
        (tmp_path / "mine" / f"Toy_{part}.ts").write_text(TS)
    monkeypatch.setenv("TSTK_DATA", str(tmp_path / "mine"))
    assert load_data("Toy").source[0] == str(tmp_path / "mine" / "Toy_TRAIN.ts")


def test_a_download_that_breaks_off_is_continued(server, tmp_path):
    _, requests, state = server
    state["cut"] = 100
    with pytest.raises(DataError, match="to resume the download"):
        fetch("Toy")
    assert not (tmp_path / "cache" / "data").exists() or not list((tmp_path / "cache" / "data").iterdir())
    state["cut"] = None
    fetch("Toy")
    assert requests[-1] == ("/Toy.zip", "bytes=100-")
    assert len(load_data("Toy").test) == 8


def test_the_first_hash_is_pinned_and_a_mismatch_is_refused(server, tmp_path):
    files, _, _ = server
    folder = fetch("Toy")
    hashes = json.loads((tmp_path / "cache" / "hashes.json").read_text())
    assert list(hashes.values()) == [hashlib.sha256(TOY).hexdigest()]
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    files["/Toy.zip"] = make_zip(**{"Toy_TRAIN.ts": TS, "Toy_TEST.ts": TS + "9,9,9,9:a\n"})
    with pytest.raises(DataError, match=r"SHA-256 mismatch.*hashes\.json"):
        fetch("Toy")
    assert not folder.exists()


def test_a_table_whose_hash_is_known_must_have_it(server):
    files, _, _ = server
    files["/ETTh1.csv"] = b"date,OT\n2020-01-01,1\n"
    with pytest.raises(DataError, match="SHA-256 mismatch"):
        fetch("ETTh1")
    files["/ETTh2.csv"] = b"date,OT\n2020-01-01,1\n"
    assert (fetch("ETTh2") / "ETTh2.csv").read_bytes() == files["/ETTh2.csv"]


def test_offline_nothing_is_asked_for_but_what_is_here_serves(server, monkeypatch):
    _, requests, _ = server
    monkeypatch.setenv("TSTK_OFFLINE", "1")
    with pytest.raises(DataError, match="TSTK_OFFLINE"):
        fetch("Toy")
    assert requests == []
    monkeypatch.setenv("TSTK_OFFLINE", "0")
    folder = fetch("Toy")
    monkeypatch.setenv("TSTK_OFFLINE", "1")
    assert fetch("Toy") == folder


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file; spell names"),
        (b"<html>sorry</html>", "not a zip archive"),
        (make_zip(**{"Toy_TRAIN.ts": TS}), "holds no Toy_TRAIN.ts and Toy_TEST.ts"),
    ],
)
def test_what_cannot_be_fetched_is_one_line_and_leaves_nothing(server, tmp_path, content, message):
    files, _, _ = server
    files["/Toy.zip"] = content
    result = CliRunner().invoke(cli, ["data", "fetch", "Toy"])
    assert result.exit_code == 2
    assert message in result.stderr
    assert len([line for line in result.stderr.splitlines() if line.startswith("Error: ")]) == 1
    data = tmp_path / "cache" / "data"
    assert not data.exists() or not list(data.iterdir())


def test_a_server_that_is_not_there_is_one_line(monkeypatch, tmp_path):
    module = __import__("tstk.data.download", fromlist=["fetch"])
    monkeypatch.setattr(module, "ARCHIVE_URL", "http://127.0.0.1:9/{name}.zip")
    monkeypatch.setenv("TSTK_CACHE", str(tmp_path))
    with pytest.raises(DataError, match=r"127\.0\.0\.1:9/Toy\.zip: .*refused"):
        fetch("Toy")


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "http://x"])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(OptionError, match="not the name of a public data set"):
        fetch(name)


def test_an_unknown_name_suggests_the_download(monkeypatch):
    monkeypatch.delenv("TSTK_DATA", raising=False)
    with pytest.raises(UnknownNameError, match="tstk data fetch PenDigits"):
        load_data("PenDigits")
