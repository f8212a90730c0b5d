"""Which data a run was trained on: absolute paths, sizes and hashes of its files, and whether they are still the same.

Only files are identified; series that are generated follow from the options of the run.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from tstk.config.records import RunConfig
from tstk.data.annotations import DEFAULT_ANNOTATIONS
from tstk.data.catalog import ARRAYS, SPLIT_SUFFIX, SYNTHETIC, locate, make_absolute, split_names
from tstk.data.config import DataConfig
from tstk.data.recordings import is_manifest, list_recordings
from tstk.data.shards import is_pattern, list_shards
from tstk.errors import DataChangedWarning, DataError, TstkError, warn_user
from tstk.plugins.registry import get_registry

MAX_FULL_HASH = 2**28
"""Bytes up to which a file is hashed as a whole; of larger ones, `NUM_BLOCKS` blocks."""
NUM_BLOCKS, BLOCK_SIZE = 256, 2**18

_SPLIT_OPTIONS = ("train_data", "val_data", "test_data")

DataTable = dict[str, Any]
"""The table `data` of a config: `use` and the options."""


def resolve_paths(table: Mapping[str, Any]) -> DataTable:
    """Return the table `data` of a config with all paths absolute, and its reader by the qualified name."""
    absolute, root = dict(table), table.get("data_root")
    for key in ("use", *_SPLIT_OPTIONS):
        if isinstance(table.get(key), str):
            parts = split_names(table[key]) if key == "use" else [table[key]]
            absolute[key] = ",".join(_resolve_path(part, root) for part in parts if part)
    if root:
        absolute["data_root"] = os.path.abspath(os.path.expanduser(root))
    if reader := table.get("reader"):
        absolute["reader"] = {**reader, "use": get_registry().find("reader", reader["use"]).qualified_name}
    pairs = [pair.partition("=") for pair in table.get("conditioning") or ()]
    absolute["conditioning"] = [f"{name}={os.path.abspath(os.path.expanduser(file))}" for name, _, file in pairs]
    return absolute


def _resolve_path(name_or_path: str, root: str | None) -> str:
    return name_or_path if name_or_path in (SYNTHETIC, "test") else make_absolute(name_or_path, root)


def identify_files(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return "path", "size" and "hash" of each file of the data, those of labels and of conditioning included.

    Args:
        table: `data` of a config

    Raises:
        UnknownNameError: no data set has this name
        DataError: a file is missing
    """
    paths = dict.fromkeys(Path(os.path.abspath(path)) for path in _list_files(table))
    return [
        {"path": str(path), "size": path.stat().st_size, "hash": hash_file(path)} for path in paths if path.is_file()
    ]


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, or of its size and evenly spaced blocks of it if it is larger than 256 MiB.

    A change of a large file that keeps its size and is in none of the 64 MiB that are read goes unnoticed.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= MAX_FULL_HASH:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        digest = hashlib.sha256(str(size).encode())
        for i in range(NUM_BLOCKS):
            file.seek(i * (size - BLOCK_SIZE) // (NUM_BLOCKS - 1))
            digest.update(file.read(BLOCK_SIZE))
    return f"sha256-of-blocks:{digest.hexdigest()}"


def _list_files(table: Mapping[str, Any]) -> Iterator[Path]:
    names, annotations = split_names(str(table["use"])), _get_annotations(table)
    for name in [*names, *(table.get(key) for key in _SPLIT_OPTIONS)]:
        if name and name not in (SYNTHETIC, "test"):
            for path in locate(name, table.get("data_root")).files.values():
                yield path
                yield from _list_companions(path, _list_named_arrays(table), annotations)
    for pair in table.get("conditioning") or ():
        yield Path(pair.partition("=")[2]).expanduser()


def _list_named_arrays(table: Mapping[str, Any]) -> list[str]:
    """Return the names of arrays that the options give."""
    names = [table.get(f"{role}_column") for role in ("label", "group", "id")]
    return [name for name in (*names, *(table.get("target_columns") or ())) if name]


def _get_annotations(table: Mapping[str, Any]) -> str | None:
    """Return the suffix of the annotations of records that are read for a class per sample; None if they are not."""
    if not DataConfig(task=table.get("task")).has_class_per_sample:
        return None
    return str(table.get("label_column") or DEFAULT_ANNOTATIONS)


def _list_companions(path: Path, array_names: list[str], annotations: str | None) -> Iterator[Path]:
    """Yield the files that are read together: arrays beside an .npy, signals of a .hea, recordings of a folder."""
    if path.is_dir() or is_manifest(path):
        for file in list_recordings(path if path.is_dir() else path.parent):
            yield file
            if file.suffix.lower() == ".hea":
                yield from _list_companions(file, [], annotations)
    elif is_pattern(path):
        for file in list_shards(path):
            yield file
            yield from _list_companions(file, array_names, annotations)
    elif path.suffix.lower() == ".npy":
        from tstk.data.arrays import ARRAY_NAMES

        stems = {*ARRAY_NAMES, *array_names}
        yield from (file for file in sorted(path.parent.glob("*.npy")) if SPLIT_SUFFIX.sub("", file.stem) in stems)
    elif path.suffix.lower() == ".hea":
        for line in path.read_text(errors="replace").splitlines()[1:]:
            if (words := line.split()) and not line.startswith("#"):
                yield path.parent / Path(words[0]).name
        if annotations is not None:
            yield path.with_suffix(f".{annotations}")


def locate_run_data(run_config: RunConfig, data_root: str | None = None) -> DataTable:
    """Return the table `data` of a run, see `find_run_data`; warn of files that moved or have other content.

    Args:
        run_config: of the run
        data_root: folder to look up data sets by name in; None for that of the run
    """
    table, notes = find_run_data(run_config, data_root)
    for note in filter(None, (*notes, describe_data_changes(run_config, table))):
        warn_user(note, DataChangedWarning)
    return table


def why_no_data(run_config: RunConfig) -> str:
    """Return why a run has no data of its own: it was imported, or trained on arrays; "" if it has some."""
    table = run_config.values["data"]
    if run_config.origin and not table.get("use"):
        return f"{run_config.run_dir} was imported from {run_config.origin.get('file')}, so it has no data of its own"
    if table["use"] == ARRAYS and "estimator" in run_config.input_schema:
        return f"{run_config.run_dir} was trained on arrays, which it does not hold"
    return ""


def find_run_data(run_config: RunConfig, data_root: str | None = None) -> tuple[DataTable, list[str]]:
    """Return the table `data` of a run, and a note for each file that has moved.

    A file that is gone is replaced by one of its name in the run directory, which may have moved with a data frame in
    it, or in the working directory, or by the data set of its name.

    Args:
        run_config: of the run
        data_root: folder to look up data sets by name in; None for that of the run

    Raises:
        DataError: its weights were imported, or it was trained on arrays, so it has no data
    """
    table = dict(run_config.values["data"])
    if reason := why_no_data(run_config):
        if run_config.origin:
            raise DataError(
                f"{reason}; train on some: tstk train --init-from {quote(str(run_config.run_dir))} --data FILE. "
                "Commands that need no data of the run take --data FILE"
            )
        raise DataError(f"{reason}; name some with --data FILE")
    table["data_root"] = data_root or table.get("data_root")
    notes = []
    for key in ("use", *_SPLIT_OPTIONS):
        parts = table[key].split(",") if isinstance(table.get(key), str) else []
        for i, part in enumerate(parts):
            if (
                os.path.isabs(part)
                and not Path(part).exists()
                and (new_place := _find_moved(part, run_config.run_dir, table["data_root"]))
            ):
                parts[i] = new_place
                notes.append(f"{part} is gone; {new_place} of the same name is used instead")
        table[key] = ",".join(parts) if parts else table.get(key)
    return table, notes


def _find_moved(path: str, run_dir: Path, data_root: str | None) -> str | None:
    name = Path(path).name
    for place in (run_dir / name, Path(name)):
        if place.exists():
            return os.path.abspath(place)
    try:
        return str(next(iter(locate(SPLIT_SUFFIX.sub("", Path(name).stem), data_root).files.values())))
    except TstkError:
        return None


def describe_data_changes(run_config: RunConfig, table: DataTable) -> str:
    """Return how the files of the data differ from those that a run was trained on; empty if they do not.

    Args:
        run_config: of the run; one without a record of its files is not compared
        table: `data` of a config
    """
    recorded = run_config.data_files
    try:
        current = identify_files(table) if recorded else []
    except (TstkError, OSError):
        return ""  # reported by the reader
    old, new = ({file.get("hash"): file for file in files} for files in (recorded, current))
    gone = [file for key, file in old.items() if key not in new]
    added = [file for key, file in new.items() if key not in old]
    if not gone and not added:
        return ""
    now = f"{added[0]['path']} ({added[0]['size']} bytes)" if added else "no such file"
    before = f"{gone[0].get('path')} ({gone[0].get('size')} bytes)" if gone else "no such file"
    return (
        f"these are not the data that {run_config.run_dir} was trained on: now {now}, then {before}"
        + " of another content" * bool(gone and added)
    )


def refuse_changed_data(run_config: RunConfig, table: DataTable) -> None:
    """Raise an error unless the data are those that a run was trained on.

    Raises:
        DataError: a file differs
    """
    if changes := describe_data_changes(run_config, table):
        raise DataError(f"{changes}; a run is resumed bit for bit, so restore these data, or train another run")
