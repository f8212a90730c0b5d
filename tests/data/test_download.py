"""Downloads by name, from a local server: resumption, checksums, limits, and errors in one line."""

import hashlib
import io
import json
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from click.testing import CliRunner

from tstk.cli import cli
from tstk.data import download, list_datasets, load_data
from tstk.data.download import KNOWN_FILES, TABLES, KnownFile, fetch
from tstk.errors import DataError, OptionError, UnknownNameError

TS = "@problemName Toy\n@timeStamps false\n@classLabel true a b\n@data\n" + "1,2,3,4:a\n4,3,2,1:b\n" * 4


def make_zip(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return file.getvalue()


TOY = make_zip(**{"Toy/Toy_TRAIN.ts": TS, "Toy/Toy_TEST.ts": TS, "../../evil.ts": "no", "Toy/Toy.txt": "about"})


def know(monkeypatch, name, content):
    """Make the size and the hash of a download known."""
    monkeypatch.setitem(KNOWN_FILES, name, KnownFile(hashlib.sha256(content).hexdigest(), len(content)))


@pytest.fixture
def server(monkeypatch, tmp_path):
    """Serve files by path, and Toy with a known hash; `cut` ends a response after so many bytes."""
    files, requests = {"/Toy.zip": TOY}, []
    state = {"cut": None, "headers": {}, "redirect": None, "pause": None}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            since = self.headers.get("Range", "")
            requests.append((self.path, since))
            data = files.get(self.path)
            if state["pause"]:
                state["pause"].wait(60)
            if data is None:
                self.send_error(404)
                return
            if state["redirect"]:
                self.send_response(302)
                self.send_header("Location", state["redirect"])
                self.end_headers()
                return
            offset = int(since.removeprefix("bytes=").rstrip("-")) if since else 0
            self.send_response(206 if since else 200)
            for key, value in ({"Content-Length": str(len(data) - offset)} | state["headers"]).items():
                if value is not None:
                    self.send_header(key, value)
            self.end_headers()
            self.wfile.write(data[offset : state["cut"]])

        def log_message(self, *args):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.handle_error = lambda *args: None  # a client that refuses an answer closes early
    threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    state["url"] = f"http://127.0.0.1:{http.server_port}"
    monkeypatch.setattr(download, "ARCHIVE_URL", state["url"] + "/{name}.zip")
    monkeypatch.setattr(download, "TABLE_URL", state["url"] + "/{name}.csv")
    know(monkeypatch, "Toy", TOY)
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


def list_cache(tmp_path):
    """Return the files below the cache, and the data sets in it."""
    cache = tmp_path / "cache"
    return sorted(p.name for p in cache.rglob("*") if p.is_file() or p.parent.name == "data")


def test_a_set_of_unknown_hash_takes_consent_and_must_then_stay_the_same(server, tmp_path, monkeypatch):
    files, requests, _ = server
    monkeypatch.delitem(KNOWN_FILES, "Toy")
    with pytest.raises(DataError, match=r"SHA-256 is not known.* add --trust-first-download"):
        fetch("Toy")
    assert requests == []
    folder = fetch("Toy", trust_first_download=True)
    hashes = json.loads((tmp_path / "cache" / "hashes.json").read_text())
    assert list(hashes.values()) == [hashlib.sha256(TOY).hexdigest()]
    for path in folder.iterdir():
        path.unlink()
    files["/Toy.zip"] = make_zip(**{"Toy_TRAIN.ts": TS, "Toy_TEST.ts": TS + "9,9,9,9:a\n"})
    for trust in (False, True):
        with pytest.raises(DataError, match=r"SHA-256 of the download is .*hashes\.json"):
            fetch("Toy", trust_first_download=trust)
    files["/Toy.zip"] = TOY
    assert len(list(fetch("Toy").iterdir())) == 2  # into the empty folder


def test_the_command_asks_for_consent(server, tmp_path, monkeypatch):
    monkeypatch.delitem(KNOWN_FILES, "Toy")
    refused = CliRunner().invoke(cli, ["data", "fetch", "Toy"])
    assert refused.exit_code == 2
    assert "--trust-first-download" in refused.stderr
    accepted = CliRunner().invoke(cli, ["data", "fetch", "Toy", "--trust-first-download"])
    assert accepted.exit_code == 0, accepted.output
    assert accepted.stdout == f"Toy: {tmp_path / 'cache' / 'data' / 'Toy'}\n"


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("name", ["Toy", "ETTh1", "ETTm2"])
def test_a_set_of_known_hash_must_have_it_and_nothing_else_is_kept(server, tmp_path, monkeypatch, name, trust):
    files, _, _ = server
    content = make_zip(**{"Toy_TRAIN.ts": TS, "Toy_TEST.ts": TS + "9,9,9,9:a\n"})
    files[f"/{name}.zip"] = files[f"/{name}.csv"] = content
    monkeypatch.setitem(KNOWN_FILES, name, KNOWN_FILES[name]._replace(num_bytes=len(content)))
    with pytest.raises(DataError, match=r"SHA-256 of the download is .*, expected .*; it was removed"):
        fetch(name, trust_first_download=trust)
    assert list_cache(tmp_path) == []


@pytest.mark.parametrize("says_size", [True, False])
@pytest.mark.parametrize(("name", "size"), [("ETTh1", 31), ("ETTh1", 1 << 24), ("ECG200", 1 << 24)])
def test_a_known_set_of_another_size_is_refused_as_soon_as_that_shows(server, tmp_path, name, size, says_size):
    files, _, state = server
    files["/ETTh1.csv"] = files["/ECG200.zip"] = bytes(size)
    if not says_size:
        state["headers"] = {"Content-Length": None}
    done = []
    with pytest.raises(DataError) as refused:
        fetch(name, lambda count, total: done.append(count))
    if name == "ECG200":
        assert "ECG200.zip: is larger than 8 MiB" in str(refused.value)
    elif says_size:
        assert f"the download has {size:,} bytes, expected 2,589,657; nothing was kept" in str(refused.value)
    elif size < KNOWN_FILES[name].num_bytes:
        assert "closed after 31 of 2,589,657 bytes; run the same command again" in str(refused.value)
    else:
        assert "the download has more bytes, expected 2,589,657; nothing was kept" in str(refused.value)
    assert max(done, default=0) <= (0 if says_size else KNOWN_FILES[name].num_bytes)
    if size > 31 or says_size:
        assert list_cache(tmp_path) == []


def test_of_several_that_fetch_one_set_one_downloads_it_and_the_others_wait(server, tmp_path):
    _, requests, state = server
    state["pause"] = threading.Event()
    waiting, folders = threading.Event(), []
    first = threading.Thread(target=lambda: folders.append(fetch("Toy")))
    second = threading.Thread(target=lambda: folders.append(fetch("Toy", lambda done, total: waiting.set())))
    first.start()
    while not requests and first.is_alive():
        first.join(0.01)
    assert requests
    second.start()
    assert waiting.wait(60)
    state["pause"].set()
    for thread in (first, second):
        thread.join()
    assert folders == 2 * [tmp_path / "cache" / "data" / "Toy"]
    assert len(requests) == 1
    assert list_cache(tmp_path) == ["Toy", "Toy_TEST.ts", "Toy_TRAIN.ts"]


def test_a_table_of_known_hash_is_fetched(server, monkeypatch):
    files, _, _ = server
    files["/ETTh2.csv"] = b"date,OT\n2020-01-01,1\n"
    know(monkeypatch, "ETTh2", files["/ETTh2.csv"])
    assert (fetch("ETTh2") / "ETTh2.csv").read_bytes() == files["/ETTh2.csv"]


def test_every_table_has_a_known_hash_and_size():
    assert all(KNOWN_FILES[name].is_exact for name in TABLES)
    assert all(len(bytes.fromhex(file.sha256)) == 32 for file in KNOWN_FILES.values())


def test_known_hashes_and_sizes_are_those_of_the_files(archive):
    for name in ("ETTh1", "ETTm1"):
        content = (archive / "forecasting" / f"{name}.csv").read_bytes()
        assert KnownFile(hashlib.sha256(content).hexdigest(), len(content)) == KNOWN_FILES[name]


def test_addresses_are_https():
    assert download.ARCHIVE_URL.startswith("https://")
    assert download.TABLE_URL.startswith("https://")


PORTAL = b"<!DOCTYPE html><html>Please log in</html>"


@pytest.mark.parametrize(
    ("content", "headers", "message"),
    [
        (PORTAL, {"Content-Type": "text/html; charset=utf-8"}, "the answer is a web page"),
        (PORTAL, {}, "no sound zip archive"),
        (TOY, {"Content-Length": "a lot"}, "Content-Length 'a lot', which is not a size"),
        (TOY, {"Content-Length": "-5"}, "Content-Length '-5', which is not a size"),
        (TOY, {"Content-Length": str(1 << 40)}, "is larger than 2,048 MiB"),
        (make_zip(**{"Toy_TRAIN.ts": TS}), {}, "holds no Toy_TRAIN.ts and Toy_TEST.ts"),
        (TOY[:-40], {}, "no sound zip archive"),
        (TOY.replace(TS[:9].encode(), b"@problemX")[:60] + bytes(20) + TOY[80:], {}, "no sound zip archive"),
    ],
)
def test_what_is_no_archive_is_never_kept_nor_remembered(server, tmp_path, monkeypatch, content, headers, message):
    files, _, state = server
    monkeypatch.delitem(KNOWN_FILES, "Toy")
    files["/Toy.zip"], state["headers"] = content, headers
    with pytest.raises(DataError, match=message):
        fetch("Toy", trust_first_download=True)
    assert list_cache(tmp_path) == []
    files["/Toy.zip"], state["headers"] = TOY, {}
    assert len(load_data(str(fetch("Toy", trust_first_download=True))).test) == 8


def test_a_download_without_end_is_stopped_at_the_limit(server, tmp_path, monkeypatch):
    _, _, state = server
    monkeypatch.setattr(download, "MAX_ARCHIVE_BYTES", 1 << 20)
    monkeypatch.delitem(KNOWN_FILES, "Toy")
    state["headers"] = {"Content-Length": None}
    server[0]["/Toy.zip"] = bytes(1 << 23)
    done = []
    with pytest.raises(DataError, match="is larger than 1 MiB"):
        fetch("Toy", lambda count, total: done.append(count), trust_first_download=True)
    assert max(done) <= 1 << 20
    assert list_cache(tmp_path) == []


def test_a_redirect_away_from_https_is_refused_before_it_is_followed(server, tmp_path):
    _, requests, state = server
    state["redirect"] = state["url"] + "/login"
    with pytest.raises(DataError, match="which is not HTTPS"):
        fetch("Toy")
    assert [path for path, _ in requests] == ["/Toy.zip"]
    assert list_cache(tmp_path) == []


def test_a_folder_without_the_files_does_not_count_as_fetched(server, tmp_path):
    folder = tmp_path / "cache" / "data" / "Toy"
    folder.mkdir(parents=True)
    assert len(list(fetch("Toy").iterdir())) == 2
    (folder / "Toy_TEST.ts").write_text("")
    with pytest.raises(DataError, match="does not hold the files of Toy; move it away"):
        fetch("Toy")
    assert sorted(p.name for p in folder.iterdir()) == ["Toy_TEST.ts", "Toy_TRAIN.ts"]


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
        (b"<html>sorry</html>", "the download has 18 bytes, expected"),
        (TOY[::-1], "SHA-256 of the download"),
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
    monkeypatch.setattr(download, "ARCHIVE_URL", "http://127.0.0.1:9/{name}.zip")
    monkeypatch.setitem(KNOWN_FILES, "Toy", KnownFile("00", 100))
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
