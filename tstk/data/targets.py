"""The targets of series: which task they allow, the names of what is predicted, and their encoding as `Series.y`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tstk.core.task import TargetType, find_task, get_task
from tstk.core.types import Spec
from tstk.data.config import DataConfig
from tstk.data.containers import SeriesSet, sort_names
from tstk.data.datasets import SeriesDataset
from tstk.errors import DataError, OptionError

LABEL_AS_NUMBER = ("label",)
"""Names of the targets where numbers in the place of labels are predicted."""


def infer_task(train: SeriesSet, config: DataConfig) -> tuple[str | None, str]:
    """Return the task of a training split, None if it has no targets, and a note for the user on what was inferred.

    Args:
        train: the training split
        config: `task` decides, where it is given

    Raises:
        OptionError: the task needs targets that the split does not have
    """
    has_labels, has_numbers = train.y is not None, train.targets is not None
    if config.task is not None:
        task = get_task(config.task)
        available = {"class": has_labels, "labels": has_numbers, "numbers": has_numbers or has_labels, "future": False}
        available["sample-class"] = train.sample_labels is not None
        if not available[task.target_type]:
            missing = f"{task.requirement}, which {train.source} lacks"
            raise OptionError(f"--task {config.task}: needs {missing}; {task.remedy}")
        return config.task, ""
    if train.sample_labels is not None:
        return find_task("sample-class"), ""
    if train.targets is None and train.y is not None:
        note = "the labels are decimal numbers, taken as classes; --task regression predicts them as numbers"
        return find_task("class"), note * any(map(_is_decimal, set(train.y)))
    if train.targets is None:
        return None, ""
    names = ", ".join(infer_names(train, "numbers"))
    ignored = "; the labels are not used, --task classification predicts them" if has_labels else ""
    is_binary = bool(np.isin(train.targets[~np.isnan(train.targets)], (0, 1)).all())
    if is_binary and train.targets.shape[1] > 1:
        remedy = f"{ignored}; --task regression predicts them as numbers"
        return find_task("labels"), f"the targets {names} are 0 or 1, so they are taken as several labels{remedy}"
    hint = "; --task multilabel predicts the probability of its 0 and 1" * is_binary
    return find_task("numbers"), f"the task is regression of {names}{hint}{ignored}"


def infer_names(train: SeriesSet, target_type: TargetType) -> tuple[str, ...]:
    """Return the names of the classes, labels or numbers that a training split has."""
    if target_type == "class":
        return _infer_classes(train)
    if target_type == "sample-class":
        assert train.sample_labels is not None
        return tuple(train.classes[i] for i in np.unique(train.sample_labels).tolist() if i >= 0)
    if train.targets is None:
        return LABEL_AS_NUMBER
    return train.target_names or tuple(str(i) for i in range(train.targets.shape[1]))


def _is_decimal(label: str) -> bool:
    try:
        return not float(label).is_integer()
    except (ValueError, OverflowError):
        return False


def _infer_classes(train: SeriesSet) -> tuple[str, ...]:
    """Return the classes that occur in training: in the order that the file declares, else by number, else by name."""
    present = set(train.y or ())
    if train.classes:
        return tuple(name for name in train.classes if name in present)
    return sort_names(present)


def split_label_cells(series_set: SeriesSet, separator: str, names: tuple[str, ...] = ()) -> SeriesSet:
    """Return series whose labels, several in a cell, have become one target of 0 or 1 per label.

    Args:
        series_set: with labels such as "walk;run"
        separator: what is between the labels of a cell; a cell that holds nothing else means none of them
        names: labels of the training split; those of this split if empty

    Raises:
        DataError: there are no labels, or one does not occur in training
    """
    if series_set.y is None:
        return series_set
    unlabelled = series_set.missing_labels
    cells = [{part.strip() for part in cell.split(separator)} - {"", *unlabelled} for cell in series_set.y]
    present = set().union(*cells)
    names = names or sort_names(present)
    if not names:
        raise DataError(f"{series_set.source}: no series has a label; check --label-separator {separator}")
    if unknown := sorted(present - set(names)):
        raise DataError(
            f"{series_set.source}: label {', '.join(map(repr, unknown))} does not occur in training, "
            f"whose labels are {', '.join(names)}"
        )
    targets = np.array([[name in cell for name in names] for cell in cells], np.float64)
    targets[[cell in unlabelled for cell in series_set.y]] = np.nan
    return replace(series_set, y=None, classes=(), targets=targets, target_names=names)


def encode_targets(series_set: SeriesSet, target_type: TargetType, names: tuple[str, ...]) -> Tensor | None:
    """Return targets as in `Series.y`; None if the series have none of this type.

    Args:
        series_set: the series
        target_type: that of the task
        names: classes, labels or numbers of the training split

    Raises:
        DataError: they do not match those of the training split
    """
    if target_type == "class":
        return _encode_classes(series_set, names)
    if target_type == "sample-class":
        return _encode_sample_classes(series_set, names)
    if (
        target_type == "numbers"
        and series_set.targets is None
        and series_set.y is not None
        and names == LABEL_AS_NUMBER
    ):
        return torch.from_numpy(_parse_labels(series_set))[:, None]
    if target_type == "future" or series_set.targets is None:
        return None
    targets = torch.from_numpy(_order_targets(series_set, names))
    if target_type == "numbers":
        return targets
    if bad := ((targets != 0) & (targets != 1) & ~targets.isnan()).any(1).nonzero().flatten().tolist():
        values = ", ".join(f"{value:g}" for value in targets[bad[0]].tolist())
        raise DataError(
            f"{series_set.source}: series {bad[0] + 1} has the labels {values}; expected 1 or 0 for each of "
            f"{', '.join(names)}, or an empty cell"
        )
    return targets.nan_to_num(-1).long()


def _encode_classes(series_set: SeriesSet, classes: tuple[str, ...]) -> Tensor | None:
    if series_set.y is None:
        return None
    missing = series_set.missing_labels - set(classes)
    if unknown := sorted(set(series_set.y) - set(classes) - missing):
        raise DataError(
            f"{series_set.source}: class {', '.join(map(repr, unknown))} does not occur in training, "
            f"whose classes are {', '.join(classes)}"
        )
    class_index = {name: i for i, name in reversed(list(enumerate(classes)))}
    return torch.tensor([class_index.get(label, -1) for label in series_set.y])


def _encode_sample_classes(series_set: SeriesSet, classes: tuple[str, ...]) -> Tensor | None:
    """Return [N, T] long, by the classes of training."""
    labels = series_set.sample_labels
    if labels is None:
        return None
    index = np.array([*(classes.index(n) if n in classes else -2 for n in series_set.classes), -1])
    encoded = index[labels]
    if (bad := np.argwhere(encoded == -2)).size:
        row, sample = bad[0].tolist()
        raise DataError(
            f"{series_set.source}: class {series_set.classes[labels[row, sample]]!r}, at "
            f"{series_set.locate_sample(row, sample)}, does not occur in training, whose classes are "
            f"{', '.join(classes)}"
        )
    return torch.from_numpy(encoded)


def _parse_labels(series_set: SeriesSet) -> NDArray[np.float64]:
    """Return labels that are numbers, [N], NaN where missing."""
    assert series_set.y is not None
    numbers = np.array([_parse_number(label) for label in series_set.y])
    missing = series_set.missing_labels
    is_missing = np.array([label in missing for label in series_set.y])
    if bad := np.flatnonzero(np.isnan(numbers) & ~is_missing).tolist():
        raise DataError(f"{series_set.source}: label {series_set.y[bad[0]]!r} of series {bad[0] + 1} is not a number")
    return numbers


def _parse_number(label: str) -> float:
    try:
        number = float(label)
    except ValueError:
        return np.nan
    return number if np.isfinite(number) else np.nan


def _order_targets(series_set: SeriesSet, names: tuple[str, ...]) -> NDArray[np.float64]:
    """Return targets [N, K] in the order of those of the training split."""
    targets = np.asarray(series_set.targets, np.float64)
    own_names = infer_names(series_set, "numbers")
    if sorted(own_names) != sorted(names):
        raise DataError(f"{series_set.source}: targets {', '.join(own_names)}; training has {', '.join(names)}")
    return np.ascontiguousarray(targets[:, [own_names.index(name) for name in names]])


def match_targets(series_set: SeriesSet, input_schema: dict[str, Any]) -> SeriesSet:
    """Return series for a trained model with the targets that it predicts, in their order; NaN where they have none.

    Args:
        series_set: of other data than those of the training; its note says what is missing and what is not used
        input_schema: from `DataModule.input_schema` of the training data
    """
    names = tuple(input_schema["classes"] or input_schema["target_names"])
    target_type = None if input_schema["task"] is None else get_task(input_schema["task"]).target_type
    unlabelled = series_set.missing_labels
    if unlabelled and target_type not in (None, "sample-class", "future"):
        labels = series_set.y or []
        count = sum(label in unlabelled for label in labels)
        note = f"{count:,} of {len(labels):,} series have no label; metrics leave them out"
        series_set = replace(series_set, note="; ".join(filter(None, (series_set.note, note))))
    if target_type not in ("labels", "numbers") or names == LABEL_AS_NUMBER or input_schema.get("label_separator"):
        return series_set
    if series_set.targets is None:
        if series_set.y is None:
            return series_set
        note = f"the labels are not used: the run predicts {', '.join(names)}"
        return replace(series_set, y=None, classes=(), note="; ".join(filter(None, (series_set.note, note))))
    own_names = infer_names(series_set, "numbers")
    if sorted(own_names) == sorted(names):
        return series_set
    missing, unused = ([n for n in a if n not in b] for a, b in ((names, own_names), (own_names, names)))
    notes = [series_set.note] * bool(series_set.note)
    if missing:
        notes.append(f"no targets {', '.join(missing)}: they are predicted, and metrics leave them out")
    if unused:
        notes.append(f"the targets {', '.join(unused)} are not used: the run predicts {', '.join(names)}")
    note = "; ".join(notes)
    if len(missing) == len(names):
        return replace(series_set, targets=None, target_names=(), note=note)
    values = np.asarray(series_set.targets, np.float64)
    absent = np.full(len(values), np.nan)
    columns = [values[:, own_names.index(name)] if name in own_names else absent for name in names]
    return replace(series_set, targets=np.stack(columns, 1), target_names=names, note=note)


def count_classes(y: Tensor | None, spec: Spec) -> tuple[int, ...]:
    """Return the number of series, or samples, of each class; () if the targets are not classes."""
    num_outputs = spec.num_outputs
    has_classes = spec.task is not None and get_task(spec.task).target_type in ("class", "sample-class")
    if y is None or not has_classes or not num_outputs:
        return ()
    return tuple(torch.bincount(y[y >= 0], minlength=num_outputs).tolist())


def get_strata(y: Tensor | None, num_series: int) -> NDArray[np.int64]:
    """Return [N], by which splits are stratified: the class of each series, or 0 if targets are not classes."""
    return y.numpy() if y is not None and y.ndim == 1 else np.zeros(num_series, np.int64)


def describe_targets(y: Tensor, names: tuple[str, ...], per_sample: bool = False) -> dict[str, Any]:
    """Return the counts of classes (of series or samples) or labels, or the ranges of numbers, of a split."""
    if per_sample:
        counts = torch.bincount(y[y >= 0], minlength=len(names)).tolist()
        return {"sample_classes": dict(zip(names, counts, strict=True))}
    if y.ndim == 1:
        return {"classes": dict(zip(names, torch.bincount(y[y >= 0], minlength=len(names)).tolist(), strict=True))}
    if not y.is_floating_point():
        return {"labels": dict(zip(names, (y == 1).sum(0).tolist(), strict=True))}
    return {"targets": dict(zip(names, map(_describe_numbers, y.T), strict=True))}


def _describe_numbers(values: Tensor) -> dict[str, float | int | None]:
    known = values[~values.isnan()]
    if not len(known):
        return {"min": None, "mean": None, "max": None, "missing": len(values)}
    return {
        "min": float(known.min()),
        "mean": float(known.mean()),
        "max": float(known.max()),
        "missing": len(values) - len(known),
    }


def describe_unknown(dataset: SeriesDataset, split: str) -> list[str]:
    """Return a note if targets that are numbers, labels or classes of samples are unknown."""
    y = dataset.y
    if y is None or y.ndim == 1:
        return []
    unknown, total = y.isnan() if y.is_floating_point() else y < 0, y.numel()
    if dataset.has_class_per_sample:
        unknown &= torch.arange(y.shape[1]) < dataset.lengths[:, None]
        total = int(dataset.lengths.sum())
    if not (count := int(unknown.sum())):
        return []
    return [f"{count} of {total} targets are unknown in {split}; losses and metrics leave them out"]
