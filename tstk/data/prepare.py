"""From what readers hand over to a `Dataset`: labels become indices, parts are split, scales are measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tstk.core.types import Spec
from tstk.data.catalog import PARTS, VAL_FRACTION
from tstk.data.containers import Raw, Table
from tstk.data.data_module import Dataset, missing, statistics
from tstk.data.datasets import Extra, Labelled, Part, Windows
from tstk.data.lazy_array import Stored
from tstk.data.splits import by_group, few, stratified
from tstk.data.windowing import ends_of, windows_of
from tstk.errors import DataError, OptionError


def series(
    name: str,
    raws: dict[str, Raw],
    fraction: float,
    seed: int,
    labels: float,
    borrow: bool,
    length: int | None,
    scale: str,
    extra: Mapping[str, Mapping[str, Extra]] | None = None,
) -> Dataset:
    """A data set of series, for classification if they are labelled.

    Args:
        name: what to call it
        raws: "train" and, where they exist, "val" and "test"
        fraction: share of the training part to validate on, if there is no "val"; with 0 nothing is held out
        seed: of that choice
        labels: share of the training and validation series to keep, class by class
        borrow: validate on the test part
        length: samples that a series may have; None means those of the longest
        scale: "standard" or "none"
        extra: what else the samples bring: name -> part -> one
    """
    train, test = raws["train"], raws.get("test")
    if train.y is not None and test is None:
        raise DataError(f"{train.source}: the TEST part is missing, no such file lies beside it; give --test-data FILE")
    classes, channels = _classes(train), train.channels or _numbered(train.x.shape[1])
    longest = max(raw.x.shape[2] for raw in raws.values())
    if length is not None and length < longest:
        raise DataError(f"--length {length}: {name} has series of {longest} samples; give at least that")
    length = length or longest
    parts = {part: _labelled(raw, channels, classes, length) for part, raw in raws.items()}
    for name_of, found in (extra or {}).items():
        for part, brought in found.items():
            parts[part].extra[name_of] = brought
    for part, raw in raws.items():
        if train.y is not None and raw.y is None:
            raise DataError(f"{raw.source}: no labels in the {part} part, while the training part has them")
    notes = list(dict.fromkeys(raw.told for raw in raws.values() if raw.told))
    notes += [f"--extra {n}: {_told(parts['train'], n)}" for n in extra or {} if _told(parts["train"], n)]
    if borrow:
        if test is None:
            raise DataError(f"{name}: --val-data test, but there is no test part")
        parts["val"] = parts["test"]
        split = "validation is the test part itself"
        notes.append("validation is the test part itself, so figures on the test part flatter")
    elif "val" in parts:
        split = f"validation from {raws['val'].source}"
        notes.append(split)
    elif not fraction:
        parts["val"] = parts["train"].take(torch.arange(0))
        split = f"all {len(parts['train'])} training series are learnt from, none validates"
        notes.append(f"{split}; --val-fraction {VAL_FRACTION} holds some out")
    else:
        rows, split = _split(parts["train"], train.source, fraction, seed)
        parts["train"], parts["val"] = parts["train"].take(rows[0]), parts["train"].take(rows[1])
        notes.append(split)
    mean, std = _scale(parts["train"].x, scale)
    if labels < 1:
        if not classes:
            raise OptionError(f"--labels {labels}: {name} has none")
        rng = np.random.default_rng(seed)
        for part, least in (("train", 2),) if borrow else (("train", 2), ("val", 1)):
            one = parts[part]
            assert one.y is not None
            parts[part] = one.take(torch.from_numpy(few(one.y.numpy(), labels, least, rng)))
        notes.append(f"{labels:.0%} of the labels: {len(parts['train'])} series to train on")
    notes += _missing(parts)
    for part, one in parts.items():
        if not len(one):
            continue
        present = set() if one.y is None else set(one.y.tolist())
        if absent := [c for i, c in enumerate(classes) if i not in present]:
            notes.append(f"no series of class {', '.join(absent)} in {part}")
    if test is not None and test.x is train.x:
        notes.append("training series are the test series, without labels: transductive")
    elif test is not None and (shared := set(train.groups or ()) & set(test.groups or ())):
        notes.append(f"{len(shared)} groups occur both in training and in test, so figures on the test part flatter")
    return Dataset(
        name=name,
        source=_sources(raws),
        task="classification" if classes else "unlabelled",
        spec=Spec(
            channels=len(channels),
            length=length,
            classes=len(classes) or None,
            extra={n: one["train"].states.shape[-1] for n, one in (extra or {}).items()},
        ),
        train=parts["train"],
        val=parts["val"],
        test=parts.get("test"),
        classes=classes,
        channels=channels,
        mean=mean,
        std=std,
        notes=notes,
        split=split,
        val_from_train=not borrow and "val" not in raws,
    )


def forecasting(
    name: str,
    tables: dict[str, Table],
    context: int | None,
    horizon: int | None,
    stride: int | None,
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
        stride: rows from one window to the next in training and validation; None means 1
        fraction: share of the rows to validate on, if "test" is a table of its own and "val" is not
        borrow: validate on the test part
        scale: "standard" or "none"
    """
    for option, value in (("context", context), ("horizon", horizon), ("stride", stride)):
        if value is not None and value < 1:
            raise OptionError(f"--{option} {value}: expected at least 1")
    context, horizon = context or 96, horizon or 96
    first = tables["train"]
    for table in tables.values():
        _same_columns(table, first.channels)
    rows, whole = len(first.values), _tensor(first)
    ends, split = ends_of(tables, fraction)
    parts: dict[str, Windows] = {}
    for part, start, stop in zip(PARTS, (0, *ends), ends, strict=False):
        step = 1 if part == "test" else stride or 1
        if part in tables and part != "train":
            parts[part] = _windows(_tensor(tables[part]), context, horizon, tables[part].source, step)
        else:
            span = whole[:, max(start - context, 0) : stop]
            parts[part] = _windows(span, context, horizon, f"{first.source}, {part} rows {start} to {stop}", step)
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
        notes=notes + _missing(parts),
        split=split,
    )


def _told(part: Labelled, name: str) -> str:
    """What must be said of something that knows the labels."""
    if part.y is None:
        return ""
    kinds = part.extra[name].kinds()
    often = torch.bincount(kinds)[kinds] > 1
    told = {*zip(kinds[often].tolist(), part.y[often].tolist(), strict=True)}
    if 2 * often.sum() < len(kinds) or len(told) > len({kind for kind, _ in told}):
        return ""
    return "gives the label away: equal ones have equal labels; what is scored with it knows the answers"


def part_like(data: Raw | Table, like: dict[str, Any], future: bool) -> Part:
    """One part, read as a trained model expects it.

    Args:
        data: what a reader handed over
        like: from `Dataset.like`; with "any_length" series may be longer than those it was trained on
        future: of a table, keep the rows to forecast as truth
    """
    table = isinstance(data, Table)
    if isinstance(data, Table) and like["task"] == "unlabelled":
        data, table = windows_of(data, like["length"], like["length"]), False
    if table != (like["task"] == "forecasting"):
        have, want = ("a table", "series") if table else ("a set of series", "a table")
        raise DataError(f"{data.source}: this is {have}, but the model was trained on {want}")
    if isinstance(data, Raw):
        names = tuple(like["channels"])
        if like.get("univariate"):  # any channels will do
            names = data.channels or _numbered(data.x.shape[1])
        return _labelled(data, names, tuple(like["classes"]), None if like.get("any_length") else like["length"])
    _same_columns(data, tuple(like["channels"]))
    return _windows(_tensor(data), like["length"], like["horizon"] if future else 0, data.source)


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(str(i) for i in range(count))


def _tensor(table: Table) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(table.values.T))


def _sources(raws: dict[str, Raw]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(raw.source for raw in raws.values()))


def _same_columns(table: Table, channels: tuple[str, ...]) -> None:
    if table.channels != channels:
        raise DataError(f"{table.source}: columns {', '.join(table.channels)}; expected {', '.join(channels)}")


def _windows(table: Tensor, context: int, horizon: int, source: str, stride: int = 1) -> Windows:
    need, have = context + horizon, table.shape[1]
    if have < need:
        raise DataError(
            f"{source}: --context {context} and --horizon {horizon} take {need} rows, and there are {have}, "
            "counting what may be looked back at; shorten one of them"
        )
    return Windows(table, context, horizon, stride)


def _scale(x: Tensor | Stored, scale: str) -> tuple[Tensor, Tensor]:
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


def _labelled(raw: Raw, names: tuple[str, ...], classes: tuple[str, ...], length: int | None) -> Labelled:
    """Series checked against the channels, the classes and the length, if it matters, that are known from training."""
    if raw.x.shape[1] != len(names):
        raise DataError(f"{raw.source}: {raw.x.shape[1]} channels; training has {len(names)}: {', '.join(names)}")
    if raw.channels != names and sorted(raw.channels) == sorted(names):
        raise DataError(f"{raw.source}: channels in another order than in training: {', '.join(names)}")
    part = Labelled(raw.x if isinstance(raw.x, Stored) else torch.from_numpy(raw.x), groups=raw.groups)
    if length is not None and (longest := int(part.lengths.max())) > length:
        at = int(part.lengths.argmax()) + 1
        raise DataError(f"{raw.source}: series {at} has {longest} samples; the model takes {length}")
    if raw.y is not None and classes:
        if unknown := sorted(set(raw.y) - set(classes)):
            raise DataError(
                f"{raw.source}: class {', '.join(map(repr, unknown))} does not occur in training, "
                f"whose classes are {', '.join(classes)}"
            )
        part.y = torch.tensor([classes.index(label) for label in raw.y])
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


def _missing(parts: Mapping[str, Part]) -> list[str]:
    """A sentence for each part with missing values."""
    counts = {part: missing(one) for part, one in parts.items()}
    return [f"{count} missing values in {part}" for part, count in counts.items() if count]
