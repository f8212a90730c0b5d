"""Download public data sets by name: after `tstk data fetch GunPoint`, `--data GunPoint` finds the set.

    TSTK_CACHE (or the user's cache folder)/
      data/GunPoint/GunPoint_TRAIN.ts  GunPoint_TEST.ts
      hashes.json         URL -> SHA-256 of a download that the user trusted; a later mismatch is an error

UCR and UEA sets come from timeseriesclassification.com, the Electricity Transformer tables from their repository, over
HTTPS. Nothing is kept before its size and SHA-256 were checked: against `KNOWN_FILES`, or else against the first
download, which the user has to trust explicitly. With TSTK_OFFLINE=1 nothing is downloaded. Of several processes that
fetch one set, one downloads it and the others wait.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from tstk.errors import DataError, OptionError
from tstk.files import explain_write_errors, get_cache_dir, write_json
from tstk.files.lock import file_lock

if TYPE_CHECKING:
    from http.client import HTTPResponse

ARCHIVE_URL = "https://www.timeseriesclassification.com/aeon-toolkit/{name}.zip"
TABLE_URL = "https://raw.githubusercontent.com/zhouhaoyi/ETDataset/1d16c8f4f943005d613b5bc962e9eeb06058cf07/ETT-small/{name}.csv"
TABLES = ("ETTh1", "ETTh2", "ETTm1", "ETTm2")


class KnownFile(NamedTuple):
    """A download that is known: its SHA-256, and its size in bytes or the most that it can have."""

    sha256: str
    num_bytes: int
    is_exact: bool = True


KNOWN_FILES = {
    "ETTh1": KnownFile("f18de3ad269cef59bb07b5438d79bb3042d3be49bdeecf01c1cd6d29695ee066", 2_589_657),
    "ETTh2": KnownFile("a3dc2c597b9218c7ce1cd55eb77b283fd459a1d09d753063f944967dd6b9218b", 2_417_960),
    "ETTm1": KnownFile("6ce1759b1a18e3328421d5d75fadcb316c449fcd7cec32820c8dafda71986c9e", 10_360_719),
    "ETTm2": KnownFile("db973ca252c6410a30d0469b13d696cf919648d0f3fd588c60f03fdbdbadd1fd", 9_677_236),
    "ECG200": KnownFile("755937ea37849346ea20033666b19d17345bb039971e8fa33458b16b62c09380", 1 << 23, is_exact=False),
    "GunPoint": KnownFile("d7513cfe222418fabfdb5a6434ffb21ac3de4923e637971e9388ebc857816803", 1 << 23, is_exact=False),
}
"""Name -> its download, where several independent publications agree on the hash."""
NAME_PATTERN = re.compile(r"\w[\w-]*")
MAX_ARCHIVE_BYTES = 1 << 31
"""Maximum size of the download of an archive that is not known."""
MAX_UNPACKED_BYTES = 1 << 33
"""Maximum unpacked size of a data set."""
CHUNK_BYTES = 1 << 16
OTHER_FILE_REMEDY = (
    "Try again on another network; if it stays, the publisher has changed the file: download and check it by hand"
)

ProgressCallback = Callable[[int, int], None]
"""Called with what is done and the total, or 0 if the total is unknown: bytes of a download, series of a conversion."""


def get_datasets_dir() -> Path:
    """Return the folder of downloaded data sets; it may not exist."""
    return get_cache_dir() / "data"


def fetch(
    name: str, on_progress: ProgressCallback = lambda done, of: None, *, trust_first_download: bool = False
) -> Path:
    """Download a public data set, unless it was downloaded before.

    The next call resumes an interrupted download. The folder of the data set appears only when it is complete.

    Args:
        name: as the archive spells it, such as GunPoint or ETTh1
        on_progress: called with the bytes done and the total number of bytes
        trust_first_download: accept a set whose SHA-256 is not known, and remember the one of this download

    Returns:
        folder of the files

    Raises:
        DataError: the download fails, or its SHA-256 is unknown or another one
        OptionError: the name contains other characters than letters, digits, _ and -
    """
    if not NAME_PATTERN.fullmatch(name):
        raise OptionError(f"{name!r} is not the name of a public data set, such as GunPoint or ETTh1")
    folder = get_datasets_dir() / name
    if _is_complete(folder):
        return folder
    if folder.is_dir() and any(folder.iterdir()):
        raise DataError(f"{folder} does not hold the files of {name}; move it away, and run the same command again")
    if os.environ.get("TSTK_OFFLINE", "0") not in ("", "0"):
        raise DataError(
            f"{name} is not in {get_datasets_dir()}, and TSTK_OFFLINE forbids downloads; unset it, or copy the files"
        )
    file_name = f"{name}.csv" if name in TABLES else f"{name}.zip"
    partial_file = get_cache_dir() / "downloads" / f"{file_name}.part"

    def report_other_process() -> None:
        on_progress(partial_file.stat().st_size if partial_file.is_file() else 0, 0)

    with file_lock(partial_file.with_suffix(".lock"), report_other_process):
        if not _is_complete(folder):  # else another process has just downloaded it
            _fetch_into(folder, partial_file, on_progress, trust_first_download)
    return folder


def _fetch_into(folder: Path, partial_file: Path, on_progress: ProgressCallback, trust_first_download: bool) -> None:
    """Download the data set that a folder is named after, check it, and create the folder."""
    name = folder.name
    url = (TABLE_URL if name in TABLES else ARCHIVE_URL).format(name=name)
    known_file = KNOWN_FILES.get(name)
    known_hash = known_file.sha256 if known_file else _load_hashes().get(url)
    if known_hash is None and not trust_first_download:
        raise DataError(
            f"{name}: its SHA-256 is not known, so a download cannot be checked. If you trust this network and "
            f"{url}, add --trust-first-download: later downloads must then be the same file"
        )
    _download(url, partial_file, known_file or KnownFile("", MAX_ARCHIVE_BYTES, is_exact=False), on_progress)
    try:
        sha256 = _check_hash(partial_file, name, url, known_hash)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (
            TemporaryDirectory(dir=folder.parent, prefix=f".{name}-") as temporary,
            explain_write_errors(folder, partial_file.stat().st_size),
        ):
            unpacked = Path(temporary, name)
            unpacked.mkdir()
            if name in TABLES:
                shutil.copyfile(partial_file, unpacked / f"{name}.csv")
            else:
                _unpack(partial_file, name, unpacked)
            if known_hash is None:
                with file_lock(_get_hashes_file().with_suffix(".lock")):
                    write_json(_get_hashes_file(), {**_load_hashes(), url: sha256})
            unpacked.replace(folder)
    finally:
        partial_file.unlink(missing_ok=True)


def _check_hash(file: Path, name: str, url: str, known_hash: str | None) -> str:
    """Return the SHA-256 of a download.

    Raises:
        DataError: it is not the known one
    """
    with file.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    if known_hash not in (None, sha256):
        remedy = "" if name in KNOWN_FILES else f", or remove its line from {_get_hashes_file()}"
        raise DataError(
            f"{url}: the SHA-256 of the download is {sha256}, expected {known_hash}; it was removed. "
            f"{OTHER_FILE_REMEDY}{remedy}"
        )
    return sha256


def _is_complete(folder: Path) -> bool:
    """Return whether a folder holds the table, or the TRAIN and TEST files, of the data set that it is named after."""
    names = {p.name.lower() for p in folder.iterdir() if p.stat().st_size} if folder.is_dir() else set()
    stem = folder.name.lower()
    return f"{stem}.csv" in names or {f"{stem}_train.ts", f"{stem}_test.ts"} <= names


def _get_hashes_file() -> Path:
    return get_cache_dir() / "hashes.json"


def _load_hashes() -> dict[str, str]:
    path = _get_hashes_file()
    if not path.is_file():
        return {}
    try:
        hashes = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        hashes = None
    if not isinstance(hashes, dict) or not all(isinstance(value, str) for value in hashes.values()):
        raise DataError(f"{path} is damaged; remove it, and the hashes of the next downloads will be stored anew")
    return hashes


def _download(url: str, partial_file: Path, known_file: KnownFile, on_progress: ProgressCallback) -> None:
    """Append the missing bytes to `partial_file`; it stays for the next call only if the connection breaks."""
    from http.client import HTTPException
    from urllib.error import HTTPError

    partial_file.parent.mkdir(parents=True, exist_ok=True)
    try:
        response = _open(url, partial_file)
    except HTTPError as e:
        if e.code == 404:
            reason = "there is no such file; spell names as the archive does, such as GunPoint"
        else:
            reason = f"the server responded with {e.code} {e.reason}; try again later"
        raise DataError(f"{url}: {reason}") from None
    except (OSError, HTTPException) as e:
        raise DataError(f"{url}: {_describe(e)}; check the connection, and run the same command again") from None
    try:
        with response, partial_file.open("ab" if response.status == 206 else "wb") as file:
            _receive(response, file, url, known_file, on_progress)
    except DataError:
        partial_file.unlink()
        raise
    except (OSError, HTTPException) as e:  # any failure of the connection
        raise DataError(f"{url}: {_describe(e)}; run the same command again to resume the download") from None


def _describe(e: Exception) -> str:
    return str(getattr(e, "reason", e)) or type(e).__name__


def _open(url: str, partial_file: Path) -> HTTPResponse:
    """Request the bytes after those of `partial_file`."""
    from urllib.error import HTTPError
    from urllib.request import HTTPRedirectHandler, Request, build_opener

    class RedirectHandler(HTTPRedirectHandler):
        def redirect_request(self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str) -> Any:
            if not newurl.startswith("https://"):
                raise DataError(f"{url}: was redirected to {newurl}, which is not HTTPS; try again on another network")
            return super().redirect_request(req, fp, code, msg, headers, newurl)

    num_bytes = partial_file.stat().st_size if partial_file.is_file() else 0
    request = Request(url, headers={"Range": f"bytes={num_bytes}-"} if num_bytes else {})
    try:
        return build_opener(RedirectHandler).open(request, timeout=30)
    except HTTPError as e:
        if e.code != 416 or not num_bytes:
            raise
        partial_file.unlink()  # range not satisfiable: the partial file is complete, or the file has changed
        return _open(url, partial_file)


def _receive(
    response: HTTPResponse, file: IO[bytes], url: str, known_file: KnownFile, on_progress: ProgressCallback
) -> None:
    """Write the body of a response to a file.

    Raises:
        DataError: it is a web page, or its size is not that of `known_file`
        ConnectionError: the connection closed too early
    """
    if response.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
        raise DataError(
            f"{url}: the answer is a web page, not the file, as on a network that asks you to log in; open any page in "
            "a browser, and run the same command again"
        )
    header = response.headers.get("Content-Length", "")
    if header and not re.fullmatch("[0-9]{1,18}", header):
        raise DataError(f"{url}: the server sent the Content-Length {header!r}, which is not a size; try again later")
    num_bytes = file.tell()
    total = num_bytes + int(header) if header else known_file.num_bytes if known_file.is_exact else 0
    _check_size(total, known_file, url, is_total=bool(header))
    while chunk := response.read1(CHUNK_BYTES):
        _check_size(num_bytes + len(chunk), known_file, url)
        with explain_write_errors(Path(file.name), len(chunk)):
            file.write(chunk)
        num_bytes += len(chunk)
        on_progress(num_bytes, total)
    if num_bytes < total:
        raise ConnectionError(f"the connection closed after {num_bytes:,} of {total:,} bytes")


def _check_size(num_bytes: int, known_file: KnownFile, url: str, is_total: bool = False) -> None:
    """Refuse a download that has too many bytes, or in total another number.

    Raises:
        DataError: it has another size than the known file
    """
    limit = known_file.num_bytes
    if known_file.is_exact and (num_bytes > limit or (is_total and num_bytes != limit)):
        size = f"{num_bytes:,} bytes" if is_total else "more bytes"
        raise DataError(f"{url}: the download has {size}, expected {limit:,}; nothing was kept. {OTHER_FILE_REMEDY}")
    if num_bytes > limit:
        raise DataError(f"{url}: is larger than {limit >> 20:,} MiB, which no such set is; nothing was kept")


def _unpack(file: Path, name: str, folder: Path) -> None:
    """Extract the TRAIN and TEST files of an archive to `folder`, and nothing else."""
    wanted = re.compile(rf"(?:.*/)?({re.escape(name)}_(?:TRAIN|TEST)\.ts)", re.IGNORECASE)
    try:
        with zipfile.ZipFile(file) as archive:
            members: dict[str, Any] = {m[1]: i for i in archive.infolist() if (m := wanted.fullmatch(i.filename))}
            if len(members) != 2:
                raise DataError(f"{name}: the archive holds no {name}_TRAIN.ts and {name}_TEST.ts; download it by hand")
            if sum(member.file_size for member in members.values()) > MAX_UNPACKED_BYTES:
                raise DataError(
                    f"{name}: its files are larger than {MAX_UNPACKED_BYTES >> 30} GiB; download and unpack it by hand"
                )
            for file_name, member in members.items():
                with archive.open(member) as source, (folder / file_name).open("wb") as target:
                    shutil.copyfileobj(source, target)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as e:
        raise DataError(
            f"{name}: the download is no sound zip archive ({e}); it was removed, try again later"
        ) from None
