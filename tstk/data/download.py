"""Public data sets by name: `tstk data fetch GunPoint` puts one where `--data GunPoint` finds it.

    TSTK_CACHE (or the user's folder of caches)/
      data/GunPoint/GunPoint_TRAIN.ts  GunPoint_TEST.ts
      hashes.json         address -> SHA-256 of what came from it at first; something else is refused later

UCR and UEA sets come from timeseriesclassification.com, the Electricity Transformer tables from their repository.
Downloads are pooch's: `pip install 'tstk-core[download]'`. With TSTK_OFFLINE=1 nothing is fetched.
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

from tstk.config.run_directory import write_json
from tstk.errors import DataError, OptionError
from tstk.plugins.distribution import install_command

ARCHIVE = "https://www.timeseriesclassification.com/aeon-toolkit/{name}.zip"
TABLE = "https://raw.githubusercontent.com/zhouhaoyi/ETDataset/main/ETT-small/{name}.csv"
TABLES = {
    "ETTh1": "f18de3ad269cef59bb07b5438d79bb3042d3be49bdeecf01c1cd6d29695ee066",
    "ETTh2": None,
    "ETTm1": "6ce1759b1a18e3328421d5d75fadcb316c449fcd7cec32820c8dafda71986c9e",
    "ETTm2": None,
}
"""Tables, and the SHA-256 of those that were seen."""
NAME = re.compile(r"\w[\w-]*")
WHOLE = 1 << 33
"""Bytes that a set may have unpacked."""
CHUNK = 1 << 16

Told = Callable[[int, int], None]
"""(bytes done, bytes in all or 0 if nobody knows)"""


def cache() -> Path:
    """The folder of what was downloaded: the variable TSTK_CACHE, or tstk in the user's folder of caches."""
    given = os.environ.get("TSTK_CACHE")
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tstk"


def fetched() -> Path:
    """The folder of the data sets that were fetched; it need not be there."""
    return cache() / "data"


def fetch(name: str, told: Told = lambda done, of: None) -> Path:
    """Fetch a public data set, unless it is here already.

    A download that breaks off is continued by the next call. Nothing is there under the set's name before all of it is.

    Args:
        name: as the archive spells it, such as GunPoint or ETTh1
        told: receives the progress

    Returns:
        the folder of its files

    Raises:
        DataError: it cannot be fetched, or is not what came from there before
        OptionError: this cannot be a name
    """
    if not NAME.fullmatch(name):
        raise OptionError(f"{name!r} is no name of a public data set, such as GunPoint or ETTh1")
    folder = fetched() / name
    if folder.is_dir():
        return folder
    if os.environ.get("TSTK_OFFLINE", "0") not in ("", "0"):
        raise DataError(
            f"{name} is not in {fetched()}, and TSTK_OFFLINE forbids to fetch it; unset that, or copy its files there"
        )
    table = name in TABLES
    url = (TABLE if table else ARCHIVE).format(name=name)
    file = _download(url, TABLES.get(name), told)
    part = folder.with_name(f"{name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        if table:
            shutil.copyfile(file, part / f"{name}.csv")
        else:
            _unpack(file, name, part)
        part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        file.unlink()
    return folder


def _download(url: str, known: str | None, told: Told) -> Path:
    """The file behind an address, checked against what is known of it or was found there at first."""
    try:
        import pooch
    except ImportError:
        raise DataError(f"{url}: fetching takes pooch: {install_command('download')}") from None
    from http.client import HTTPException
    from urllib.error import HTTPError

    pooch.get_logger().setLevel("WARNING")
    book = cache() / "hashes.json"
    hashes = _hashes(book)
    place, file = cache() / "downloads", url.rpartition("/")[2]
    known = known or hashes.get(url)
    try:
        path = Path(
            pooch.retrieve(
                url,
                known_hash=known and f"sha256:{known}",
                fname=file,
                path=place,
                downloader=lambda url, out, _: _resumed(url, Path(out), place / f"{file}.part", told),
            )
        )
    except HTTPError as e:
        if e.code == 404:
            why = "there is no such file; names are spelt as in the archive, such as GunPoint"
        else:
            why = f"the server answers {e.code} {e.reason}; try again later"
        raise DataError(f"{url}: {why}") from None
    except (OSError, HTTPException) as e:  # whatever a line may do
        why = str(getattr(e, "reason", e)) or type(e).__name__
        raise DataError(f"{url}: {why}; what has come is kept, and the same command goes on from there") from None
    except ValueError:
        raise DataError(
            f"{url}: not the file that is known (SHA-256 {known}); it has changed or was tampered with. To trust it, "
            f"remove its line from {book}"
        ) from None
    if known is None:
        write_json(book, {**hashes, url: pooch.file_hash(str(path))})
    return path


def _hashes(book: Path) -> dict[str, str]:
    if not book.is_file():
        return {}
    try:
        found = json.loads(book.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise DataError(f"{book} is damaged; remove it, and what is fetched next is trusted anew")
    return found


def _resumed(url: str, out: Path, part: Path, told: Told) -> None:
    """Download to `part`, from where it ends, then move it to `out`."""
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    have = part.stat().st_size if part.is_file() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    try:
        answer = urlopen(Request(url, headers=headers), timeout=30)
    except HTTPError as e:
        if e.code != 416:
            raise
        part.unlink()  # nothing is left of it, or it was another file
        _resumed(url, out, part, told)
        return
    with answer, part.open("ab" if answer.status == 206 else "wb") as file:
        have = file.tell()
        length = int(answer.headers.get("Content-Length", 0))
        whole = have + length if length else 0
        while chunk := answer.read1(CHUNK):
            file.write(chunk)
            have += len(chunk)
            told(have, whole)
    if have < whole:
        raise ConnectionError(f"broke off after {have:,} of {whole:,} bytes")
    shutil.move(part, out)


def _unpack(file: Path, name: str, folder: Path) -> None:
    """The TRAIN and TEST files of an archive, and nothing else of it."""
    wanted = re.compile(rf"(?:.*/)?({re.escape(name)}_(?:TRAIN|TEST)\.ts)", re.IGNORECASE)
    try:
        with zipfile.ZipFile(file) as archive:
            members: dict[str, Any] = {m[1]: i for i in archive.infolist() if (m := wanted.fullmatch(i.filename))}
            if len(members) != 2:
                raise DataError(f"{name}: the archive holds no {name}_TRAIN.ts and {name}_TEST.ts; fetch it by hand")
            if sum(member.file_size for member in members.values()) > WHOLE:
                raise DataError(f"{name}: its files are larger than {WHOLE >> 30} GiB; fetch and unpack it by hand")
            for to, member in members.items():
                with archive.open(member) as source, (folder / to).open("wb") as target:
                    shutil.copyfileobj(source, target)
    except (zipfile.BadZipFile, OSError, EOFError) as e:
        raise DataError(f"{name}: what came is no zip archive ({e}); try again later") from None
