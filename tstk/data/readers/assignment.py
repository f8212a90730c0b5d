"""Which column of a frame is what: by the options first, then by common names, then by what the columns hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from shlex import quote

from tstk.data.columns import (
    GROUP_NAMES,
    ID_NAMES,
    LABEL_NAMES,
    NOTE_NAMES,
    OPTIONS,
    TIME_NAMES,
    ColumnRoles,
)
from tstk.data.readers.frame import Frame
from tstk.data.times import Times
from tstk.errors import DataError

CERTAIN_LABEL_NAMES = LABEL_NAMES[:-2]
"""The others may also be the name of what is measured."""

CERTAIN_TIME_NAMES = TIME_NAMES[:-4]

_NUMBERED = re.compile(r"(.*?)(\d+(?:\.\d+)?)")
_CHANNEL_PREFIXES = ("ch", "channel", "sensor", "lead", "axis", "signal", "dim")


@dataclass
class Assignment:
    """The roles of the columns of a frame, by index.

    Args:
        frame: the columns
        label, group, id, time: a column each, or None
        clock: the times of day that belong to the dates of `time`, or None
        targets: numbers to predict
        channels: columns of samples
        left_out: column -> the reason
        by_user: roles that the options give
    """

    frame: Frame
    label: int | None = None
    group: int | None = None
    id: int | None = None
    time: int | None = None
    clock: int | None = None
    targets: list[int] = field(default_factory=list)
    channels: list[int] = field(default_factory=list)
    left_out: dict[int, str] = field(default_factory=dict)
    by_user: set[str] = field(default_factory=set)

    @property
    def remaining(self) -> list[int]:
        """The columns without a role, in order."""
        known = {self.label, self.group, self.id, self.time, self.clock}
        known |= {*self.targets, *self.channels, *self.left_out}
        return [i for i in range(len(self.frame.names)) if i not in known]

    def leave_out(self, indices: Iterable[int], reason: str) -> None:
        """Leave columns out, for a reason that completes "left out: NAME (...)"."""
        self.left_out.update(dict.fromkeys(indices, reason))

    def set_channels(self, indices: Sequence[int], kind: str) -> None:
        """Take columns as samples, and leave out indices of rows and notes.

        Args:
            indices: candidates
            kind: what a column is, for messages: "a sample" or "a channel"

        Raises:
            DataError: a column holds text, or none is left
        """
        frame = self.frame
        if "channels" not in self.by_user:
            self.leave_out((i for i in indices if frame.lower_names[i] in NOTE_NAMES and frame.is_text(i)), "text")
            counters = [i for i in indices if frame.num_rows >= 8 and frame.counts_rows(i)]
            if len(counters) < len(indices):
                self.leave_out(counters, "it counts the rows")
        self.channels = [i for i in indices if i not in self.left_out]
        if text := [i for i in self.channels if not frame.is_nested(i) and frame.is_text(i)]:
            raise self.question_text(text[0], kind)
        if not self.channels:
            raise DataError(f"{frame.path}: no column of samples; add one")

    def get_times(self) -> Times | None:
        """Parse the times of the rows, if there is a column of them; leave out others that hold times too.

        Raises:
            DataError: a cell is not a time
        """
        if self.time is None:
            return None
        times = self.frame.get_times(self.time, self.clock)
        if "channels" not in self.by_user:
            frame = self.frame
            counts = [i for i in self.remaining if frame.lower_names[i] in CERTAIN_TIME_NAMES and frame.ascends(i)]
            self.leave_out(counts + [i for i in self.remaining if frame.has_dates(i)], "another time")
        return times

    def question_text(self, index: int, kind: str) -> DataError:
        """Return the error of a column of text without a role, with the option that its contents suggest."""
        cells, name = self.frame.get_text(index), quote(self.frame.names[index])
        values = set(cells)
        looks_like_id = self.frame.lower_names[index].endswith(("id", "name")) or all(
            re.fullmatch(r"[^\W\d]*[-_ ]?\d+", value) for value in values
        )
        if len(values) == len(cells) > 2 and self.id is None:
            proposal = f"if it names the series, give --id-column {name}"
        elif len(values) == 1 and len(cells) > 1:
            return self._question(index, "holds the same text in all rows", f"--drop-columns {name} leaves it out")
        elif looks_like_id and self.group is None:
            proposal = f"if it names persons or devices, give --group-column {name}"
        elif self.label is None:
            proposal = f"if these are the labels, give --label-column {name}"
        elif self.group is None:
            proposal = f"if it names persons or devices, give --group-column {name}"
        else:
            return self._question(index, f"holds text, and is not {kind}", f"--drop-columns {name} leaves it out")
        return self._question(index, "holds text", f"{proposal}; --drop-columns {name} leaves it out")

    def question_number(self, index: int, samples: str) -> DataError:
        """Return the error of a column of numbers that is not one of the numbered samples."""
        name = quote(self.frame.names[index])
        remedy = f"--target-columns {name} predicts it, --drop-columns {name} leaves it out"
        if self.group is None and self.frame.is_integer(index):
            remedy += f", --group-column {name} if it names persons or devices"
        return self._question(index, f"is not one of the samples {samples}", remedy)

    def _question(self, index: int, fault: str, remedy: str) -> DataError:
        return DataError(f"{self.frame.path}: the column {self.frame.names[index]!r} {fault}; {remedy}")

    def describe(self, samples: str = "", times: Times | None = None) -> str:
        """Say what was taken for what, and what was left out and why, in one line.

        Of a frame for a model nothing is said, unless columns are left out or used in another order.
        """
        if self.frame.is_for_model and not self.left_out and self.channels == sorted(self.channels):
            return ""
        names = self.frame.names
        parts = [samples or f"channels {self.list_names(self.channels)}"]
        roles = (("label", self.label), ("group", self.group), ("id", self.id))
        parts += [f"{role} {names[index]!r}" for role, index in roles if index is not None]
        if times is not None:
            columns = [i for i in (self.time, self.clock) if i is not None]
            parts.append(f"time {self.list_names(columns)} ({times.format.description})")
        parts += [f"targets {self.list_names(self.targets)}"] if self.targets else []
        reasons: dict[str, list[int]] = {}
        for index, reason in self.left_out.items():
            reasons.setdefault(reason, []).append(index)
        left_out = ", ".join(f"{self.list_names(indices)} ({reason})" for reason, indices in reasons.items())
        parts += [f"left out: {left_out}"] if left_out else []
        return f"columns: {'; '.join(parts)}"

    def list_names(self, indices: Sequence[int]) -> str:
        """Return the names of columns, of many only the first, the last and the number."""
        names = [repr(self.frame.names[i]) for i in indices]
        return ", ".join(names) if len(names) < 8 else f"{names[0]} to {names[-1]} ({len(names):,})"


def assign_roles(frame: Frame, roles: ColumnRoles) -> Assignment:
    """Give columns the roles that the options and then common names give them; `channels` is left to the caller.

    Raises:
        DataError: a column that an option names is not there, or has two roles
    """
    assignment = Assignment(frame)
    _assign_by_options(assignment, roles)
    _assign_by_names(assignment)
    if "channels" in assignment.by_user:
        assignment.leave_out(assignment.remaining, "not in --channel-columns")
    return assignment


def _assign_by_names(assignment: Assignment) -> None:
    frame = assignment.frame
    indices = [i for i in assignment.remaining if frame.is_unnamed_index(i)]
    if assignment.time is None and indices and frame.has_dates(indices[0]):
        assignment.time = indices[0]
    for i in indices:
        if i != assignment.time:
            assignment.leave_out([i], "without a name or a value" if frame.is_empty(i) else "an index of rows")
    for role, names in (("time", TIME_NAMES), ("id", ID_NAMES), ("group", GROUP_NAMES), ("label", LABEL_NAMES)):
        if getattr(assignment, role) is None:
            others = {frame.lower_names[i]: i for i in assignment.remaining if not frame.is_nested(i)}
            setattr(assignment, role, next((others[name] for name in names if name in others), None))
    if assignment.time is None:
        dates = [i for i in assignment.remaining if frame.has_dates(i)]
        if dates[:1] == [0] or (dates and assignment.label is None and not assignment.targets):
            assignment.time = dates[0]
        else:
            assignment.leave_out(dates, "dates, but each row is a series")
    clocks = [i for i in assignment.remaining if frame.lower_names[i] == "time" and frame.has_clock(i)]
    if assignment.time is not None and frame.has_dates(assignment.time) and clocks:
        assignment.clock = clocks[0]


def _assign_by_options(assignment: Assignment, roles: ColumnRoles) -> None:
    frame, options = assignment.frame, dict[int, str]()
    for role, option in OPTIONS.items():
        value = getattr(roles, role)
        names = value if isinstance(value, tuple) else () if value is None else (value,)
        if role in roles.optional:
            names = tuple(name for name in names if frame.has(name))
        indices = [frame.find(name, option) for name in names]
        for index in indices:
            if index in options:
                raise DataError(
                    f"{frame.path}: the column {frame.names[index]!r} has two roles, {options[index]} and {option}; "
                    "give it one"
                )
            options[index] = option
        if not indices:
            continue
        assignment.by_user.add(role)
        if role == "drop":
            assignment.leave_out(indices, "--drop-columns")
        elif role in ("targets", "channels"):
            setattr(assignment, role, indices)
        else:
            setattr(assignment, role, indices[0])


def find_runs(assignment: Assignment) -> dict[str, list[int]]:
    """Return the runs of columns numbered alike (t0 to t149): prefix -> columns. Each is a channel of every row.

    The columns of a run are in the order of their numbers, which that of the file may not be (t1, t10, t2).
    """
    frame, runs = assignment.frame, dict[str, dict[str, int]]()
    for i in assignment.remaining:
        if (match := _NUMBERED.fullmatch(frame.names[i])) and not frame.is_nested(i):
            runs.setdefault(match[1].strip(" _-.["), {})[match[2]] = i
    if not runs:
        return {}
    largest = max(runs.values(), key=len)
    order = sorted(largest, key=float)
    alike = {prefix: [run[number] for number in order] for prefix, run in runs.items() if set(run) == set(largest)}
    num_columns = sum(map(len, alike.values()))
    if len(largest) < 2 or (len(largest) == 2 and num_columns < len(assignment.remaining)):
        return {}
    return {} if {prefix.lower() for prefix in alike} <= set(_CHANNEL_PREFIXES) else alike
