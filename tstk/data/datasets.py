"""A part of a data set, ready to be indexed a batch at a time: `Labelled` series, or `Windows` over a table.

Values are raw; NaN marks what is not there until a batch is made. Symbols: N series or windows, B batch, C channels,
T samples, H horizon.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tstk.core.types import Series
from tstk.data.lazy_array import Stored, chunks


class Part(Protocol):
    """What training, validation and test data have in common.

    Args:
        lengths: [N] long, samples up to and including the last observed one
        y: [N] long class index, or None
        groups: N names of what was not to be torn apart by a split, or None
    """

    lengths: Tensor
    y: Tensor | None
    groups: list[str] | None

    def __len__(self) -> int: ...

    def batch(self, index: Tensor) -> Series:
        """The series at `index` [B] long; `key` of the result is `index`."""


@dataclass
class Extra:
    """What else the samples of a part bring, such as texts; equal ones are held once.

    Args:
        states: [U, S, D] float32
        valid: [U, S] bool
        rows: [N] long, which of the U each sample has
    """

    states: Tensor
    valid: Tensor
    rows: Tensor

    def take(self, index: Tensor) -> Extra:
        """Of the samples at `index` [B] long."""
        return Extra(self.states, self.valid, self.rows[index])

    def kinds(self) -> Tensor:
        """[N] long, equal where samples bring the same."""
        whole = (self.states * self.valid[..., None]).flatten(1)
        return whole.unique(dim=0, return_inverse=True)[1][self.rows]


class Labelled:
    """Series with or without labels, held as one tensor or left in their file.

    Args:
        x: [N, C, T] samples, NaN where missing or beyond the end
        y: [N] long class index, or None
        groups: N names, or None
        extra: what else they bring, by name
    """

    def __init__(
        self,
        x: Tensor | Stored,
        y: Tensor | None = None,
        groups: list[str] | None = None,
        extra: dict[str, Extra] | None = None,
    ) -> None:
        self.x, self.y, self.groups, self.extra = x, y, groups, extra or {}
        ends = torch.arange(1, x.shape[2] + 1)
        self.lengths = torch.empty(len(x), dtype=torch.long)  # filled in place: many small results tear up the heap
        at = 0
        for chunk in chunks(x):
            some = ~torch.as_tensor(chunk).isnan().all(1)
            self.lengths[at : at + len(some)] = (some * ends).amax(1)
            at += len(some)

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, index: Tensor) -> Series:
        """The series at `index` [B] long, cropped to the longest among them.

        A sample that is missing or beyond the end is 0 in `x` and False in `observed`.
        """
        x, observed = _observed(torch.as_tensor(self.x[index, :, : int(self.lengths[index].max())]))
        extra = {k: (e.states[e.rows[index]], e.valid[e.rows[index]]) for k, e in self.extra.items()}
        return Series(x, observed, None if self.y is None else self.y[index], index, extra)

    def take(self, index: Tensor) -> Labelled:
        """The part that holds only the series at `index` [B] long."""
        part = copy(self)
        part.x = self.x.take(index) if isinstance(self.x, Stored) else self.x[index]
        part.y = None if self.y is None else self.y[index]
        part.groups = None if self.groups is None else [self.groups[i] for i in index.tolist()]
        part.lengths = self.lengths[index]
        part.extra = {k: e.take(index) for k, e in self.extra.items()}
        return part


class Repeated:
    """Series of another part, some of them more than once; nothing is copied.

    Args:
        of: the part
        rows: [N] long, which of its series
    """

    y: Tensor | None = None
    groups: list[str] | None = None

    def __init__(self, of: Labelled, rows: Tensor) -> None:
        self.of, self.rows, self.lengths = of, rows, of.lengths[rows]

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, index: Tensor) -> Series:
        """The series at `index` [B] long; a repeated one has a key of its own each time."""
        return self.of.batch(self.rows[index]).but(y=None, key=index)


class Generated:
    """Series that are made when a batch asks for them, of one length and without labels.

    Args:
        make: numbers of series [B] long -> their samples [B, C, T]
        count: number of series
        length: samples of each
        first: number of the first one
    """

    y: Tensor | None = None
    groups: list[str] | None = None

    def __init__(self, make: Callable[[Tensor], Tensor], count: int, length: int, first: int = 0) -> None:
        self.make, self.first, self.lengths = make, first, torch.full((count,), length)

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, index: Tensor) -> Series:
        """The series at `index` [B] long."""
        return Series(self.make(self.first + index), key=index)


class Windows:
    """Windows of `context` rows, each with the `horizon` rows that follow it; a view, nothing is copied.

    Args:
        table: [C, T] samples, NaN where missing
        context: samples to see
        horizon: samples to forecast; 0 gives windows without a future
        stride: rows from one window to the next; all windows that there are unless given
    """

    y: Tensor | None = None
    groups: list[str] | None = None

    def __init__(self, table: Tensor, context: int, horizon: int, stride: int = 1) -> None:
        self.table, self.context, self.horizon = table, context, horizon
        self.view = table.unfold(1, context + horizon, stride)
        self.lengths = torch.full((len(self),), context)

    def __len__(self) -> int:
        return self.view.shape[1]

    def batch(self, index: Tensor) -> Series:
        """The windows at `index` [B] long.

        `y` is the future [B, C, H]; a missing future sample stays NaN in it, so `~y.isnan()` says what counts.
        """
        rows = self.view[:, index].transpose(0, 1)
        x, observed = _observed(rows[..., : self.context].contiguous())
        return Series(x, observed, rows[..., self.context :].contiguous() if self.horizon else None, index)


def _observed(x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Samples with zeros for NaN, and where they are real; None if everywhere."""
    missing = x.isnan()
    if not missing.any():
        return x, None
    return x.masked_fill(missing, 0.0), ~missing
