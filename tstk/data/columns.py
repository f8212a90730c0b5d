"""The roles that a user gives to the columns of a file, or to its arrays."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

from tstk.errors import DataError


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
    """

    label: str | None = None
    targets: tuple[str, ...] = ()
    group: str | None = None
    id: str | None = None
    time: str | None = None
    channels: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()

    def reject(self, source: object, reason: str, supported: Iterable[str] = ()) -> None:
        """Refuse roles that a file cannot have.

        Args:
            source: the file, for messages
            reason: the rest of the message, after "--OPTION VALUE has no meaning"
            supported: the roles that the file can have, by field

        Raises:
            DataError: another role is given
        """
        for item in fields(self):
            value = getattr(self, item.name)
            if value and item.name not in supported:
                text = ",".join(value) if isinstance(value, tuple) else value
                raise DataError(f"{source}: {OPTIONS[item.name]} {text} has no meaning {reason}")


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

TIME_NAMES = ("date", "datetime", "timestamp", "time", "ds", "date_time", "epoch", "unix_time", "utc", "t", "step")
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
