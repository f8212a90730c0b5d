"""Find data sets: resolve a name, file or folder to the files to read, and a file to its reader.

A *name* is that of the embedded set or of a set under the data root (--data-root, or the variable TSTK_DATA).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from tstk.data.columns import ColumnRoles
from tstk.data.download import NAME_PATTERN, get_datasets_dir
from tstk.data.recordings import find_manifest, is_manifest, list_by_class
from tstk.data.remote import is_uri, locate_copy
from tstk.data.shards import find_shards, is_pattern, list_shards
from tstk.errors import DataError, OptionError, UnknownNameError, did_you_mean
from tstk.plugins.hooks import Entry
from tstk.plugins.registry import get_registry

if TYPE_CHECKING:
    from tstk.data.containers import SeriesSet, Table

DEMO_FILE = Path(__file__).parent / "demo" / "har_demo.npz"
SYNTHETIC = "synthetic"
"""Name of the generated data."""
ARRAYS = "arrays"
"""Name of arrays in memory, which a run does not hold."""
ALIASES = {"har": "uci-har", "illness": "national-illness"}
SPLITS = ("train", "val", "test")
SERIES_ARRAY_NAMES = ("X", "x", "data", "samples")
"""Names of the array that holds the series, in an archive or as a file of its own."""
TEXT_SUFFIXES = {".csv", ".tsv", ".txt"}
"""Suffixes that any reader of text may be selected for."""
MAX_DEPTH = 2
"""Levels of folders under the root that are searched: root/ucr/GunPoint/GunPoint_TRAIN.ts."""

DEFAULT_VAL_FRACTION = 0.2
"""Default fraction of the training split that is held out for validation."""

SPLIT_SUFFIX = re.compile(r"(?:^|[_-])(train|val|test)$", re.IGNORECASE)
"""End of the stem of a file that holds one split. If it is the whole stem, the set is named after the folder."""


class CatalogRow(NamedTuple):
    """One line of `tstk data list`: name, path and kind of a data set, such as "train+test, .ts"."""

    name: str
    path: Path
    kind: str


@dataclass
class DatasetFiles:
    """The files of one data set.

    Args:
        name: name of the data set
        files: split ("train", "val", "test") -> file; a single file that is not named after a split counts as "train".
            Recordings, one file each, are a folder, or the manifest that lists them
    """

    name: str
    files: dict[str, Path]

    def is_in(self, folder: Path) -> bool:
        """Return whether the files are in a folder itself, or are all that is in it."""
        return all(path == folder or path.parent == folder for path in self.files.values())

    @property
    def catalog_row(self) -> CatalogRow:
        """The line of this data set in a listing."""
        path = next(iter(self.files.values()))
        if path.is_dir() or is_manifest(path):
            return CatalogRow(self.name, path, "recordings")
        splits = "+".join(self.files) if SPLIT_SUFFIX.search(path.stem) else "one file"
        return CatalogRow(self.name, path, f"{splits}, {path.suffix}")


_CONVERSIONS = {
    **dict.fromkeys((".xlsx", ".xls", ".ods"), ": save the sheet as .csv, or give tstk.fit the data frame of pandas"),
    **dict.fromkeys((".gz", ".bz2", ".xz", ".zst", ".zip", ".tar"), ": unpack it"),
    **dict.fromkeys((".json", ".feather", ".arrow", ".h5", ".hdf5", ".mat"), ": save it as .csv or .parquet"),
}
"""Suffixes of files that people have and no reader reads -> the remedy, for messages."""


def get_reader(path: Path) -> Callable[..., Any]:
    """Return the function that reads this file: `read(path, roles) -> dict[str, SeriesSet] | Table`.

    Raises:
        DataError: no reader supports this suffix, or two plugins do
    """
    if path.is_dir() or is_manifest(path):
        return get_registry().load(get_registry().find("reader", "tstk/recordings"))
    if is_pattern(path):
        return get_registry().load(get_registry().find("reader", "tstk/shards"))
    readers = _list_readers()
    if not (entries := readers.get(path.suffix.lower())):
        kind = path.suffix or "files without a suffix"
        remedy = _CONVERSIONS.get(path.suffix.lower(), "")
        raise DataError(f"{path}: no reader for {kind}{remedy}; supported are {', '.join(readers)}")
    core_entries = [entry for entry in entries if entry.dist == "tstk"]
    if len(core_entries or entries) > 1:
        names = " and ".join(entry.qualified_name for entry in entries)
        raise DataError(f"{path}: {names} read {path.suffix}; exclude one with the variable TSTK_PLUGINS")
    return get_registry().load((core_entries or entries)[0])


def read_file(path: Path, roles: ColumnRoles = ColumnRoles()) -> dict[str, SeriesSet] | Table:
    """Read a file by the reader that the roles name, else by that of its suffix; or a folder or pattern of such files.

    Raises:
        OptionError: the reader that is named does not read files of this suffix
        DataError: the file cannot be read
    """
    data: dict[str, SeriesSet] | Table
    if roles.reader is None or path.is_dir() or is_manifest(path) or is_pattern(path):
        data = get_reader(path)(path, roles)
    elif is_readable(path, roles.reader["use"], is_optional="reader" in roles.optional):
        options = {name: value for name, value in roles.reader.items() if name != "use"}
        data = get_registry().load(get_registry().find("reader", roles.reader["use"]))(path, roles, **options)
    else:
        data = get_reader(path)(path, roles)
    return data


def is_readable(path: Path, reader: str, *, is_optional: bool) -> bool:
    """Return whether a reader that is selected by name reads a file: of its suffixes, or of those of no reader.

    Readers of text also read .csv, .tsv and .txt, under which text of any layout is saved.

    Args:
        path: the file
        reader: name of the reader
        is_optional: another reader may read the file

    Raises:
        OptionError: it does not, and is not optional
    """
    entry, readers = get_registry().find("reader", reader), _list_readers()
    suffix = path.suffix.lower()
    is_text = suffix in TEXT_SUFFIXES and bool(entry.provides & TEXT_SUFFIXES)
    if entry.provides and (entry in readers.get(suffix, [entry]) or is_text):
        return True
    if is_optional:
        return False
    if not entry.provides:
        message = f"--reader {reader}: reads folders or several files, which it finds; name that of the files"
        raise OptionError(message, "--reader")
    names = " and ".join(other.name for other in readers[suffix])
    raise OptionError(
        f"--reader {reader} has no meaning for {path}: {suffix} is read by {names}, and {reader} reads "
        f"{', '.join(sorted(entry.provides))}",
        "--reader",
    )


def _list_readers() -> dict[str, list[Entry]]:
    """Return suffix -> the entries of kind "reader" that read it."""
    readers: dict[str, list[Entry]] = {}
    for entry in get_registry().list_entries("reader"):
        for suffix in sorted(entry.provides):
            readers.setdefault(suffix, []).append(entry)
    return readers


def list_suffixes() -> list[str]:
    """Return the suffixes of files that can be read, in lower case."""
    return list(_list_readers())


def list_datasets(data_root: str | None = None) -> list[CatalogRow]:
    """List the data sets that can be loaded by name: the embedded one, those under the root, and downloaded ones.

    Args:
        data_root: folder to search; None means the variable TSTK_DATA
    """
    return [
        CatalogRow("har-demo", DEMO_FILE, "embedded"),
        *(dataset.catalog_row for dataset in _list_named(_resolve_root(data_root))),
    ]


def locate(name_or_path: str, data_root: str | None = None) -> DatasetFiles:
    """Find the files of a data set.

    Args:
        name_or_path: a name, a file, one file of a TRAIN/TEST pair, a folder with one data set in it, a pattern of
            files that are joined, or a URI that was fetched
        data_root: as for `list_datasets`

    Raises:
        UnknownNameError: no data set has this name
        DataError: the file or folder is missing, unreadable, or holds none or several data sets; or it is no name
    """
    if not isinstance(name_or_path, str):
        raise DataError(
            f"data is a {type(name_or_path).__name__}, and the name of a data set or file is needed: write a "
            "data frame to a file with to_parquet('x.parquet')"
        )
    if is_uri(name_or_path):
        copy = _locate_path(locate_copy(name_or_path))
        return DatasetFiles(PurePosixPath(name_or_path).name.partition(".")[0], copy.files)
    path = Path(name_or_path).expanduser()
    if _is_path(path):
        return _locate_path(path)
    root = _resolve_root(data_root)
    datasets = [DatasetFiles("har-demo", {"train": DEMO_FILE}), *_list_named(root)]
    if named := _find_named(name_or_path, datasets):
        return named
    if path.is_dir():
        return _locate_path(path)
    raise UnknownNameError(_describe_unknown_name(name_or_path, [dataset.name for dataset in datasets], root))


def split_names(names: str) -> list[str]:
    """Return the names and paths of a list separated by commas; a path that exists may contain commas itself."""
    parts, result = names.split(","), []
    while parts:
        size = next((i for i in range(len(parts), 1, -1) if Path(",".join(parts[:i]).strip()).expanduser().exists()), 1)
        result.append(",".join(parts[:size]).strip())
        parts = parts[size:]
    return [name for name in result if name]


def make_absolute(name_or_path: str, data_root: str | None = None) -> str:
    """Return what `locate` takes as a path as an absolute one, and the name of a data set unchanged."""
    path = Path(name_or_path).expanduser()
    if is_uri(name_or_path):
        return name_or_path
    if _is_path(path) or (path.is_dir() and locate(name_or_path, data_root).is_in(path)):
        return os.path.abspath(path)
    return name_or_path


def _is_path(path: Path) -> bool:
    return path.suffix.lower() in _list_readers() or path.is_file() or len(path.parts) != 1


def _find_named(name_or_path: str, datasets: Sequence[DatasetFiles]) -> DatasetFiles | None:
    """Return the data set of a name, or None.

    Raises:
        DataError: several have it
    """
    alias = ALIASES.get(_normalize_name(name_or_path), name_or_path)
    for name, normalize in (
        (name_or_path, str),
        (name_or_path, str.lower),
        (name_or_path, _normalize_name),
        (alias, _normalize_name),
    ):  # the strictest comparison first
        matches = [dataset for dataset in datasets if normalize(dataset.name) == normalize(name)]
        if len(matches) > 1:
            paths = ", ".join(map(_get_first_path, matches))
            raise DataError(f"{name_or_path}: more than one data set has this name; give the path of one: {paths}")
        if matches:
            return matches[0]
    return None


def _describe_unknown_name(name: str, known_names: list[str], root: Path | None) -> str:
    searched = f"under {root}" if root else "nowhere else, as no root is set: give --data-root FOLDER or set TSTK_DATA"
    hint = did_you_mean(name, [*known_names, *ALIASES, SYNTHETIC])
    download = (
        f"; to download a public set: tstk data fetch {name}" if NAME_PATTERN.fullmatch(name) and not hint else ""
    )
    return f"no data set is called {name!r}.{hint} Searched the embedded set and {searched}{download}"


def _list_named(root: Path | None) -> list[DatasetFiles]:
    """Return the data sets under the root, then the downloaded ones of other names."""
    datasets = list(_scan_tree(root))
    names = {dataset.name for dataset in datasets}
    downloads = get_datasets_dir() if get_datasets_dir().is_dir() else None
    return [*datasets, *(dataset for dataset in _scan_tree(downloads) if dataset.name not in names)]


def _normalize_name(name: str) -> str:
    return name.lower().replace("_", "-")


def _resolve_root(data_root: str | None) -> Path | None:
    folder = data_root or os.environ.get("TSTK_DATA")
    if not folder:
        return None
    root = Path(folder).expanduser()
    if not root.is_dir():
        origin = "--data-root" if data_root else "TSTK_DATA"
        raise DataError(f"{origin} {folder}: there is no such folder")
    return root


def _locate_path(path: Path) -> DatasetFiles:
    """Find the data set at a path."""
    if path.is_dir():
        datasets = _scan_folder(path)
        if len(datasets) != 1 and (shards := find_shards(path)):
            return DatasetFiles(path.resolve().name, shards)
        if not datasets and (recordings := _find_recordings(path)):
            return DatasetFiles(path.resolve().name, recordings)
        if not datasets:
            raise DataError(
                f"{path}: no data in this folder; looked for *{', *'.join(_list_readers())}, and for a folder of "
                "recordings for each class"
            )
        if len(datasets) > 1:
            paths = ", ".join(map(_get_first_path, datasets))
            raise DataError(
                f"{path}: several data sets; give the path of one: {paths}. If they are recordings of one data set, "
                "move those of each class to a folder of its own, or list them in a file manifest.csv (file,label)"
            )
        return datasets[0]
    if is_pattern(path):
        list_shards(path)
        return DatasetFiles(path.resolve().parent.name, {"train": path})
    if not path.is_file():
        raise DataError(f"{path}: there is no such file or folder")
    if is_manifest(path):
        return DatasetFiles(path.resolve().parent.name, {"train": path})
    if SPLIT_SUFFIX.search(path.stem) is None and path.suffix.lower() != ".npy":
        return DatasetFiles(path.stem, {"train": path})
    return next(
        (dataset for dataset in _scan_folder(path.parent) if path in dataset.files.values()),
        DatasetFiles(path.stem, {"train": path}),
    )


def _find_recordings(folder: Path) -> dict[str, Path] | None:
    """Return split -> folder of recordings: folders called train, val and test, or a folder with one for each class."""
    by_class = list_by_class(folder)
    if any(SPLIT_SUFFIX.search(path.stem) for paths in by_class.values() for path in paths):
        return None  # folders of data sets
    splits = {split: folder / name for split in SPLITS for name in by_class if name.lower() == split}
    if splits and len(splits) == len(by_class):
        return splits
    return {"train": folder} if len(by_class) > 1 and not splits else None


def _get_first_path(dataset_files: DatasetFiles) -> str:
    return str(dataset_files.catalog_row.path)


def _scan_folder(folder: Path) -> list[DatasetFiles]:
    """Return the data sets whose files are in this folder itself."""
    if manifest := find_manifest(folder):
        return [DatasetFiles(folder.resolve().name, {"train": manifest})]
    datasets: dict[tuple[str, str], DatasetFiles] = {}
    for path in sorted(folder.iterdir()):
        split = SPLIT_SUFFIX.search(path.stem)
        if path.suffix.lower() not in _list_readers() or not path.is_file():
            continue
        if path.suffix.lower() == ".txt" and split is None:
            continue  # a text file is data only if it is named after a split
        name = SPLIT_SUFFIX.sub("", path.stem) or folder.resolve().name
        if path.suffix.lower() == ".npy":
            if name not in SERIES_ARRAY_NAMES:
                continue  # labels and the like, which are read together with their X
            name = folder.resolve().name
        dataset = datasets.setdefault((name, path.suffix if split else f"alone{path.suffix}"), DatasetFiles(name, {}))
        dataset.files[split[1].lower() if split else "train"] = path
    for dataset in datasets.values():
        dataset.files = {split: dataset.files[split] for split in SPLITS if split in dataset.files}
    return list(datasets.values())


def _scan_tree(root: Path | None, depth: int = MAX_DEPTH) -> Iterator[DatasetFiles]:
    if root is None:
        return
    yield from _scan_folder(root)
    if depth and not find_manifest(root):
        for folder in sorted(root.iterdir()):
            if folder.is_dir() and not folder.name.startswith("."):
                yield from _scan_tree(folder, depth - 1)
