"""Download public data sets by name: after `tstk data fetch GunPoint`, `--data GunPoint` finds the set.

    TSTK_CACHE (or the user's cache folder)/
      data/GunPoint/GunPoint_TRAIN.ts  GunPoint_TEST.ts
      hashes.json         URL -> SHA-256 of its first download; a later mismatch is an error

UCR and UEA sets come from timeseriesclassification.com, the Electricity Transformer tables from their repository.
Downloading takes pooch: `pip install 'tstk-core[download]'`. With TSTK_OFFLINE=1 nothing is downloaded.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tstk.errors import DataError, OptionError
from tstk.files import write_json
from tstk.plugins.distribution import format_install_command

ARCHIVE_URL = "https://www.timeseriesclassification.com/aeon-toolkit/{name}.zip"
TABLE_URL = "https://raw.githubusercontent.com/zhouhaoyi/ETDataset/main/ETT-small/{name}.csv"
TABLE_HASHES = {
    "ETTh1": "f18de3ad269cef59bb07b5438d79bb3042d3be49bdeecf01c1cd6d29695ee066",
    "ETTh2": None,
    "ETTm1": "6ce1759b1a18e3328421d5d75fadcb316c449fcd7cec32820c8dafda71986c9e",
    "ETTm2": None,
}
"""Names of the tables, with their SHA-256 where it is known."""
NAME_PATTERN = re.compile(r"\w[\w-]*")
MAX_UNPACKED_BYTES = 1 << 33
"""Maximum unpacked size of a data set."""
CHUNK_BYTES = 1 << 16

ProgressCallback = Callable[[int, int], None]
"""Called with what is done and the total, or 0 if the total is unknown: bytes of a download, series of a conversion."""


def get_cache_dir() -> Path:
    """Return the folder of downloads: the variable TSTK_CACHE, or tstk in the user's cache folder."""
    folder = os.environ.get("TSTK_CACHE")
    if folder:
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tstk"


def get_datasets_dir() -> Path:
    """Return the folder of downloaded data sets; it may not exist."""
    return get_cache_dir() / "data"


def fetch(name: str, on_progress: ProgressCallback = lambda done, of: None) -> Path:
    """Download a public data set, unless it was downloaded before.

    The next call resumes an interrupted download. The folder of the data set appears only when it is complete.

    Args:
        name: as the archive spells it, such as GunPoint or ETTh1
        on_progress: called with the bytes done and the total number of bytes

    Returns:
        folder of the files

    Raises:
        DataError: the download fails, or its SHA-256 differs from the known one
        OptionError: the name contains other characters than letters, digits, _ and -
    """
    if not NAME_PATTERN.fullmatch(name):
        raise OptionError(f"{name!r} is not the name of a public data set, such as GunPoint or ETTh1")
    folder = get_datasets_dir() / name
    if folder.is_dir():
        return folder
    if os.environ.get("TSTK_OFFLINE", "0") not in ("", "0"):
        raise DataError(
            f"{name} is not in {get_datasets_dir()}, and TSTK_OFFLINE forbids downloads; unset it, or copy the files"
        )
    is_table = name in TABLE_HASHES
    url = (TABLE_URL if is_table else ARCHIVE_URL).format(name=name)
    file = _download(url, TABLE_HASHES.get(name), on_progress)
    partial_folder = folder.with_name(f"{name}.part")
    shutil.rmtree(partial_folder, ignore_errors=True)
    partial_folder.mkdir(parents=True)
    try:
        if is_table:
            shutil.copyfile(file, partial_folder / f"{name}.csv")
        else:
            _unpack(file, name, partial_folder)
        partial_folder.replace(folder)
    finally:
        shutil.rmtree(partial_folder, ignore_errors=True)
        file.unlink()
    return folder


def _download(url: str, known_hash: str | None, on_progress: ProgressCallback) -> Path:
    """Download a file, check its SHA-256 against the known or first one, and return its path."""
    try:
        import pooch
    except ImportError:
        raise DataError(f"{url}: downloading takes pooch: {format_install_command('download')}") from None
    from http.client import HTTPException
    from urllib.error import HTTPError

    pooch.get_logger().setLevel("WARNING")
    hashes_file = get_cache_dir() / "hashes.json"
    hashes = _load_hashes(hashes_file)
    folder, file_name = get_cache_dir() / "downloads", url.rpartition("/")[2]
    known_hash = known_hash or hashes.get(url)
    try:
        path = Path(
            pooch.retrieve(
                url,
                known_hash=known_hash and f"sha256:{known_hash}",
                fname=file_name,
                path=folder,
                downloader=lambda url, out, _: _download_resumable(
                    url, Path(out), folder / f"{file_name}.part", on_progress
                ),
            )
        )
    except HTTPError as e:
        if e.code == 404:
            reason = "there is no such file; spell names as the archive does, such as GunPoint"
        else:
            reason = f"the server responded with {e.code} {e.reason}; try again later"
        raise DataError(f"{url}: {reason}") from None
    except (OSError, HTTPException) as e:  # any failure of the connection
        reason = str(getattr(e, "reason", e)) or type(e).__name__
        raise DataError(f"{url}: {reason}; run the same command again to resume the download") from None
    except ValueError:
        raise DataError(
            f"{url}: SHA-256 mismatch, expected {known_hash}; the file has changed or was tampered with. To trust it, "
            f"remove its line from {hashes_file}"
        ) from None
    if known_hash is None:
        write_json(hashes_file, {**hashes, url: pooch.file_hash(str(path))})
    return path


def _load_hashes(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        hashes = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        hashes = None
    if not isinstance(hashes, dict):
        raise DataError(f"{path} is damaged; remove it, and the hashes of the next downloads will be stored anew")
    return hashes


def _download_resumable(url: str, out: Path, partial_file: Path, on_progress: ProgressCallback) -> None:
    """Append the missing bytes to `partial_file`, then move it to `out`."""
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    num_bytes = partial_file.stat().st_size if partial_file.is_file() else 0
    headers = {"Range": f"bytes={num_bytes}-"} if num_bytes else {}
    try:
        response = urlopen(Request(url, headers=headers), timeout=30)
    except HTTPError as e:
        if e.code != 416:
            raise
        partial_file.unlink()  # range not satisfiable: the partial file is complete, or the file has changed
        _download_resumable(url, out, partial_file, on_progress)
        return
    with response, partial_file.open("ab" if response.status == 206 else "wb") as file:
        num_bytes = file.tell()
        length = int(response.headers.get("Content-Length", 0))
        total = num_bytes + length if length else 0
        while chunk := response.read1(CHUNK_BYTES):
            file.write(chunk)
            num_bytes += len(chunk)
            on_progress(num_bytes, total)
    if num_bytes < total:
        raise ConnectionError(f"the connection closed after {num_bytes:,} of {total:,} bytes")
    shutil.move(partial_file, out)


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
    except (zipfile.BadZipFile, OSError, EOFError) as e:
        raise DataError(f"{name}: the download is not a zip archive ({e}); try again later") from None
