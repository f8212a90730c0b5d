"""From what readers hand over to a `Dataset`: labels become indices, parts are split, scales are measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tstk.data.dataset import Dataset, missing, statistics
from tstk.data.parts import Labelled, Part, Windows
from tstk.data.raw import Raw, Table
from tstk.data.splits import borders, by_group, stratified
from tstk.errors import DataError, OptionError
from tstk.records import Spec


def series(
    name: str, raws: dict[str, Raw], fraction: float, seed: int, borrow: bool, length: int | None, scale: str
) -> Dataset:
    """A data set of series, for classification if they are labelled.

    Args:
        name: what to call it
        raws: "train" and, where they exist, "val" and "test"
        fraction: share of the training part to validate on, if there is no "val"
        seed: of that choice
        borrow: validate on the test part
        length: samples that a series may have; None means those of the longest
        scale: "standard" or "none"
    """
    train, test = raws["train"], raws.get("test")
    if train.y is not None and test is None:
        raise DataError(f"{train.source}: the TEST part is missing, no such file lies beside it; give --test-data FILE")
    classes = _classes(train)
    longest = max(raw.x.shape[2] for raw in raws.values())
    if length is not None and length < longest:
        raise DataError(f"--length {length}: {name} has series of {longest} samples; give at least that")
    card = {"classes": classes, "channels": train.channels or _numbered(train.x.shape[1]), "length": length or longest}
    parts = {part: _labelled(raw, card) for part, raw in raws.items()}
    notes = []
    if borrow:
        if test is None:
            raise DataError(f"{name}: --val-data test, but there is no test part")
        parts["val"] = parts["test"]
        split = "validation is the test part itself"
        notes.append("validation is the test part itself, so figures on the test part flatter")
    elif "val" in parts:
        split = f"validation from {raws['val'].source}"
    else:
        rows, split = _split(parts["train"], train.source, fraction, seed)
        parts["train"], parts["val"] = parts["train"].take(rows[0]), parts["train"].take(rows[1])
    notes += _notes(parts)
    if train.y is not None and (single := [c for c in classes if train.y.count(c) == 1]):
        notes.append(f"one training series only, so never validated: class {', '.join(single)}")
    mean, std = _scale(parts["train"].x, scale)
    return Dataset(
        name=name,
        source=_sources(raws),
        task="classification" if classes else "unlabelled",
        spec=Spec(channels=len(mean), length=card["length"], classes=len(classes) or None),
        train=parts["train"],
        val=parts["val"],
        test=parts.get("test"),
        classes=classes,
        channels=card["channels"],
        mean=mean,
        std=std,
        notes=[split, *notes] if not borrow else notes,
        split=split,
    )


def forecasting(
    name: str,
    tables: dict[str, Table],
    context: int | None,
    horizon: int | None,
    fraction: float,
    borrow: bool,
    scale: str,
) -> Dataset:
    """A data set of windows over a table, or over one table per part.

    Validation and test windows may look back into the rows before their part; their futures never do.

    Args:
        name: what to call it
        tables: "train" and, where they exist, "val" and "test"
        context: samples that the model sees; None means 96
        horizon: samples to forecast; None means 96
        fraction: share of the rows to validate on, if "test" is a table of its own and "val" is not
        borrow: validate on the test part
        scale: "standard" or "none"
    """
    for option, value in (("context", context), ("horizon", horizon)):
        if value is not None and value < 1:
            raise OptionError(f"--{option} {value}: expected at least 1")
    context, horizon = context or 96, horizon or 96
    first = tables["train"]
    for table in tables.values():
        if table.channels != first.channels:
            raise DataError(f"{table.source}: columns {', '.join(table.channels)}; expected {', '.join(first.channels)}")
    rows = len(first.values)
    if "test" in tables and "val" in tables:
        ends, split = (rows, rows, rows), "each part from its own file"
    elif "test" in tables:
        ends, split = (rows - round(fraction * rows), rows, rows), f"the last {fraction:.0%} of the training rows validate"
    elif "val" in tables:
        *_, last, how = borders(first)
        ends, split = (borders(first)[1], borders(first)[1], last), f"validation from {tables['val'].source}; {how}"
    else:
        *cuts, split = borders(first)
        ends = cuts[0], cuts[1], cuts[2]
    whole = _tensor(first)
    spans = {"train": (0, ends[0]), "val": (ends[0], ends[1]), "test": (ends[1], ends[2])}
    parts: dict[str, Windows] = {}
    for part, (start, stop) in spans.items():
        own = part != "train" and part in tables
        rows_here = _tensor(tables[part]) if own else whole[:, max(start - context, 0) if start else 0 : stop]
        source = tables[part].source if own else f"the {part} part of {first.source}"
        parts[part] = _windows(rows_here, context, horizon, source)
    notes = [split]
    if borrow:
        parts["val"], split = parts["test"], "validation is the test part itself"
        notes = [split + ", so figures on the test part flatter"]
    if rows > ends[2]:
        notes.append(f"{rows - ends[2]} rows at the end are not used")
    mean, std = _scale(whole[None, :, : ends[0]], scale)
    return Dataset(
        name=name,
        source=tuple(table.source for table in tables.values()),
        task="forecasting",
        spec=Spec(channels=len(mean), length=context, horizon=horizon),
        train=parts["train"],
        val=parts["val"],
        test=parts["test"],
        classes=(),
        channels=first.channels,
        mean=mean,
        std=std,
        notes=notes + _notes(parts),
        split=split,
    )


def part_like(data: Raw | Table, like: dict[str, Any], future: bool) -> Part:
    """One part, read as a trained model expects it.

    Args:
        data: what a reader handed over
        like: from `Dataset.like`
        future: of a table, keep the rows to forecast as truth
    """
    table = isinstance(data, Table)
    if table != (like["task"] == "forecasting"):
        have, want = ("a table", "series") if table else ("a set of series", "a table")
        raise DataError(f"{data.source}: this is {have}, but the model was trained on {want}")
    if isinstance(data, Raw):
        return _labelled(data, like)
    if data.channels != tuple(like["channels"]):
        raise DataError(f"{data.source}: columns {', '.join(data.channels)}; expected {', '.join(like['channels'])}")
    return _windows(_tensor(data), like["length"], like["horizon"] if future else 0, data.source)


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(str(i) for i in range(count))


def _tensor(table: Table) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(table.values.T))


def _sources(raws: dict[str, Raw]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(raw.source for raw in raws.values()))


def _windows(table: Tensor, context: int, horizon: int, source: str) -> Windows:
    rows = table.shape[1]
    if rows < context + horizon:
        raise DataError(
            f"{source}: {rows} rows are too few for --context {context} and --horizon {horizon}; "
            f"together they may be at most {rows}"
        )
    return Windows(table, context, horizon)


def _scale(x: Tensor, scale: str) -> tuple[Tensor, Tensor]:
    return statistics(x) if scale == "standard" else (torch.zeros(x.shape[1]), torch.ones(x.shape[1]))


def _classes(train: Raw) -> tuple[str, ...]:
    """The classes that occur in training: in the order that the file declares, else by number, else by name."""
    if train.y is None:
        return ()
    found = set(train.y)
    if train.classes:
        return tuple(c for c in train.classes if c in found)
    try:
        return tuple(sorted(found, key=float))
    except ValueError:
        return tuple(sorted(found))


def _labelled(raw: Raw, like: dict[str, Any]) -> Labelled:
    """Series checked against the channels, the length and the classes of those that the model knows."""
    n, channels, samples = raw.x.shape
    names, classes = list(like["channels"]), {c: i for i, c in enumerate(like["classes"])}
    if channels != len(names):
        raise DataError(f"{raw.source}: {channels} channels; the training data have {len(names)}: {', '.join(names)}")
    if list(raw.channels) != names and sorted(raw.channels) == sorted(names):
        raise DataError(f"{raw.source}: channels in another order than in training: {', '.join(names)}")
    part = Labelled(torch.from_numpy(raw.x), groups=raw.groups)
    if int(part.lengths.max()) > like["length"]:
        at = int(part.lengths.argmax())
        raise DataError(f"{raw.source}: series {at + 1} has {part.lengths[at]} samples; the model takes {like['length']}")
    if raw.y is not None and classes:
        if unknown := sorted(set(raw.y) - set(classes)):
            raise DataError(
                f"{raw.source}: class {', '.join(map(repr, unknown))} does not occur in training, "
                f"whose classes are {', '.join(classes)}"
            )
        part.y = torch.tensor([classes[label] for label in raw.y])
    return part


def _split(part: Labelled, source: str, fraction: float, seed: int) -> tuple[tuple[Tensor, Tensor], str]:
    """Rows of training and of validation, and how they were chosen."""
    y = np.zeros(len(part), np.int64) if part.y is None else part.y.numpy()
    if part.groups is not None and (groups := len(set(part.groups))) > 1:
        train, val = by_group(y, part.groups, fraction, seed)
        chosen = len({part.groups[i] for i in val.tolist()})
        how = f"validation: {chosen} of {groups} groups ({len(val)} of {len(part)} series) split off the training part"
    else:
        train, val = stratified(y, fraction, seed)
        how = f"validation: {len(val)} of {len(part)} series split off the training part, class by class"
    if not len(val):
        raise DataError(f"{source}: {len(part)} series are too few to split off validation data; give --val-data FILE")
    return (torch.from_numpy(train), torch.from_numpy(val)), how


def _notes(parts: Any) -> list[str]:
    """What a user should know of missing values."""
    counts = {part: missing(one) for part, one in parts.items()}
    return [f"{count} missing values in {part}" for part, count in counts.items() if count]
