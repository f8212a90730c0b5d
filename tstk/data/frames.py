"""Data frames as data sets: read like the columns of a file, and stored beside the run that is trained on them.

The index of a pandas frame says what its levels are: dates are the times of the rows, a MultiIndex is the ids of series
and their times, and any other index numbers or names the rows. It becomes columns, in front of the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tstk.config.resolve import Config
from tstk.core.frames import has_columns, is_pandas
from tstk.data.columns import GROUP_NAMES, ID_NAMES, LABEL_NAMES, TIME_NAMES, ColumnRoles
from tstk.errors import DataError, OptionError
from tstk.files import atomic_write

if TYPE_CHECKING:
    from tstk.data.containers import SeriesSet, Table

SOURCE = "data frame"
"""What messages call a data frame."""

FRAME_OPTIONS = ("data", "train_data", "val_data", "test_data")
"""Options that name data, and may be data frames in Python."""


@dataclass(frozen=True)
class IndexRoles:
    """The roles of the levels of an index, by the names of the columns that they become.

    Args:
        id: the level that names series
        time: the level of times
        number: the level that only numbers the rows
    """

    id: str | None = None
    time: str | None = None
    number: str | None = None

    def complete(self, roles: ColumnRoles, columns: list[str]) -> ColumnRoles:
        """Return roles with those of the index, where the options give none, or a column that is not there."""
        if self.id and roles.id not in columns:
            roles = replace(roles, id=self.id)
        if self.time and roles.time not in columns:
            roles = replace(roles, time=self.time)
        return roles

    def is_unused(self, roles: ColumnRoles) -> bool:
        """Return whether there is a level that numbers the rows, and no option names it."""
        one_each = (roles.id, roles.time, roles.label, roles.group)
        return self.number is not None and self.number not in (
            *one_each,
            *roles.targets,
            *roles.channels,
            *roles.drop,
        )


def read_frame(frame: Any, roles: ColumnRoles, *, is_for_model: bool = False) -> dict[str, SeriesSet] | Table:
    """Read the columns of a data frame as those of a file.

    Args:
        frame: of pandas or polars, or a pyarrow table
        roles: of columns, where names and the index do not tell
        is_for_model: a trained model has decided on the roles, so a note is only on columns that are left out or
            used in another order

    Raises:
        DataError: it is no data frame, or its contents do not fit the roles
    """
    return _interpret(*to_arrow(frame, roles), is_for_model)


def _interpret(table: Any, roles: ColumnRoles, is_for_model: bool = False) -> dict[str, SeriesSet] | Table:
    """Read the columns of a pyarrow table as those of a file."""
    from tstk.data.readers.frame import Frame
    from tstk.data.readers.interpret import interpret

    def locate_row(row: int) -> str:
        return f"{SOURCE}, row {row}" if row >= 0 else SOURCE  # counted from 0, as `iloc` does

    columns = Frame(Path(SOURCE), table.column_names, table.columns, locate_row, is_for_model=is_for_model)
    return interpret(columns, roles)


def to_arrow(frame: Any, roles: ColumnRoles) -> tuple[Any, ColumnRoles]:
    """Return the columns of a data frame as a pyarrow table, its index first, and roles with those of the index.

    Args:
        frame: of pandas or polars, or a pyarrow table
        roles: of columns, where names and the index do not tell

    Raises:
        DataError: it is no data frame, or pyarrow cannot read a column
    """
    import pyarrow

    index_roles = IndexRoles()
    try:
        if is_pandas(frame):
            frame, index_roles = _index_to_columns(frame)
            table = pyarrow.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
        else:
            table = pyarrow.table(frame)
        while any(pyarrow.types.is_struct(type_) for type_ in table.schema.types):
            table = table.flatten()
        if not table.num_rows:
            raise DataError(f"{SOURCE}: no rows; add those of the data")
    except (TypeError, ValueError, pyarrow.ArrowException) as error:
        reason = " ".join(map(str, error.args)) or type(error).__name__
        if is_pandas(frame) and (fault := _describe_mixed_column(frame)):
            raise DataError(fault) from None
        kind = type(frame).__name__
        if hasattr(frame, "to_frame"):
            raise DataError(f"data: a {kind}, which has no columns; give a data frame, such as by to_frame()") from None
        raise DataError(f"data: a {kind}, which is no data frame that pyarrow reads ({reason})") from None
    roles = index_roles.complete(roles, table.column_names)
    return (table.drop_columns([index_roles.number]) if index_roles.is_unused(roles) else table), roles


def _describe_mixed_column(frame: Any) -> str:
    """Return the first cell of text in a column that also holds numbers; empty if there is none."""
    for position, name in enumerate(frame.columns):
        column = frame.iloc[:, position]
        is_text = [isinstance(cell, str) for cell in column] if column.dtype == object else []
        if any(is_text) and not all(is_text):
            row = is_text.index(True)
            return (
                f"{SOURCE}, row {row}: column {str(name)!r} holds numbers, and here {column.iloc[row]!r}; make it one "
                "type, with NaN where a value is missing"
            )
    return ""


def _index_to_columns(frame: Any) -> tuple[Any, IndexRoles]:
    """Return a pandas frame whose index is columns, and the roles of these."""
    index = frame.index
    if index.nlevels == 1 and index.name is None and not is_temporal(index):
        return frame.reset_index(drop=True), IndexRoles()  # numbers or names of rows
    levels = [index.get_level_values(i) for i in range(index.nlevels)]
    names = name_levels(levels, list(map(str, frame.columns)))
    columns = {name: _to_storable(level) for name, level in zip(names, levels, strict=True)}
    frame = frame.reset_index(drop=True).set_axis(list(map(str, frame.columns)), axis=1)
    for i, (name, column) in enumerate(columns.items()):
        frame.insert(i, name, column)
    return frame, _find_multi_roles(names, levels) if len(names) > 1 else _find_roles(names[0], levels[0])


def is_temporal(level: Any) -> bool:
    """Return whether the labels of an index are times, durations or periods."""
    return level.dtype.kind in "mM" or hasattr(level, "to_timestamp")


def _to_storable(level: Any) -> Any:
    """Return an index without its frequency, periods by their start, and durations in seconds."""
    if hasattr(level, "to_timestamp"):
        level = level.to_timestamp()
    return level.total_seconds() if level.dtype.kind == "m" else level.array


def name_levels(levels: list[Any], columns: list[str]) -> list[str]:
    """Return the names of the levels of an index; those without a name are called id and time.

    Raises:
        DataError: two have the same name, or a column has it
    """
    names = [None if level.name is None else str(level.name) for level in levels]
    for i, level in enumerate(levels):
        if names[i] is None:
            is_time = is_temporal(level) or (len(levels) > 1 and i == len(levels) - 1)
            names[i] = "time" if is_time else "id"
    for i, name in enumerate(names):
        if name in columns or name in names[:i]:
            raise DataError(
                f"{SOURCE}: level {i} of the index and a column are both called {name!r}; rename the level with "
                "frame.rename_axis(...), or remove one"
            )
    return [str(name) for name in names]


def _find_multi_roles(names: list[str], levels: list[Any]) -> IndexRoles:
    """Return the roles of a MultiIndex: the level of times, or the last one, is the time, and the other the id."""
    if len(names) > 2:
        raise DataError(
            f"{SOURCE}: the index has {len(names)} levels, {', '.join(names)}; two are needed, the id of a series and "
            "the time of a sample: join the levels that name a series, or make columns of them by reset_index"
        )
    is_time = [is_temporal(level) or name.lower() in TIME_NAMES for name, level in zip(names, levels, strict=True)]
    time = 0 if is_time[0] and not is_time[1] else 1
    return IndexRoles(id=names[1 - time], time=names[time])


def _find_roles(name: str, level: Any) -> IndexRoles:
    """Return the role of an index of one level that has a name, or of times."""
    known = {*TIME_NAMES, *ID_NAMES, *GROUP_NAMES, *LABEL_NAMES}
    if is_temporal(level) or name.lower() in known:
        return IndexRoles()  # told by its contents or its name, as in a file
    if level.dtype.kind in "biuf":
        return IndexRoles(number=name)
    return IndexRoles(id=name) if level.is_unique else IndexRoles()


def store_frames(config: Config, frames: Mapping[str, Any], run_dir: Path) -> Config:
    """Write the data frames that a run is trained on into its directory, and return a config that names the files.

    Args:
        config: resolved, with a name in the place of each frame
        frames: option -> data frame
        run_dir: of the run

    Raises:
        DataError: a frame is none, or its contents do not fit the roles of the options
        OptionError: the option `reader` is given, although no file is read
    """
    from pyarrow import parquet

    from tstk.data.config import DataConfig

    if not frames:
        return config
    data_config = DataConfig.from_config(config)
    if "data" in frames:
        data_config.reject("for a data frame, which no file is read for", "reader")
    table, notes, sources = dict(config.values["data"]), list(config.notes), dict(config.sources)
    roles, options = data_config.roles, [option for option in FRAME_OPTIONS if option in frames]
    for option in options:
        try:
            arrow_table, frame_roles = to_arrow(frames[option], roles)
            if option != options[0]:
                _check_same_roles(frame_roles, roles, options[0])
            _interpret(arrow_table, frame_roles)  # to refuse it before a file is written, by rows as the frame counts
        except DataError as error:
            raise DataError(str(error) if option == "data" else f"{option}: {error}") from None
        roles = frame_roles
        path = run_dir / f"{option}.parquet"
        with atomic_write(path) as file:
            parquet.write_table(arrow_table, file)
        table["use" if option == "data" else option] = str(path)
        notes.append(f"the data frame is stored as {path}, from which the run is resumed and scored")
    for name, value in (("id_column", roles.id), ("time_column", roles.time)):
        if value != table[name]:
            table[name], sources[f"data.{name}"] = value, "index of the data frame"
    return replace(config, values={**config.values, "data": table}, sources=sources, notes=notes)


def _check_same_roles(roles: ColumnRoles, expected: ColumnRoles, option: str) -> None:
    """Raise DataError if the index of a data frame gives a role to another name than in the frame of an option."""
    for kind, name, expected_name in (("id", roles.id, expected.id), ("time", roles.time, expected.time)):
        if name != expected_name:
            known = f"{option} has none" if expected_name is None else f"that of {option} is {expected_name!r}"
            remedy = "remove it with reset_index(drop=True)" if expected_name is None else "rename_axis makes them one"
            raise DataError(f"{SOURCE}: the {kind} in its index is {name!r}, and {known}; {remedy}")


@contextmanager
def name_frames(frames: Mapping[str, Any], run_dir: Path) -> Iterator[None]:
    """Call the files of data frames by their options in errors about data; they are removed with the failed run."""
    try:
        yield
    except DataError as error:
        message = str(error)
        for option in frames:
            message = message.replace(str(run_dir / f"{option}.parquet"), SOURCE if option == "data" else option)
        raise DataError(message) from None


def take_frames(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Separate the data frames among the options of training from the others.

    Args:
        options: as given in Python

    Returns:
        the options, with the name of a file in the place of each data frame; option -> data frame
    """
    frames = {name: options[name] for name in FRAME_OPTIONS if has_columns(options.get(name))}
    named: dict[str, Any] = {name: f"{name}.parquet" for name in frames}
    table = options.get("data")
    if isinstance(table, Mapping) and has_columns(table.get("use")):
        frames["data"], named["data"] = table["use"], {**table, "use": "data.parquet"}
    return {**options, **named}, frames


def refuse_frames(frames: Mapping[str, Any], reason: str) -> None:
    """Raise OptionError if there are data frames where files are needed.

    Args:
        frames: option -> data frame
        reason: continues the message after what is given
    """
    for option, frame in frames.items():
        raise OptionError(
            f"{option} is a {type(frame).__name__}, {reason}: write it to a file with to_parquet('x.parquet') and give "
            "that path"
        )
