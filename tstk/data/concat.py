"""Several data sets to learn from together: each channel of each series becomes a series of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from tstk.core.types import Spec
from tstk.data.data_module import Dataset
from tstk.data.datasets import Labelled, Part, Repeated
from tstk.errors import DataError


def joint(sets: Sequence[Dataset]) -> Dataset:
    """One unlabelled data set of one channel. In training, series of smaller sets are repeated until all sets have as
    many as the largest; each set is scaled by its own statistics and split as it would be alone.

    Raises:
        DataError: a table to forecast is among them, or the same set twice
    """
    names = [one.name for one in sets]
    if with_more := [one.name for one in sets if one.spec.extra]:
        raise DataError(f"{with_more[0]}: what its samples bring (--extra) is not for single channels")
    if twice := [name for name in names if names.count(name) > 1]:
        raise DataError(f"{twice[0]}: given twice")
    for one in sets:
        if one.task == "forecasting":
            raise DataError(f"{one.name}: a table to forecast, which cannot be joined with other data")
    length = max(one.spec.length for one in sets)
    parts = {name: [_flat(one, name, length) for one in sets] for name in ("train", "val", "test")}
    counts = [len(x) for x in parts["train"]]
    train, val, test = (Labelled(torch.cat(found)) for found in parts.values())
    rows = _balanced(counts)
    told = ", ".join(f"{one.name} {count:,}" for one, count in zip(sets, counts, strict=True))
    notes = [f"every channel is a series of its own, without labels: {told}"]
    if len(sets) > 1:
        notes.append(f"series of smaller sets are repeated: each set counts as {max(counts):,}")
    for one in sets:
        if one.resize is None and one.spec.length < length:
            notes.append(
                f"{one.name} has {one.spec.length} samples and the longest {length}; --resize makes them equal"
            )
    return Dataset(
        name=",".join(names),
        source=tuple(file for one in sets for file in one.source),
        task="unlabelled",
        spec=Spec(channels=1, length=length),
        train=Repeated(train, rows),
        val=val,
        test=test if len(test) else None,
        classes=(),
        channels=("any",),
        mean=torch.zeros(1),
        std=torch.ones(1),
        notes=notes,
        split="; ".join(f"{one.name}: {one.split}" for one in sets),
        resize=sets[0].resize,
        univariate=True,
    )


def _flat(data: Dataset, name: str, length: int) -> Tensor:
    """[N * C, 1, length] the channels of a part, scaled; channels without a sample are left out."""
    part: Part | None = data.parts.get(name)
    if part is None:
        return torch.zeros(0, 1, length)
    assert isinstance(part, Labelled)
    x = ((torch.as_tensor(part.x[:]) - data.mean[:, None]) / data.std[:, None]).flatten(0, 1)
    x = x[~x.isnan().all(1)]
    return F.pad(x, (0, length - x.shape[1]), value=torch.nan)[:, None]


def _balanced(counts: Sequence[int]) -> Tensor:
    """Rows of sets that lie one after the other: of each set as many as the largest has, its own over and over."""
    most, rows, start = max(counts), [], 0
    for count in counts:
        rows.append(start + torch.arange(most) % count)
        start += count
    return torch.cat(rows)
