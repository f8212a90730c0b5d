"""Find data sets that are divided into several files of one format. Nothing heavy is imported."""

from __future__ import annotations

import glob
import re
from pathlib import Path

from tstk.errors import DataError

_NUMBER = re.compile(r"(?<=[-_.])\d+")
_NUMBER_OF_TOTAL = re.compile(r"[-_.]\d+-of-\d+$")
_SPLIT_PREFIX = re.compile(r"(train|val|test)[-_.]", re.IGNORECASE)
SHARD_SUFFIX = ".parquet"
"""Files of this suffix whose names differ in numbers alone are taken for parts of one data set without being asked."""


def is_pattern(path: Path) -> bool:
    """Return whether a path is a pattern of names, such as part-*.parquet, and not a file of that name."""
    return glob.has_magic(str(path)) and not path.exists()


def list_shards(path: Path) -> list[Path]:
    """Return the files that a pattern matches, by name.

    Raises:
        DataError: there is none
    """
    files = sorted(Path(name) for name in glob.glob(str(path)) if Path(name).is_file())
    if not files:
        raise DataError(f"{path}: no file matches; check the pattern, and put it into quotes")
    return files


def find_shards(folder: Path) -> dict[str, Path]:
    """Return split -> pattern of a folder that holds numbered parquet files, `train-00000-of-00002.parquet`, alone.

    Without a split in their names, two or more files are split "train"; {} if the files of the folder are others.
    """
    files = [path for path in sorted(folder.iterdir()) if path.suffix.lower() == SHARD_SUFFIX and path.is_file()]
    patterns = dict.fromkeys(_NUMBER.sub("*", file.stem) for file in files)
    if not files or not all(_NUMBER.search(file.stem) for file in files):
        return {}
    escaped = Path(glob.escape(str(folder)))
    splits = {match[1].lower(): pattern for pattern in patterns if (match := _SPLIT_PREFIX.match(pattern))}
    if len(splits) == len(patterns) and (len(files) > 1 or _NUMBER_OF_TOTAL.search(files[0].stem)):
        return {
            split: escaped / f"{splits[split]}{files[0].suffix}"
            for split in ("train", "val", "test")
            if split in splits
        }
    if len(patterns) == 1 and (len(files) > 1 or _NUMBER_OF_TOTAL.search(files[0].stem)):
        return {"train": escaped / f"{next(iter(patterns))}{files[0].suffix}"}
    return {}
