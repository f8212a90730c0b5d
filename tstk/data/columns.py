"""The roles that a user gives to the columns of a file, or to its arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tstk.errors import DataError

Reader = str | Mapping[str, Any]
"""The name of a reader of files, or a table of its name (`use`) and its options."""


@dataclass(frozen=True)
class ColumnRoles:
    """Which columns or arrays of a file are what, as the options of the data say; readers infer what is not said.

    Args:
        label: the class of each series
        targets: numbers to predict for each series
        group: what series belong together, such as persons or devices
        id: the name of each series
        time: when each sample was taken
        channels: the samples; all other columns are then left out
        drop: columns to leave out
        optional: roles whose columns need not be there, such as the labels in data to predict
        is_recording: the file is one series, whose samples are its rows
        label_per_sample: the label changes within a series, whose samples it classifies
        model_channels: channels of the model for series that the file is for: without times and repeated ids, each row
            is a series, though nothing in the file says so; empty if there is none
        reader: `use` and all options of the reader of the file; None for that of its suffix
    """

    label: str | None = None
    targets: tuple[str, ...] = ()
    group: str | None = None
    id: str | None = None
    time: str | None = None
    channels: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    optional: frozenset[str] = frozenset()
    model_channels: tuple[str, ...] = ()
    is_recording: bool = False
    label_per_sample: bool = False
    reader: Mapping[str, Any] | None = None

    def reject(self, source: object, reason: str, supported: Iterable[str] = ()) -> None:
        """Refuse roles that a file cannot have.

        Args:
            source: the file, for messages
            reason: the rest of the message, after "--OPTION VALUE has no meaning"
            supported: the roles that the file can have, by field

        Raises:
            DataError: another role is given
        """
        for name, option in OPTIONS.items():
            value = getattr(self, name)
            if value and name not in supported and name not in self.optional:
                text = ",".join(value) if isinstance(value, tuple) else value
                raise DataError(f"{source}: {option} {text} has no meaning {reason}", option)

    def for_other_data(self, label: str | None = None, reader: Mapping[str, Any] | None = None) -> ColumnRoles:
        """Return the roles for data that a trained model is applied to, where all but samples may be missing.

        The reader of training is used for files that it can read.

        Args:
            label: the class of each series, if not as in training
            reader: `use` and all options of the reader of the files, if not as in training
        """
        given = {"label"} if label else set[str]()
        given |= {"reader"} if reader else set()
        optional = frozenset({*OPTIONS, "reader"}) - given
        return replace(self, label=label or self.label, reader=reader or self.reader, optional=optional)


OPTIONS = {
    "label": "--label-column",
    "targets": "--target-columns",
    "group": "--group-column",
    "id": "--id-column",
    "time": "--time-column",
    "channels": "--channel-columns",
    "drop": "--drop-columns",
}
"""Role -> the option that gives it."""

TIME_NAMES = (
    "date",
    "datetime",
    "timestamp",
    "ds",
    "date_time",
    "epoch",
    "unix_time",
    "utc",
    "time",
    "t",
    "step",
    "year",
)
LABEL_NAMES = ("label", "labels", "class", "activity", "diagnosis", "target", "y")
GROUP_NAMES = tuple(
    name + suffix
    for name in (
        *("group", "groups", "subject", "subjects", "patient", "participant", "person", "user", "device", "machine"),
        *("station", "animal", "volunteer"),
    )
    for suffix in ("", "_id", "id")
)
ID_NAMES = (
    *("id", "series_id", "sample_id", "unique_id", "case_id", "item_id", "uid", "uuid", "record_id", "recording_id"),
    *("segment_id", "window_id", "trial_id", "sequence_id", "recording"),
)
NOTE_NAMES = ("note", "notes", "text", "caption", "comment")
"""Columns of text, which are not samples; `--conditioning` can supply their encodings."""
